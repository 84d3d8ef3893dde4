"""The liveness of the fail-safe: a small model of two actuators, and every state that it can reach.

The events are those that part an actuator from its work: it dies, it is stopped, the API server or the bus is away, no
more decisions come, a clock leaps, and etcd comes back from a backup.  After each event a time T passes.  Then one of
these holds: the right limit is in force, or the fail-safe limit is, or every actuator that runs says that it is not.

``tests/closed_loop/conformance.py`` drives the real reconcilers through a shortest trace to each state.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

Status = Literal["dead", "running", "stopped"]
Clock = Literal["right", "ahead", "behind"]
Event = tuple[str, int]
"""What happens, and to which actuator."""


class Promise(AssertionError):
    """A state in which neither limit is in force, and an actuator says that all is well."""


@dataclass(frozen=True)
class Process:
    """One actuator."""

    status: Status = "dead"
    has_api: bool = True
    clock: Clock = "right"

    @property
    def is_able(self) -> bool:
        """Whether it can write."""
        return self.status == "running" and self.has_api


@dataclass(frozen=True)
class World:
    """One state, a time T after the last event."""

    actuators: tuple[Process, Process] = (Process("running"), Process())
    has_bus: bool = True
    has_decisions: bool = True
    force: frozenset[str] = frozenset({"right"})
    """What may be in force: the right limit, the fail-safe limit or less, or a stale one."""


@dataclass(frozen=True)
class Rules:
    """What the actuators do; each rule can be left out, to show that the promise needs it."""

    dead_man: bool = True
    """Without a decision in time the fail-safe limit is applied."""
    succeeds: bool = True
    """An actuator that stands by takes over if the one in charge does not write."""
    tells: bool = True
    """An actuator that cannot write is not ready."""


def after(world: World, rules: Rules) -> Iterator[tuple[Event, World]]:
    """Every event, and the state a time T later."""
    for event, changed in _events(world):
        yield event, replace(changed, force=_settle(world, changed, rules))


def _events(world: World) -> Iterator[tuple[Event, World]]:
    yield ("bus", 0), replace(world, has_bus=not world.has_bus)
    yield ("decisions", 0), replace(world, has_decisions=not world.has_decisions)
    yield ("restore", 0), world
    for place, one in enumerate(world.actuators):
        changes: list[tuple[str, Process]] = [("api", replace(one, has_api=not one.has_api))]
        if one.status == "dead":
            changes.append(("start", replace(one, status="running")))
        else:
            changes.append(("kill", Process(has_api=one.has_api, clock=one.clock)))
            turned: Status = "stopped" if one.status == "running" else "running"
            changes.append(("stop", replace(one, status=turned)))
        if place == 0:
            clocks: tuple[Clock, ...] = ("right", "ahead", "behind")
            changes += [(clock, replace(one, clock=clock)) for clock in clocks if clock != one.clock]
        for what, changed in changes:
            pair = (changed, world.actuators[1]) if place == 0 else (world.actuators[0], changed)
            yield (what, place), replace(world, actuators=pair)


def _settle(before: World, world: World, rules: Rules) -> frozenset[str]:
    able = [one for one in world.actuators if one.is_able]
    if not rules.succeeds:
        able = able[-1:]  # the one that started later is in charge, whatever becomes of it
        if world.actuators[1].status != "dead" and not world.actuators[1].is_able:
            able = []
    hears = [world.has_bus and world.has_decisions and one.clock == "right" for one in able]
    if not able:
        # Whatever was in force stays, and may be stale by now.
        return before.force | {"stale"}
    if all(hears):
        return frozenset({"right"})
    if not rules.dead_man:
        return before.force | {"stale"}
    return frozenset({"right", "safe"} if any(hears) else {"safe"})


def follow(*trace: Event) -> World:
    """The state that a trace leads to."""
    world = World()
    for event in trace:
        world = dict(after(world, Rules()))[event]
    return world


def is_told(world: World, rules: Rules) -> bool:
    """Whether every actuator that runs says that something is wrong."""
    running = [one for one in world.actuators if one.status == "running"]
    return all(rules.tells and not one.has_api for one in running)


def explore(rules: Rules = Rules(), *, visit: Callable[[World, tuple[Event, ...]], None] | None = None) -> int:
    """Visit every reachable state by a shortest trace; return how many there are.

    Raises:
        Promise: one of them breaks it.
    """
    first = World()
    seen = {first}
    queue: deque[tuple[World, tuple[Event, ...]]] = deque([(first, ())])
    while queue:
        world, trace = queue.popleft()
        if "stale" in world.force and not is_told(world, rules):
            raise Promise(f"{world} after {trace}")
        if visit is not None:
            visit(world, trace)
        for event, later in after(world, rules):
            if later not in seen:
                seen.add(later)
                queue.append((later, (*trace, event)))
    return len(seen)


WEAKER = {
    "no dead-man": Rules(dead_man=False),
    "a standby that never takes over": Rules(succeeds=False),
    "actuators that are always ready": Rules(tells=False),
}
"""Variants that must fail."""
