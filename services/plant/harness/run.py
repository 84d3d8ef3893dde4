"""Several runs of one scenario side by side, in real time: each on a plant of its own, all under one pipeline.

A run has a namespace and a domain of its own, so that the same three services control all of them at
once; one run has nobody to control it.  Whatever happens to a run is gathered here: the plant's
seconds, the limits that came into force, the last decision and action, the reactions.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from schemas.domain import Domain
from schemas.messages import Action, Decision
from services.bus.bus import Received
from services.plant.harness.bandwidth_agent import Enforced
from services.plant.interface import Plant, Second
from services.plant.reaction_time import Reaction, ReactionTimer
from services.plant.scenario import Event, Scenario
from services.plant.score import ControlEffort, Score, is_bad, score

_NS = 10**9


class RunPlant(Plant, Protocol):
    """A plant that also says when its latency crossed the SLO."""

    def take_crossings(self) -> Sequence[int]:
        """When, since the last call; UTC ns."""


class Run:
    """One contender and what is known of it so far."""

    def __init__(self, title: str, scenario: Scenario, domain: Domain, plant: RunPlant, *, controlled: bool) -> None:
        """Begin; nothing is judged before ``begin``."""
        self.title = title
        self.scenario = scenario
        self.domain = domain
        self.plant = plant
        self.controlled = controlled
        self.started: int | None = None
        self.seconds: list[Second] = []
        self.decision: Decision | None = None
        self.action: Action | None = None
        self.restarts = 0
        self._patches: list[int] = []
        self._changed: tuple[int, int] | None = None
        # As the agent reported them: the plant's own are new already when a change is told.
        self._limits = dict(plant.limits)
        self._watch = ReactionTimer(scenario.apps)

    def begin(self, started: int) -> None:
        """The scenario starts now, UTC ns."""
        self.started = started

    def happen(self, event: Event) -> None:
        """Play one event on the plant."""
        for workload, kbit in event.loads.items():
            self.plant.set_load(workload, kbit)
        if event.capacity is not None:
            self.plant.set_capacity(event.capacity)
        self._watch.on_event(event, self._limits.values())

    def observe(self) -> list[Second]:
        """Take what the plant has to tell; gives the seconds that are new."""
        fresh = [second for second in self.plant.take_seconds() if self._is_part(second)]
        self.seconds += fresh
        self._watch.on_crossings(self.plant.take_crossings(), self._limits.values())
        return fresh

    def _is_part(self, second: Second) -> bool:
        """Whether it lies wholly within the scenario."""
        if self.started is None:
            return False
        ends = self.started + round(self.scenario.seconds * _NS)
        return second.start >= self.started and second.start + _NS <= ends

    def enforced(self, change: Enforced) -> None:
        """A limit came into force on one of its pods."""
        self._patches.append(change.at)
        # A crossing that nobody has looked for yet happened under the limits before this one.
        self._watch.on_crossings(self.plant.take_crossings(), self._limits.values())
        self._limits[change.pod] = change.kbit
        sampled, decided = self._changed or (change.seen, change.seen)
        self._watch.on_limit(change.at, sampled, decided, self._limits.values())

    def decided(self, received: Received[Decision]) -> None:
        """The decision service answered a sample of its domain."""
        self.decision = received.message
        if any(target.limit != target.was for target in received.message.targets):
            self._changed = received.message.end, received.published

    def bad_seconds(self) -> int:
        """Bad seconds so far."""
        return sum(is_bad(second, self.domain) for second in self.seconds)

    def reactions(self, since: float = 0.0) -> tuple[Reaction, ...]:
        """The crossings that were answered, from ``since`` seconds after the start on."""
        edge = self._edge(since)
        return tuple(one for one in self._watch.reactions if one.crossed >= edge)

    def score(self, since: float = 0.0) -> Score:
        """Judge it, as far as it went, from ``since`` seconds after the start on."""
        effort = ControlEffort(
            patches=sum(at >= self._edge(since) for at in self._patches),
            restarts=self.restarts,
            reactions=self.reactions(since),
        )
        return score(self.seconds, self.domain, self.scenario, self.started or 0, since, effort)

    def _edge(self, since: float) -> int:
        return (self.started or 0) + round(since * _NS)


async def play(runs: Iterable[Run], started: int, blind: Callable[[str], None]) -> None:
    """Play every run's events at their moments after ``started``, UTC ns; returns when the scenario is over.

    ``blind`` is called with the reason why nothing can be measured from now on; empty: it can again.
    """
    runs = list(runs)
    ends = max(run.scenario.seconds for run in runs)
    plan = sorted(((event.at, run, event) for run in runs for event in run.scenario.events), key=lambda one: one[0])
    for at, run, event in plan:
        await _until(started, at)
        run.happen(event)
        if event.blind is not None:
            blind(event.blind)
    await _until(started, ends)


async def _until(started: int, at: float) -> None:
    await asyncio.sleep(max(started / _NS + at - time.time(), 0.0))
