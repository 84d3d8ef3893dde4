"""Holds the real reconcilers to the model of ``tests/proof/liveness.py``: each trace in virtual time."""

import asyncio
from collections.abc import Iterable

from schemas.domain import Critical, Domain
from schemas.messages import Decision, State, TargetDecision
from schemas.units import Duration
from tests.closed_loop.virtual import START, Actuator, Bus, Cluster, S, settle
from tests.proof.liveness import Event, World
from tests.support.kube.objects import TARGET

DEAD_MAN_S = 2
T_S = 14
"""The dead-man time, the longest wait for an API server that does not answer, and the longest of a standby."""
_HOUR = 3600 * S
_RIGHT, _SAFE = 30_000, int(TARGET.fail_safe)
DOMAIN = Domain("line", (Critical("robot"),), (TARGET,), dead_man=Duration(DEAD_MAN_S * S))


class Stage:
    """Two actuators on one cluster, and decisions twice a second."""

    def __init__(self) -> None:
        """Begin with one actuator, a bus and decisions."""
        self.now = START
        self.cluster = Cluster("5M")
        self.cluster.backup = dict(self.cluster.objects)
        self.bus = Bus(DOMAIN)
        self.bus.now = lambda: self.now
        self.actuators = [Actuator(name, DOMAIN, self.cluster, self.bus) for name in "ab"]
        self.has_decisions = True

    async def play(self, trace: Iterable[Event]) -> None:
        """Let the events happen, each a time T after the one before."""
        self.actuators[0].start()
        await self._pass()
        for what, place in trace:
            self._happen(what, self.actuators[place])
            await self._pass()

    def _happen(self, what: str, one: Actuator) -> None:
        if what == "bus":
            self.bus.is_up = not self.bus.is_up
        elif what == "decisions":
            self.has_decisions = not self.has_decisions
        elif what == "restore":
            self.cluster.restore()
        elif what == "api":
            one.set_api(not one.has_api)
        elif what == "start":
            one.start()
        elif what == "kill":
            one.kill()
        elif what == "stop":
            one.set_stopped(not one.is_stopped)
        else:
            one.skew = {"right": 0, "ahead": _HOUR, "behind": -_HOUR}[what]

    async def _pass(self) -> None:
        end = self.now + T_S * S
        while self.now < end:
            if self.has_decisions and self.bus.is_up:
                self.bus.decisions.append((self._decide(), self.now))
            self.now += S // 2
            for one in self.actuators:
                await one.run_until(self.now)
            await settle()

    def _decide(self) -> Decision:
        part = TargetDecision(target=TARGET.key, limit=_RIGHT, proposal=_RIGHT, rule="none", was=_RIGHT)
        return Decision(
            domain="line",
            sample=f"line:{self.now}",
            end=self.now,
            expires=self.now + DEAD_MAN_S * S,
            targets=(part,),
            reason="set by the test",
            state=State(START, len(self.bus.decisions) + 1, self.now, {}, "test/1"),
            policy="test/1",
            stress=0.5,
        )

    @property
    def force(self) -> str:
        """What is in force."""
        found = self.cluster.in_force
        if found is not None and found <= _SAFE:
            return "safe"
        return "right" if found == _RIGHT and self.has_decisions and self.bus.is_up else "stale"

    def end(self) -> None:
        """End both actuators."""
        for one in self.actuators:
            if one.is_alive:
                one.kill()


def find_breach(world: World, trace: tuple[Event, ...]) -> str | None:
    """Drive the reconcilers through a trace; returns how they differ from the model, or None."""
    return asyncio.run(_compare(world, trace))


async def _compare(world: World, trace: tuple[Event, ...]) -> str | None:
    stage = Stage()
    try:
        await stage.play(trace)
        ready = [
            one.name
            for one in stage.actuators
            if one.is_alive and not one.is_stopped and not one.health.problems and not one.health.notes
        ]
        found = f"{stage.force} ({stage.cluster.in_force}) is in force after {trace}"
        if stage.force not in world.force:
            return f"{found}, and the model has {sorted(world.force)}"
        if stage.force == "stale" and ready:
            return f"{found}, and {ready} are ready"
        return None
    finally:
        stage.end()
        await settle()
