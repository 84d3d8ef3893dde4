"""Explores every order of events between decision and actuator in a small model.

Samples and decisions come from the shipped ``Controller``.  These events may happen in any order:

- a sample is measured; any earlier sample reaches either of two decision replicas, for the first time or again
- a replica publishes (only onto the state that it stepped from: compare-and-set), or restarts and reads the
  last decision
- the bus is wiped
- any published decision reaches either of two actuators (one may be an obsolete process), for the first time or again
- an actuator reads the limit in force, waits, and patches on the condition that it has not changed; or it restarts

Two claims hold in every reachable state.  A limit that comes into force answers a newer sample than the one that it
replaces, so no older decision ever overwrites a newer cut.  The decision on the newest sample is admitted, so
nothing, not even a wiped bus, locks the actuator out.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from schemas.domain import Critical, Domain, Target
from schemas.messages import CriticalMeasure, Decision, Sample
from schemas.units import Rate
from services.control import Controller, StaleSample, rejection_reason

_PERIOD = 10**9 // 2
_DOMAIN = Domain(
    "d",
    (Critical("robot"),),
    (Target(deployment="telemetry", min=Rate(10), max=Rate(1000), fail_safe=Rate(200)),),
    policy="proportional",
)

Held = tuple[int, int, int]
"""Of the decision in force: the end of the sample that it answers, its epoch, its sequence."""
Admits = Callable[[Held | None, Decision], bool]
"""Whether a decision may replace what is in force."""


def admits(held: Held | None, decision: Decision) -> bool:
    """The shipped fence, at the decision's own time: nothing has expired, nothing is in the future."""
    return rejection_reason(held[0] if held else None, decision, decision.end) is None


class Overtaken(AssertionError):
    """An order of events that violates the claim."""


@dataclass(frozen=True)
class World:
    """One state; decisions are named by their index in a table."""

    measured: int = 0
    """Samples so far; sample i ends at i periods."""
    log: tuple[int, ...] = ()
    """The stream of decisions."""
    replicas: tuple[tuple[int, int | None], ...] = ((0, None), (0, None))
    """Of each replica: the length of the log that it knows, and the decision that it would continue from."""
    published: frozenset[int] = frozenset()
    """All decisions ever published: any of them may still be in flight."""
    held: Held | None = None
    """The decision in force, as recorded on the objects."""
    intents: tuple[tuple[int, Held | None] | None, ...] = (None, None)
    """Of each actuator: the decision that it is about to apply, and the one that it read as in force."""
    wiped: bool = False


class Model:
    """The events and their effects."""

    def __init__(self, samples: int, admitting: Admits = admits) -> None:
        """Simulate so many samples; the second breaks the SLO."""
        self._controller = Controller(_DOMAIN)
        self._samples = [_sample(i) for i in range(1, samples + 1)]
        self._admits = admitting
        self._names: dict[bytes, int] = {}
        self.decisions: list[Decision] = []

    def after(self, world: World) -> Iterator[World]:
        """Every state that one event can produce.

        Raises:
            Overtaken: an older decision came into force.
        """
        if world.measured < len(self._samples):
            yield replace(world, measured=world.measured + 1)
        if not world.wiped and world.log:
            yield replace(world, log=(), wiped=True)
        for replica in range(2):
            last = world.log[-1] if world.log else None
            yield replace(world, replicas=_put(world.replicas, replica, (len(world.log), last)))
            for sample in range(world.measured):
                yield from self._decide(world, replica, self._samples[sample])
        for actuator in range(2):
            yield replace(world, intents=_put(world.intents, actuator, None))
            for name in world.published:
                if self._admits(world.held, self.decisions[name]):
                    yield replace(world, intents=_put(world.intents, actuator, (name, world.held)))
            yield from self._patch(world, actuator)

    def _decide(self, world: World, replica: int, sample: Sample) -> Iterator[World]:
        known, last = world.replicas[replica]
        state = None if last is None else self.decisions[last].state
        if len(world.log) != known or (known and world.log[-1] != last):
            return  # compare-and-set refuses; the replica has to read the last decision first
        try:
            decision = self._controller.step(state, sample)
        except StaleSample:
            return
        name = self._name(decision)
        yield replace(
            world,
            log=(*world.log, name),
            replicas=_put(world.replicas, replica, (known + 1, name)),
            published=world.published | {name},
        )

    def _patch(self, world: World, actuator: int) -> Iterator[World]:
        intent = world.intents[actuator]
        if intent is None:
            return
        name, read = intent
        rest = replace(world, intents=_put(world.intents, actuator, None))
        if read != world.held:
            yield rest  # the API server refuses: the objects changed after they were read
            return
        new = self.decisions[name]
        if world.held is not None and new.end <= world.held[0]:
            raise Overtaken(f"{(new.end, new.epoch, new.seq)} over {world.held} (sample, epoch, sequence)")
        yield replace(rest, held=(new.end, new.epoch, new.seq))

    def _name(self, decision: Decision) -> int:
        key = repr(decision).encode()
        if key not in self._names:
            self._names[key] = len(self.decisions)
            self.decisions.append(decision)
        return self._names[key]

    def is_locked_out(self, world: World) -> bool:
        """Whether a decision on the newest sample, made by a replica that has read the log, would be rejected."""
        if world.measured != len(self._samples) or world.held is None:
            return False
        newest = self._samples[-1]
        last = world.log[-1] if world.log else None
        state = None if last is None else self.decisions[last].state
        if world.held[0] >= newest.end or (state is not None and state.end >= newest.end):
            return False
        return not self._admits(world.held, self._controller.step(state, newest))


def _put(row: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*row[:place], value, *row[place + 1 :])


def _sample(index: int) -> Sample:
    latency = 0.05 if index == 2 else 0.0005
    measure = CriticalMeasure("default/robot", latency, latency, 500, 0.0)
    return Sample("d", (index - 4) * _PERIOD, index * _PERIOD, _PERIOD, "model", (measure,))


def explore(samples: int, admitting: Admits = admits) -> int:
    """Visit every reachable state; return how many there are.

    Raises:
        Overtaken: an older decision came into force, or a new decision is locked out.
    """
    model = Model(samples, admitting)
    first = World()
    seen = {first}
    queue = deque([first])
    while queue:
        world = queue.popleft()
        if model.is_locked_out(world):
            raise Overtaken(f"locked out: {world}")
        for later in model.after(world):
            if later not in seen:
                seen.add(later)
                queue.append(later)
    return len(seen)
