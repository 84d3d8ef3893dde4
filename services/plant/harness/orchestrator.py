"""Plays a scenario with the whole pipeline between the plants; shared by demo, factory and benches.

    plants -> page -> (scrape or Prometheus) -> three services on NATS -> Kubernetes API -> agent -> plants

The caller provides the runs, a view, and how the sampler gets its signal.  This module starts the rest,
watches it while the scenario plays, and stops it in reverse order.
"""

import asyncio
import signal
import time
from asyncio.subprocess import PIPE, STDOUT, create_subprocess_exec
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import structlog
from msgspec import Struct

from schemas.config import Kubernetes, Signal
from schemas.messages import Action, Decision
from services.bus.bus import Bus, Received
from services.plant.harness.bandwidth_agent import BandwidthAgent, EnforcedLimit
from services.plant.harness.manifests import build_manifests
from services.plant.harness.metrics_page import MetricsPage
from services.plant.harness.pipeline import (
    NotReady,
    build_config,
    build_scrape_signal,
    find_program,
    start_nats,
    start_page,
    start_services,
)
from services.plant.harness.processes import Processes
from services.plant.harness.run import ScenarioRun, play_events
from services.plant.harness.view import RunView
from services.plant.kube_emulator.controllers import Placement
from services.plant.kube_emulator.emulator import Emulator
from services.plant.scenario import Event, Part

_WARM_UP_S = 2.0
_REFRESH_S = 0.25
_FIRST_LIMITS_S = 30.0
_LAST_SECOND_S = 2.5
"""The plant reports its last second once the fate of that second's last packet is known."""

_PROCESSES: dict[Part | Literal[""], str] = {"bus": "nats", "actuator": "actuator"}
"""Parts that are processes, by the name under which they were started."""

M = TypeVar("M", Decision, Action)


async def start_scraping(_: Processes, page: str, _api: str) -> Signal:
    """Have the sampler read the page itself; nothing needs to be started."""
    return build_scrape_signal([page])


class RecordingFailed(RuntimeError):
    """The bus could not be recorded; the text has what ``sluice record`` printed."""


class PipelineOptions(Struct, frozen=True):
    """How the pipeline between the plants is built."""

    signal: Callable[[Processes, str, str], Awaitable[Signal]] = start_scraping
    """Starts what the sampler needs, and returns the signal; gets the addresses of the plants' page and of the API."""
    place: Placement = lambda _: None
    """Gives the API's Pods their nodes and addresses."""
    delay: float = 0.03
    """Seconds from an annotation to the limit in force."""
    keep: Path | None = None
    """The folder in which files and logs stay; None: they are removed."""
    record: Path | None = None
    """Where the first controlled run's domain is recorded at the end."""
    page: int | None = None
    """The port of loopback on which the live page is served while the runs play; None: no page."""


async def play_scenario(runs: Sequence[ScenarioRun], view: RunView, options: PipelineOptions) -> None:
    """Play the scenario on all runs at once; the controlled ones share one pipeline.

    Raises:
        NotReady: a part did not start in time.
        ProcessDied: a part ended early.
        RecordingFailed: the bus could not be recorded.
    """
    controlled = [run for run in runs if run.controlled]
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(Processes(options.keep))
        # The view owns the screen: this process logs to a file beside the services' logs.
        log = stack.enter_context((processes.home / "harness.log").open("w", encoding="utf-8"))
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(log))
        page = stack.enter_context(MetricsPage([run.plant for run in controlled]))
        agent, disturb = None, page.disturb
        if controlled:
            emulator = Emulator(place=options.place)
            agent = await _start_pipeline(stack, processes, page, emulator, controlled, options, view)
            disturb = _Disturbance(page, agent, emulator, processes).disturb
        started = time.time_ns() + round(_WARM_UP_S * 1e9)
        for run in runs:
            run.begin(started)
        view.say(f"Playing {runs[0].scenario.seconds:.0f} s: {', '.join(run.title for run in runs)}")
        await _play_and_watch(runs, view, processes, disturb)
        if agent is not None:
            for run in controlled:
                run.restarts = sum(agent.count_restarts(target.key) for target in run.domain.targets)
            if options.record is not None:
                view.say("Recording ...")
                selection = ("--since", "1h", "--domain", controlled[0].domain.name)
                words = ("record", "--config", processes.home / "sluice.yaml", *selection, "--force")
                command = (find_program("sluice"), *words, "--output", options.record)
                recorder = await create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
                printed, _ = await recorder.communicate()
                if recorder.returncode:
                    why = f"exit code {recorder.returncode}: {printed.decode().strip()}"
                    raise RecordingFailed(f"sluice record ended with {why}")
        view.say("Stopping ...")


async def run_until_signal(work: Coroutine[Any, Any, None]) -> bool:
    """Do the work; on SIGINT or SIGTERM cancel it, wait for its cleanup, and return False."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True


async def _start_pipeline(
    stack: AsyncExitStack,
    processes: Processes,
    page: MetricsPage,
    emulator: Emulator,
    runs: Sequence[ScenarioRun],
    options: PipelineOptions,
    view: RunView,
) -> BandwidthAgent:
    """Start everything between the plants' page and their limits, and wait until the first limits are in force."""
    api = await stack.enter_async_context(emulator)
    by_target = {target.key: run for run in runs for target in run.domain.targets}
    for run in runs:
        emulator.apply(build_manifests(run.scenario.apps, run.domain))

    def pass_on(change: EnforcedLimit) -> None:
        by_target[change.target].on_limit_change(change)

    agent = BandwidthAgent(api, [run.plant for run in runs], delay=options.delay, on_change=pass_on)
    await stack.enter_async_context(_running(agent.run()))
    # The services end while the API and the agent are still there.
    stack.push_async_callback(processes.stop)
    nats = await start_nats(processes)
    source = await options.signal(processes, page.url, api)
    config = build_config([run.domain for run in runs], nats, Kubernetes(server=api), source)
    if options.page is not None:
        view.show_page(await start_page(config, processes, options.page))
    await start_services(config, processes)
    bus = await stack.enter_async_context(Bus.connect(config.bus, "demo", lambda _: None))
    by_domain = {run.domain.name: run for run in runs}
    decisions = _follow(bus, Decision, by_domain, ScenarioRun.on_decision)
    actions = _follow(bus, Action, by_domain, ScenarioRun.on_action)
    await stack.enter_async_context(_running(decisions, actions))
    try:
        async with asyncio.timeout(_FIRST_LIMITS_S):
            await agent.wait_until_enforced()
    except TimeoutError:
        raise NotReady(f"the first limits were not in force after {_FIRST_LIMITS_S:g} s") from None
    return agent


class _Disturbance:
    """What a scenario's events do to the pipeline itself."""

    def __init__(self, page: MetricsPage, agent: BandwidthAgent, emulator: Emulator, processes: Processes) -> None:
        self._page = page
        self._agent = agent
        self._emulator = emulator
        self._processes = processes
        self._away: Part | Literal[""] = ""

    async def disturb(self, event: Event) -> None:
        """Do it, or end it."""
        await self._page.disturb(event)
        if event.enforcement is not None:
            await self._agent.set_enforcement(event.enforcement)
        if event.away is None:
            return
        if self._away == "api":
            await self._emulator.__aenter__()
        elif self._away:
            self._processes.go_on(_PROCESSES[self._away])
        self._away = event.away
        if self._away == "api":
            await self._emulator.__aexit__()
        elif self._away:
            self._processes.pause(_PROCESSES[self._away])


@asynccontextmanager
async def _running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines in the background while the context lasts."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(
    bus: Bus, kind: type[M], runs: Mapping[str, ScenarioRun], handle: Callable[[ScenarioRun, Received[M]], None]
) -> None:
    """Pass every new message of a kind on to the run of its domain."""
    async with aclosing(bus.consume(kind, None, "demo", start="new")) as messages:
        async for received in messages:
            handle(runs[received.message.domain], received)


async def _play_and_watch(
    runs: Sequence[ScenarioRun], view: RunView, processes: Processes, disturb: Callable[[Event], Awaitable[None]]
) -> None:
    """Play the events until the scenario is over; raise when a process ends early."""
    started = runs[0].started or 0

    async def refresh() -> None:
        while True:
            for run in runs:
                run.observe()
            view.show((time.time_ns() - started) / 1e9)
            await asyncio.sleep(_REFRESH_S)

    work = [refresh(), play_events(runs, started, disturb)]
    if any(run.controlled for run in runs):
        work.append(processes.watch())
    tasks = [asyncio.create_task(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        await asyncio.sleep(_LAST_SECOND_S)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
