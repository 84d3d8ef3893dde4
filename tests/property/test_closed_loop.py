"""The shipped decision core and two shipped actuators under any history of outages, in virtual time."""

import asyncio
import itertools
import logging

import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from schemas.domain import Critical, Domain
from schemas.messages import CriticalMeasure, Sample
from schemas.units import Duration
from tests.closed_loop.virtual import START, Actuator, Bus, Cluster, Decider, S, replay, settle
from tests.support.kube.objects import TARGET

DOMAIN = Domain("line", (Critical("robot"),), (TARGET,), policy="proportional", dead_man=Duration(2 * S))
RISE = 15_000
"""A fifth of 5M to 80M, kbit/s a second."""


class Loop(RuleBasedStateMachine):
    """Samples every half second; whatever can fail fails and comes back."""

    def __init__(self) -> None:
        """Begin with one actuator at the fail-safe limit."""
        super().__init__()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        self.runner = asyncio.new_event_loop()
        self.now, self.starts, self.latency = START, 0, 0.0005
        self.trail: list[tuple[int, int, int]] = []
        self.runner.run_until_complete(self.prepare())

    async def prepare(self) -> None:
        """Make the parts."""
        self.cluster, self.bus = Cluster("5M"), Bus(DOMAIN)
        self.cluster.on_patch = self.note
        self.bus.now = lambda: self.now
        self.decider = Decider(DOMAIN, self.bus)
        self.actuators = [Actuator(name, DOMAIN, self.cluster, self.bus) for name in "ab"]
        self.actuators[0].start()
        await settle()

    def note(self) -> None:
        """Keep what is in force."""
        # A write lies within the half second that runs; the actuator's own time is finer.
        self.trail.append((self.now, self.cluster.in_force or 0, self.starts))

    @rule(periods=st.integers(1, 12), violated=st.sampled_from([False] * 5 + [True]))
    def run_for(self, periods: int, violated: bool) -> None:
        """Samples come, actuators run."""
        self.latency = 0.02 if violated else 0.0005
        self.runner.run_until_complete(self.advance(periods))

    async def advance(self, periods: int) -> None:
        """Let so many periods pass."""
        for _ in range(periods):
            self.now += S // 2
            measure = CriticalMeasure("default/robot", self.latency, self.latency, 500, 0.0)
            self.decider.answer(Sample("line", self.now - 2 * S, self.now, S // 2, "model", (measure,)), self.now)
            for one in self.actuators:
                await one.run_until(self.now)
            await settle()

    @rule(which=st.integers(0, 1), is_there=st.booleans())
    def set_api(self, which: int, is_there: bool) -> None:
        """The API server goes, or comes back."""
        self.actuators[which].set_api(is_there)

    @rule(is_up=st.booleans())
    def set_bus(self, is_up: bool) -> None:
        """The bus goes, or comes back."""
        self.bus.is_up = is_up

    @rule(which=st.integers(0, 1), is_stopped=st.booleans())
    def stop(self, which: int, is_stopped: bool) -> None:
        """An actuator stops, or goes on."""
        if self.actuators[which].is_alive:
            self.actuators[which].set_stopped(is_stopped)

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        """An actuator is killed, and starts again."""
        self.starts += 1
        self.runner.run_until_complete(self.begin_again(self.actuators[which]))

    async def begin_again(self, one: Actuator) -> None:
        """Kill and start."""
        if one.is_alive:
            one.kill()
        one.start()
        await settle()

    @invariant()
    def rises_are_bounded(self) -> None:
        """Over any time t what is in force rises by at most 15M x (t + 1 s), and once more for each new process."""
        for place, (at, low, starts) in enumerate(self.trail[-60:]):
            for later, high, later_starts in self.trail[-60:][place + 1 :]:
                # Both of two actuators have a second's rise saved up, and times are known to half a second.
                allowed = RISE * ((later - at) / S + 1.5) + RISE * (1 + later_starts - starts)
                assert high - low <= allowed, self.trail[-60:]

    @invariant()
    def decisions_count_on_what_is_in_force(self) -> None:
        """Each rises only where the one before it was in force, and by no more than a second's rise from there."""
        decisions = [decision for decision, _ in self.bus.decisions[-30:]]
        for before, decision in itertools.pairwise(decisions):
            known = decision.state.in_force.get(TARGET.key)
            was, limit = before.targets[0].limit, decision.targets[0].limit
            if known is not None and limit > max(was, known.limit):
                assert known.limit == was, decision
            if known is not None:
                assert limit <= max(known.limit, 5_000) + RISE, decision

    def teardown(self) -> None:
        """A replay makes the same decisions, and everything works again in the end."""
        self.runner.run_until_complete(self.recover())
        self.runner.close()

    async def recover(self) -> None:
        """Put everything right, and wait for the maximum."""
        self.bus.is_up, self.latency = True, 0.0001
        for one in self.actuators:
            one.set_stopped(False)
            one.set_api(True)
        await self.advance(180)
        limit, samples = self.cluster.in_force, self.decider.samples
        for one in self.actuators:
            if one.is_alive:
                one.kill()
        await settle()
        assert limit == int(TARGET.max), (limit, self.bus.decisions[-1], self.decider.state)
        assert replay(DOMAIN, samples, self.bus.decisions)


TestLoop = Loop.TestCase
TestLoop.settings = settings(max_examples=6, stateful_step_count=15, deadline=None)
