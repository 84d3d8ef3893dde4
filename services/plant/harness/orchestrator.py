"""Plays runs on their plants, with the pipeline between them: what demo and factory have in common.

    plants -> page -> (scrape or Prometheus) -> three services on NATS -> Kubernetes API -> agent -> plants

Whoever calls brings the runs and says how the sampler gets its signal; everything else is started
here, watched while the scenario is played, and stopped in order.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import structlog
from msgspec import Struct

from schemas.config import Config, Kubernetes, Signal
from schemas.messages import Action, Decision
from services.bus.bus import Bus
from services.plant.harness.bandwidth_agent import Agent, Enforced
from services.plant.harness.manifests import manifests
from services.plant.harness.metrics_page import MetricsPage
from services.plant.harness.pipeline import NotReady, configuration, scraping, start_nats, start_services
from services.plant.harness.processes import Processes
from services.plant.harness.run import Run, play
from services.plant.harness.view import View
from services.plant.kube_emulator.emulator import Emulator

_WARM_UP_S = 2.0
_LOOK_S = 0.25
_LIMITED_S = 30.0
_CLOSING_S = 2.5
"""The last second is known only once the fate of its last packet is."""


async def by_scraping(_: Processes, page: str) -> Signal:
    """The signal of a sampler that reads the page itself."""
    return scraping([page])


class Staging(Struct, frozen=True):
    """How the runs are played."""

    signal: Callable[[Processes, str], Awaitable[Signal]] = by_scraping
    """Starts what the sampler needs beside the plants' page, whose address it gets, and gives the signal."""
    delay: float = 0.03
    """What the agent lets pass before it enforces an annotation, seconds."""
    keep: Path | None = None
    """Where files and logs stay; None: they go."""
    afterwards: Callable[[Processes], Awaitable[None]] | None = None
    """Called when the scenario is over, while bus and services still run."""


async def perform(runs: Sequence[Run], view: View, staging: Staging) -> None:
    """Play the runs' scenario at once on all of them; those that are controlled share one pipeline.

    Raises:
        NotReady: a part did not come up.
        ProcessDied: a part ended early.
    """
    controlled = [run for run in runs if run.controlled]
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(Processes(staging.keep))
        _log_to(stack.enter_context((processes.home / "stage.log").open("w", encoding="utf-8")))
        page = stack.enter_context(MetricsPage([run.plant for run in controlled]))
        agent = await _pipeline(stack, processes, page, controlled, staging) if controlled else None
        started = time.time_ns() + round(_WARM_UP_S * 1e9)
        for run in runs:
            run.begin(started)
        await _played(runs, view, page, processes)
        for run in controlled:
            assert agent is not None
            run.restarts = sum(agent.restarts(target.key) for target in run.domain.targets)
        if staging.afterwards is not None:
            await staging.afterwards(processes)
        view.say("Stopping ...")


async def until_stopped(work: Coroutine[Any, Any, None]) -> bool:
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


def _log_to(file: TextIO) -> None:
    """The screen belongs to the view: what this process logs goes where the others' logs are."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(file))


async def _pipeline(
    stack: AsyncExitStack, processes: Processes, page: MetricsPage, controlled: Sequence[Run], staging: Staging
) -> Agent:
    """Start everything between the plants' page and their limits, and wait until the first limits are in force."""
    emulator = Emulator()
    api = await stack.enter_async_context(emulator)
    for run in controlled:
        emulator.apply(manifests(run.scenario.apps, run.domain))
    agent = await stack.enter_async_context(_agent(api, controlled, staging.delay))
    # The services end while what they talk to is still there.
    stack.push_async_callback(processes.stop)
    nats = await start_nats(processes)
    signal_ = await staging.signal(processes, page.url)
    config = configuration([run.domain for run in controlled], nats, Kubernetes(server=api), signal_)
    await start_services(config, processes)
    await stack.enter_async_context(_heard(config, controlled))
    try:
        async with asyncio.timeout(_LIMITED_S):
            await agent.limited()
    except TimeoutError:
        raise NotReady(f"the first limits were not in force after {_LIMITED_S:g} s") from None
    return agent


async def _played(runs: Sequence[Run], view: View, page: MetricsPage, processes: Processes) -> None:
    """Until the scenario is over, or a process ends early."""
    started = runs[0].started or 0
    looking = asyncio.create_task(_look(runs, view, started))
    playing = asyncio.create_task(play(runs, started, partial(setattr, page, "blind")))
    tasks = [looking, playing]
    if any(run.controlled for run in runs):
        tasks.append(asyncio.create_task(processes.watch()))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        await asyncio.sleep(_CLOSING_S)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _look(runs: Sequence[Run], view: View, started: int) -> None:
    while True:
        view.show((time.time_ns() - started) / 1e9, [run.observe() for run in runs])
        await asyncio.sleep(_LOOK_S)


@asynccontextmanager
async def _agent(api: str, controlled: Sequence[Run], delay: float) -> AsyncIterator[Agent]:
    runs = {target.key: run for run in controlled for target in run.domain.targets}

    def enforced(change: Enforced) -> None:
        runs[change.target].enforced(change)

    agent = Agent(api, [run.plant for run in controlled], delay=delay, on_enforced=enforced)
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

    async with Bus.connect(config.bus, "demo", lambda _: None) as bus:
        tasks = [asyncio.create_task(decisions(bus)), asyncio.create_task(actions(bus))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
