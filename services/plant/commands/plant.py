"""``sluice plant``: the simulated factory and an emulated Kubernetes API, for services that run elsewhere.

What ``docker-compose up`` puts in place of a cluster.  The scenario is played over and over; every
five seconds a line on standard output says how the factory fares, by the plant's own ground truth.
"""

import asyncio
import time
from contextlib import ExitStack
from functools import partial

import click

from schemas.domain import Domain
from services.plant.harness.bandwidth_agent import Agent, Enforced
from services.plant.harness.manifests import manifests
from services.plant.harness.metrics_page import MetricsPage
from services.plant.harness.run import Run, play
from services.plant.interface import Second
from services.plant.kube_emulator.emulator import Emulator
from services.plant.scenario import SCENARIOS, Scenario
from services.plant.score import is_bad
from services.plant.simulated.plant import SimulatedPlant
from services.plant.simulated.realtime import RealtimePlant
from services.runtime import service

_LOOK_S = 5.0


def line(seconds: list[Second], domain: Domain) -> str:
    """What some seconds of ground truth come to, for a person."""
    bad = sum(is_bad(second, domain) for second in seconds)
    p95 = max((one.p95 or 0.0 for second in seconds for one in second.critical.values()), default=0.0)
    goodput = sum(sum(second.goodput.values()) for second in seconds) / len(seconds)
    return f"{len(seconds)} s: {bad} bad, worst P95 {p95 * 1e3:.2f} ms, best effort {goodput / 1e3:.1f} Mbit/s"


async def serve(scenario: Scenario, seed: int, host: str, api_port: int, metrics_port: int) -> None:
    """Serve the API and the metrics page until cancelled.

    Raises:
        OSError: a port is taken.
    """
    plant = RealtimePlant(SimulatedPlant.for_apps(scenario.apps, seed=seed, start=time.time_ns()))
    domain = scenario.domain()
    run = Run(scenario.name, scenario, domain, plant, controlled=True)
    emulator = Emulator(host=host, port=api_port)
    emulator.apply(manifests(scenario.apps, domain))
    with ExitStack() as stack:
        page = stack.enter_context(MetricsPage([plant], host, metrics_port))
        async with emulator as api, asyncio.TaskGroup() as group:
            agent = Agent(api, [plant], on_enforced=_say)
            group.create_task(agent.run())
            await agent.limited()
            click.echo(f"Kubernetes API on {api}, metrics on {page.url}, scenario {scenario.name}")
            group.create_task(_report(plant, domain))
            while True:
                await play([run], time.time_ns(), partial(setattr, page, "blind"))


def _say(change: Enforced) -> None:
    limit = "no limit" if change.kbit is None else f"{change.kbit} kbit/s"
    click.echo(f"{change.pod}: {limit}")


async def _report(plant: RealtimePlant, domain: Domain) -> None:
    while True:
        await asyncio.sleep(_LOOK_S)
        if seconds := list(plant.take_seconds()):
            click.echo(line(seconds, domain))


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--api-port", default=8001, show_default=True, help="Port of the emulated Kubernetes API.")
@click.option("--metrics-port", default=9965, show_default=True, help="Port of the metrics page.")
@click.option(
    "--scenario", "name", type=click.Choice(sorted(SCENARIOS)), default="demo", show_default=True, help="To play."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of all that is random in the plant.")
def command(host: str, api_port: int, metrics_port: int, name: str, seed: int) -> None:
    """Serve a simulated factory and an emulated Kubernetes API to services that run elsewhere."""
    try:
        service.run(serve(SCENARIOS[name], seed, host, api_port, metrics_port))
    except OSError as error:
        raise click.ClickException(f"ports {api_port} and {metrics_port} of {host}: {error.strerror}") from None
