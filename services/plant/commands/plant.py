"""``sluice plant``: the simulated factory and an emulated Kubernetes API, for services that run elsewhere.

``docker-compose up`` uses it in place of a cluster.  It plays the scenario over and over, and prints a
summary of the plant's own ground truth every five seconds.
"""

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random

import click

from schemas.domain import Domain
from services.plant.harness.bandwidth_agent import BandwidthAgent, EnforcedLimit
from services.plant.harness.manifests import build_manifests
from services.plant.harness.metrics_page import MetricsPage
from services.plant.harness.run import ScenarioRun, play_events
from services.plant.interface import Second
from services.plant.kube_emulator.emulator import Emulator
from services.plant.scenario import SCENARIOS, Scenario
from services.plant.score import is_bad
from services.plant.simulated.plant import SimulatedPlant
from services.plant.simulated.realtime import RealtimePlant
from services.plant.traces import TraceError, read_traces
from services.runtime import service

_REPORT_EVERY_S = 5.0


def format_seconds(seconds: list[Second], domain: Domain) -> str:
    """Summarize some seconds of ground truth in a line."""
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
    run = ScenarioRun(scenario.name, scenario, domain, plant, controlled=True)
    emulator = Emulator(host=host, port=api_port)
    emulator.apply(build_manifests(scenario.apps, domain))

    def report_change(change: EnforcedLimit) -> None:
        click.echo(f"{change.pod}: {'no limit' if change.kbit is None else f'{change.kbit} kbit/s'}")

    async def report_seconds() -> None:
        while True:
            await asyncio.sleep(_REPORT_EVERY_S)
            if seconds := list(plant.take_seconds()):
                click.echo(format_seconds(seconds, domain))

    with ExitStack() as stack:
        page = stack.enter_context(MetricsPage([plant], host, metrics_port))
        async with emulator as api, asyncio.TaskGroup() as group:
            agent = BandwidthAgent(api, [plant], on_change=report_change)
            group.create_task(agent.run())
            await agent.wait_until_enforced()
            click.echo(f"Kubernetes API on {api}, metrics on {page.url}, scenario {scenario.name}")
            group.create_task(report_seconds())
            while True:
                await play_events([run], time.time_ns(), page.disturb)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--api-port",
    type=click.IntRange(0, 65535),
    default=8001,
    show_default=True,
    help="Port of the emulated Kubernetes API.",
)
@click.option(
    "--metrics-port", type=click.IntRange(0, 65535), default=9965, show_default=True, help="Port of the metrics page."
)
@click.option(
    "--scenario",
    "name",
    default="demo",
    show_default=True,
    help=f"What to play: {', '.join(sorted(SCENARIOS))}, or a trace's path in the folder of --traces.",
)
@click.option(
    "--traces",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with traces of links and loads.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the plant's random numbers."
)
def command(*, host: str, api_port: int, metrics_port: int, name: str, traces: Path | None, seed: int) -> None:
    """Serve a simulated factory and an emulated Kubernetes API to services that run elsewhere."""
    try:
        scenarios = dict(SCENARIOS)
        if traces is not None:
            scenarios |= {one.name: one.scenario(Random(seed)) for one in read_traces(traces)}  # noqa: S311 - a moment
        if name not in scenarios:
            raise click.BadParameter(f"there is no {name!r}; there are {', '.join(scenarios)}", param_hint="--scenario")
        service.run(serve(scenarios[name], seed, host, api_port, metrics_port))
    except TraceError as error:
        raise click.BadParameter(str(error), param_hint="--traces") from None
    except OSError as error:
        raise click.ClickException(f"ports {api_port} and {metrics_port} of {host}: {error.strerror}") from None
