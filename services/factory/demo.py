"""``sluice demo``: the whole pipeline on one machine without root, a cluster or Docker.

Real: the three services as processes, NATS JetStream, HTTP, the Kubernetes API's protocol.  Emulated:
the API server and the packets, by a queue model that was fitted to real ones.  Every compared run has
a plant of its own with the same seed; all controlled ones share the pipeline.
"""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import click
import structlog
from msgspec import Struct
from rich.console import Console

from schemas.config import Config, Kubernetes
from schemas.messages import Action, Decision
from services.bus.jetstream import Bus
from services.control import POLICIES
from services.factory.agent import Agent, Enforced
from services.factory.cluster import manifests
from services.factory.contest import Run, play
from services.factory.emulator import Emulator
from services.factory.exposition import MetricsPage
from services.factory.live import Live
from services.factory.model import Model
from services.factory.pipeline import NotReady, configuration, scraping, start_nats, start_services
from services.factory.processes import ProcessDied, Processes
from services.factory.report import Report, table
from services.factory.scenario import SCENARIOS, Scenario
from services.factory.topology import NAMESPACE
from services.factory.view import View, view_of

NO_CONTROL = "no control"
_WARM_UP_S = 2.0
_LOOK_S = 0.25
_LIMITED_S = 30.0


class Options(Struct, frozen=True):
    """What the command line asks for."""

    scenario: Scenario
    policies: tuple[str, ...]
    """One controlled run each; the first is the one in question."""
    seed: int = 1
    keep: Path | None = None
    """Where files and logs stay; None: they go."""


def _runs(options: Options) -> list[Run]:
    """One run without control and one a policy, each on a twin of the same plant."""
    start = time.time_ns()
    runs = []
    for number, policy in enumerate((None, *options.policies)):
        # The first policy's run has the plain names; its twins live in namespaces of their own.
        scenario = options.scenario if number < 2 else options.scenario.within(f"{NAMESPACE}-{policy}")
        domain = scenario.domain(policy or options.policies[0], name="floor" if number < 2 else f"floor-{policy}")
        plant = Live(Model.of(scenario.apps, seed=options.seed, start=start))
        runs.append(Run(policy or NO_CONTROL, scenario, domain, plant, controlled=policy is not None))
    return runs


async def demonstrate(options: Options, console: Console) -> tuple[Report, bool]:
    """Play the scenario; gives the result, and whether it was played to its end.

    Raises:
        NotReady: a part did not come up.
        ProcessDied: a part ended early.
    """
    runs = _runs(options)
    with view_of(console, runs) as view:
        complete = await _until_stopped(_demonstrated(options, runs, view))
    for run in runs:
        run.observe()
    scores = {run.title: run.score() for run in runs}
    return Report(options.scenario.name, "simulated", options.scenario.seconds, scores), complete


async def _demonstrated(options: Options, runs: Sequence[Run], view: View) -> None:
    controlled = [run for run in runs if run.controlled]
    async with AsyncExitStack() as stack:
        view.say("Starting nats-server, an emulated Kubernetes API and the three services ...")
        processes = await stack.enter_async_context(Processes(options.keep))
        _log_to(stack.enter_context((processes.home / "demo.log").open("w", encoding="utf-8")))
        page = stack.enter_context(MetricsPage([run.plant for run in controlled]))
        emulator = Emulator()
        api = await stack.enter_async_context(emulator)
        for run in controlled:
            emulator.apply(manifests(run.scenario.apps, run.domain))
        agent = await stack.enter_async_context(_agent(api, controlled))
        nats = await start_nats(processes)
        config = configuration([run.domain for run in controlled], nats, Kubernetes(server=api), scraping([page.url]))
        await start_services(config, processes)
        await stack.enter_async_context(_heard(config, controlled))
        async with asyncio.timeout(_LIMITED_S):
            await agent.limited()
        started = time.time_ns() + round(_WARM_UP_S * 1e9)
        for run in runs:
            run.begin(started)
        await _played(runs, view, page, processes)
        for run in controlled:
            run.restarts = sum(agent.restarts(target.key) for target in run.domain.targets)
        view.say("Stopping ...")


def _log_to(file: TextIO) -> None:
    """The screen belongs to the view: what this process logs goes where the others' logs are."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(file))


async def _played(runs: Sequence[Run], view: View, page: MetricsPage, processes: Processes) -> None:
    """Until the scenario is over, or a process ends early."""
    started = runs[0].started or 0
    looking = asyncio.create_task(_look(runs, view, started))
    watching = asyncio.create_task(processes.watch())
    playing = asyncio.create_task(play(runs, started, partial(setattr, page, "blind")))
    tasks = (looking, watching, playing)
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        # The last second is known only once its bin is full.
        await asyncio.sleep(1.0)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _look(runs: Sequence[Run], view: View, started: int) -> None:
    while True:
        view.show((time.time_ns() - started) / 1e9, [run.observe() for run in runs])
        await asyncio.sleep(_LOOK_S)


@asynccontextmanager
async def _agent(api: str, controlled: Sequence[Run]) -> AsyncIterator[Agent]:
    runs = {target.key: run for run in controlled for target in run.domain.targets}

    def enforced(change: Enforced) -> None:
        runs[change.target].enforced(change)

    agent = Agent(api, [run.plant for run in controlled], on_enforced=enforced)
    task = asyncio.create_task(agent.run())
    try:
        yield agent
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def _heard(config: Config, controlled: Sequence[Run]) -> AsyncIterator[None]:
    """Follow the bus for the runs' decisions and actions."""
    runs = {run.domain.name: run for run in controlled}

    async def decisions(bus: Bus) -> None:
        async with aclosing(bus.consume(Decision, None, "demo", start="new")) as messages:
            async for received in messages:
                runs[received.message.domain].decided(received)

    async def actions(bus: Bus) -> None:
        async with aclosing(bus.consume(Action, None, "demo", start="new")) as messages:
            async for received in messages:
                runs[received.message.domain].action = received.message

    async with Bus.connected(config.bus, "demo", lambda _: None) as bus:
        tasks = [asyncio.create_task(decisions(bus)), asyncio.create_task(actions(bus))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _until_stopped(work: Coroutine[Any, Any, None]) -> bool:
    """Do the work; False when SIGINT or SIGTERM ended it, in order, before it was done."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True


@click.command()
@click.option(
    "--policy", type=click.Choice(sorted(POLICIES)), default="proportional", show_default=True, help="In control."
)
@click.option("--against", type=click.Choice(sorted(POLICIES)), multiple=True, help="Further policies to compare with.")
@click.option(
    "--scenario", "name", type=click.Choice(sorted(SCENARIOS)), default="demo", show_default=True, help="To play."
)
@click.option("--seconds", type=click.FloatRange(5, 3600), help="Play it in this time instead of its own.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of all that is random in the plants.")
@click.option("--json", "result", type=click.Path(dir_okay=False, path_type=Path), help="Write the result here.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Leave logs and files in this folder.")
def command(
    policy: str,
    against: tuple[str, ...],
    name: str,
    seconds: float | None,
    seed: int,
    result: Path | None,
    keep: Path | None,
) -> None:
    """Run the whole pipeline on embedded parts and a simulated factory."""
    scenario = SCENARIOS[name] if seconds is None else SCENARIOS[name].lasting(seconds)
    policies = tuple(dict.fromkeys((policy, *against)))
    console = Console()
    try:
        report, complete = asyncio.run(demonstrate(Options(scenario, policies, seed, keep), console))
    except (NotReady, ProcessDied, FileNotFoundError, TimeoutError) as error:
        raise click.ClickException(str(error)) from None
    console.print(table(report, scenario))
    if result is not None:
        report.write(result)
    if not complete:
        console.print("Stopped before the end.")
        sys.exit(130)
