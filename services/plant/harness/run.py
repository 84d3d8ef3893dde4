"""Several runs of one scenario side by side, in real time: each on a plant of its own, all under one pipeline.

Each run has a namespace and a domain of its own, so that the same three services control all of them at
once; one run is not controlled.  A run collects the plant's seconds, the limits that came into force, the
last decision and action, and the reaction times.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from schemas.domain import Domain
from schemas.messages import Action, Decision
from services.bus.bus import Received
from services.plant.harness.bandwidth_agent import EnforcedLimit
from services.plant.interface import Plant, Second
from services.plant.scenario import Event, Scenario
from services.plant.score import ControlEffort, Reaction, ReactionTimer, Score, is_bad, score

_NS = 10**9


class RunPlant(Plant, Protocol):
    """A plant that also reports when its latency crossed the SLO."""

    def take_crossings(self) -> Sequence[int]:
        """Return the times of the crossings since the last call, UTC ns."""


class ScenarioRun:
    """One run and its observations so far."""

    def __init__(self, title: str, scenario: Scenario, domain: Domain, plant: RunPlant, *, controlled: bool) -> None:
        """Prepare; the score covers the time from ``begin`` on."""
        self.title = title
        self.scenario = scenario
        self.domain = domain
        self.plant = plant
        self.controlled = controlled
        self.started: int | None = None
        self.seconds: list[Second] = []
        self.decision: Decision | None = None
        self.action: Action | None = None
        self.overrun: int | None = None
        """When a decision first named a limit that is not enforced, UTC ns."""
        self.overruns = 0
        """How many decisions named one."""
        self.restarts = 0
        self._patches: list[int] = []
        self._changed: tuple[int, int] | None = None
        # As the agent reported them: the plant has a new limit before the agent reports it.
        self._limits = dict(plant.limits)
        self._watch = ReactionTimer(scenario.apps)

    def begin(self, started: int) -> None:
        """Start the scenario at this time, UTC ns."""
        self.started = started

    def apply_event(self, event: Event) -> None:
        """Change the plant's loads and capacity."""
        for workload, kbit in event.loads.items():
            self.plant.set_load(workload, kbit)
        if event.capacity is not None:
            self.plant.set_capacity(event.capacity)
        self._watch.on_event(event, self._limits.values())

    def observe(self) -> None:
        """Collect the plant's new seconds, as far as they lie wholly within the scenario, and its crossings."""
        seconds = self.plant.take_seconds()
        if self.started is not None:
            ends = self.started + round(self.scenario.seconds * _NS)
            self.seconds += [one for one in seconds if one.start >= self.started and one.start + _NS <= ends]
        self._watch.on_crossings(self.plant.take_crossings(), self._limits.values())

    def on_limit_change(self, change: EnforcedLimit) -> None:
        """Note that a limit came into force on one of the plant's pods."""
        self._patches.append(change.at)
        # Crossings that were not collected yet happened under the limits before this one.
        self._watch.on_crossings(self.plant.take_crossings(), self._limits.values())
        self._limits[change.pod] = change.kbit
        sampled, decided = self._changed or (change.seen, change.seen)
        self._watch.on_limit(change.at, sampled, decided, self._limits.values())

    def on_decision(self, received: Received[Decision]) -> None:
        """Note what the decision service answered to a sample of the domain."""
        self.decision = received.message
        if received.message.overruns:
            self.overruns += 1
            self.overrun = self.overrun or received.published
        if any(target.limit != target.was for target in received.message.targets):
            self._changed = received.message.end, received.published

    def on_action(self, received: Received[Action]) -> None:
        """Note what the actuator did to one of the domain's targets."""
        self.action = received.message

    def count_bad_seconds(self) -> int:
        """Count the seconds so far in which an SLO was broken."""
        return sum(is_bad(second, self.domain) for second in self.seconds)

    def reactions(self, since: float = 0.0) -> tuple[Reaction, ...]:
        """Return the reactions to crossings from ``since`` seconds after the start on."""
        edge = self._edge(since)
        return tuple(one for one in self._watch.reactions if one.crossed >= edge)

    def score(self, since: float = 0.0) -> Score:
        """Score the run so far, from ``since`` seconds after the start on."""
        effort = ControlEffort(
            patches=sum(at >= self._edge(since) for at in self._patches),
            restarts=self.restarts,
            reactions=self.reactions(since),
        )
        return score(self.seconds, self.domain, self.scenario, self.started or 0, since, effort)

    def _edge(self, since: float) -> int:
        return (self.started or 0) + round(since * _NS)


async def play_events(
    runs: Iterable[ScenarioRun],
    started: int,
    disturb: Callable[[Event], Awaitable[None]],
) -> None:
    """Play every run's events in time, from ``started`` (UTC ns) on; return when the scenario is over.

    ``disturb`` does what an event does to the pipeline itself: measurements, enforcement and parts that are away.
    """
    runs = list(runs)
    ends = max(run.scenario.seconds for run in runs)
    plan = sorted(((event.at, run, event) for run in runs for event in run.scenario.events), key=lambda one: one[0])
    for at, run, event in plan:
        await _until(started, at)
        run.apply_event(event)
        await disturb(event)
    await _until(started, ends)


async def _until(started: int, at: float) -> None:
    await asyncio.sleep(max(started / _NS + at - time.time(), 0.0))
