"""Scenarios as data: what happens to the factory, and the best possible result.

A scenario is a list of events in time.  Demo, factory and benches play the same ones on whichever
plant they have, and the score compares what was delivered with the *oracle*: the best safe limit of
each phase, known in advance and set at once.  Numbers are for a bottleneck of 100 Mbit/s; ``scale``
fits them to another.
"""

from collections import deque
from itertools import pairwise
from random import Random
from typing import Any, Literal

import msgspec
from msgspec import Struct

from schemas.domain import Critical, Domain, Target
from schemas.units import Rate
from services.plant.topology import ERP, SCANNER, TELEMETRY
from services.plant.workloads import Apps, TargetApp

Enforcement = Literal["on", "stuck", "off"]
"""Limits are enforced; stay as they are, whatever is asked for; or are lifted, silently."""

Part = Literal["api", "bus", "actuator"]
"""A part of the pipeline that can be away: the Kubernetes API, the NATS server, or the actuator."""


class Event(Struct, frozen=True, kw_only=True):
    """A change at one time."""

    at: float
    """Seconds after the scenario's start."""
    loads: dict[str, int | None] = {}
    """New loads by workload or target, kbit/s of payload; None is as much as it can get."""
    capacity: int | None = None
    """The bottleneck's new rate, kbit/s."""
    blind: str | None = None
    """From now on nothing can be measured, for this reason; the empty text ends it."""
    enforcement: Enforcement | None = None
    """What becomes of limits from now on."""
    away: Part | Literal[""] | None = None
    """From now on this part is away; the empty text ends it."""
    unpredicted: bool = False
    """Nothing announces it; bad seconds right after it are counted apart."""
    phase: bool = True
    """Whether a new phase begins, so that the oracle may change its limit.  A burst begins none."""


class Phase(Struct, frozen=True):
    """A stretch of time over which the oracle holds one limit."""

    start: float
    """Seconds after the scenario's start, as is the end."""
    end: float
    budget: int
    """The best safe sum of all limits, kbit/s on the wire."""
    goodput: int
    """What the targets could deliver under it, kbit/s of payload."""


class Scenario(Struct, frozen=True, kw_only=True):
    """A named sequence of events."""

    name: str
    text: str
    seconds: float
    events: tuple[Event, ...] = ()
    apps: Apps = Apps()
    """The workloads at the start."""
    learning: float = 60.0
    """Until then a policy may still be learning, seconds."""

    def phases(self) -> list[Phase]:
        """The oracle's limits: for each phase the largest budget that no load in it makes unsafe."""
        starts = [0.0, *(event.at for event in self.events if event.phase and event.at > 0), self.seconds]
        pending = deque(sorted(self.events, key=lambda event: event.at))
        apps, phases = self.apps, []
        for start, end in pairwise(sorted(set(starts))):
            while pending and pending[0].at <= start:
                event = pending.popleft()
                apps = apps.with_loads(event.loads, event.capacity)
            budget = apps.safe_budget()
            goodput = apps.goodput(budget)
            while pending and pending[0].at < end:
                event = pending.popleft()
                apps = apps.with_loads(event.loads, event.capacity)
                budget = min(budget, apps.safe_budget())
                goodput = min(goodput, apps.goodput(budget))
            phases.append(Phase(start, end, budget, goodput))
        return phases

    def domain(self, policy: str = "learned", parameters: dict[str, Any] | None = None, name: str = "floor") -> Domain:
        """The configuration that a user would write for this factory: default SLOs, the knee unknown.

        The fail-safe limits, 40 % of the maximum for up to two targets, are safe with the scanner at twice its load.
        """
        capacity = self.apps.capacity
        targets = []
        for one in self.apps.targets:
            # A target with a small load may have twice as much; all others may have the whole link.
            most = min(2 * one.load, capacity) if one.load else capacity
            least = max(most // 100, 1)
            targets.append(
                Target(
                    deployment=one.target.partition("/")[2],
                    namespace=one.target.partition("/")[0],
                    min=Rate(least),
                    max=Rate(most),
                    fail_safe=Rate(max(most * 4 // (5 * max(len(self.apps.targets), 2)), least)),
                )
            )
        critical = [one.workload.partition("/") for one in self.apps.critical]
        return Domain(
            name=name,
            critical=tuple(Critical(workload=name, namespace=namespace) for namespace, _, name in critical),
            targets=tuple(targets),
            policy=policy,
            parameters=parameters or {},
            capacity=Rate(capacity),
        )

    def stretch_to(self, seconds: float) -> "Scenario":
        """A copy played faster or slower, so that it takes ``seconds``."""
        pace = seconds / self.seconds
        replace = msgspec.structs.replace
        events = tuple(replace(event, at=event.at * pace) for event in self.events)
        return replace(self, seconds=seconds, events=events, learning=self.learning * pace)

    def shift(self, seed: int) -> "Scenario":
        """A copy up to a second later, so that over seeds events meet every phase of the signal."""
        late = Random(seed).uniform(0, 1)  # noqa: S311 - a shift of events
        replace = msgspec.structs.replace
        return replace(self, events=tuple(replace(one, at=one.at + late if one.at else 0.0) for one in self.events))

    def move_to(self, namespace: str) -> "Scenario":
        """A copy with every workload in another namespace, for a second plant beside the first."""

        def rename(workload: str) -> str:
            return f"{namespace}/{workload.partition('/')[2]}"

        replace = msgspec.structs.replace
        apps = replace(
            self.apps,
            critical=tuple(replace(one, workload=rename(one.workload)) for one in self.apps.critical),
            targets=tuple(replace(one, target=rename(one.target)) for one in self.apps.targets),
        )
        events = tuple(
            replace(event, loads={rename(name): kbit for name, kbit in event.loads.items()}) for event in self.events
        )
        return replace(self, apps=apps, events=events)

    def scale(self, share: float) -> "Scenario":
        """A copy with every rate multiplied by ``share``; the FIFO's delay stays."""
        events = tuple(
            msgspec.structs.replace(
                event,
                loads={name: _times(kbit, share) for name, kbit in event.loads.items()},
                capacity=_times(event.capacity, share),
            )
            for event in self.events
        )
        return msgspec.structs.replace(self, events=events, apps=self.apps.scale(share))


def _times(kbit: int | None, share: float) -> int | None:
    return None if kbit is None else round(kbit * share)


NOMINAL = 25_000
"""The scanner's usual load, kbit/s."""


def _scanner(at: float, load: int, *, unpredicted: bool = False, phase: bool = True) -> Event:
    return Event(at=at, loads={SCANNER: load}, unpredicted=unpredicted, phase=phase)


_STEPS = tuple(
    event
    for up, down in ((75.3, 118.1), (167.7, 226.4), (271.2, 297.9))
    for event in (_scanner(up, 2 * NOMINAL, unpredicted=True), _scanner(down, NOMINAL))
)
"""The scanner's load doubles three times, at irregular moments and for different times."""

_SHIFTS = (
    _scanner(0.0, NOMINAL - 5_000),
    *(
        event
        for start in (0.0, 40.0, 80.0, 120.0, 160.0, 200.0, 240.0, 280.0, 320.0)
        for event in (
            *(_scanner(start + 12 + step, NOMINAL - 5_000 + 3_000 * (step + 1)) for step in range(5)),
            *(
                _scanner(start + burst + late, load, phase=False)
                for burst in (19.6, 23.3, 28.8)
                for late, load in ((0.0, 43_000), (0.25, 35_000))
            ),
            *(_scanner(start + 32 + step, 35_000 - 3_000 * (step + 1)) for step in range(5)),
        )
    ),
)
"""Each 40 s: low load, a ramp up, high load with bursts shorter than the control loop, and a ramp down."""

_CAPACITY = (
    Event(at=80.4, capacity=50_000, unpredicted=True),
    *(Event(at=130.0 + second, capacity=50_000 + 1_250 * (second + 1)) for second in range(40)),
    *(Event(at=220.0 + second, capacity=100_000 - 500 * (second + 1)) for second in range(40)),
    *(Event(at=280.0 + second, capacity=80_000 + 500 * (second + 1)) for second in range(40)),
)
"""Capacity halves at once and recovers within 40 s; later it drifts down and up again."""


def _flaps(seconds: float) -> tuple[Event, ...]:
    """The scanner jumps up and down after 1 to 8 s each, drawn from a fixed seed."""
    draw = Random(7)  # noqa: S311 - a fixed sequence of events
    events = []
    at, high = 60.0, False
    while at < seconds - 8:
        high = not high
        events.append(_scanner(round(at, 1), 45_000 if high else NOMINAL, unpredicted=high))
        at += draw.uniform(1, 8)
    return tuple(events)


SCENARIOS: dict[str, Scenario] = {
    one.name: one
    for one in (
        Scenario(name="steady", text="Nothing changes.", seconds=300),
        Scenario(name="step", text="The scanner's load doubles without warning.", seconds=330, events=_STEPS),
        Scenario(
            name="shift",
            text="Load comes and goes every 40 s, with bursts.",
            seconds=360,
            events=_SHIFTS,
            learning=120,
        ),
        Scenario(name="capacity", text="Capacity halves and recovers, then drifts.", seconds=340, events=_CAPACITY),
        Scenario(
            name="join",
            text="A second greedy target joins, leaves and joins again.",
            seconds=300,
            events=(
                Event(at=90.3, loads={ERP: None}),
                Event(at=170.9, loads={ERP: 0}),
                Event(at=230.2, loads={ERP: None}),
            ),
            apps=Apps(targets=(TargetApp(TELEMETRY), TargetApp(ERP, load=0))),
        ),
        Scenario(
            name="outage",
            text="Measurements fail twice; once the load steps up meanwhile.",
            seconds=300,
            events=(
                Event(at=80.1, blind="the exporter does not answer", phase=False),
                Event(at=110.1, blind="", phase=False),
                Event(at=180.1, blind="the exporter does not answer", phase=False),
                _scanner(195.5, 45_000, unpredicted=True),
                Event(at=225.1, blind="", phase=False),
                _scanner(260.7, NOMINAL),
            ),
        ),
        Scenario(name="flapping", text="The scanner's load jumps at random.", seconds=240, events=_flaps(240)),
        Scenario(
            name="demo",
            text="A third of the time nominal, a third with the scanner at twice its load, a third to recover.",
            seconds=75,
            events=(_scanner(25, 2 * NOMINAL, unpredicted=True), _scanner(50, NOMINAL)),
            apps=Apps(targets=(TargetApp(TELEMETRY), TargetApp(ERP, load=3_000, flows=1))),
            learning=0,
        ),
    )
}
"""By name."""
