"""The control core under arbitrary samples, with a harmful policy."""

import math
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from schemas.domain import Critical, Domain, Shield, Target
from schemas.messages import CriticalMeasure, Decision, Sample, State, TargetMeasure, decode, encode
from schemas.units import Rate
from services.control import Controller, StaleSample
from services.control.observation import Observation, Observer
from services.control.policy import Bounds, CutMemory, Proposal
from services.control.shield import Limits

S = 10**9
LATENCY = st.one_of(st.floats(0, 0.1), st.sampled_from([None, math.nan, math.inf, -math.inf, -1.0, 0.0, 0.002, 1e300]))
RATE = st.one_of(st.none(), st.integers(-5, 10**7))
HARM: st.SearchStrategy[Any] = st.one_of(
    st.integers(-(10**30), 10**30), st.sampled_from([None, "x", math.nan, math.inf, 1e300, True, [], RuntimeError("x")])
)


class Harmful:
    """Gives the answers that the machine sets, and tries to modify its inputs."""

    version = "harmful/1"
    memory_type = CutMemory
    answer: Any = 0
    memory: Any = CutMemory()

    def propose(self, memory: CutMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Propose an arbitrary value."""
        for given in (memory, seen, bounds):
            try:
                given.limit = 10**9  # type: ignore[misc, union-attr]
            except AttributeError:
                continue
            raise AssertionError("what a policy is given can be changed")
        if isinstance(self.answer, Exception):
            raise self.answer
        return Proposal(self.answer, "harm", self.memory)


@st.composite
def domains(draw: st.DrawFn) -> Domain:
    """One to three targets, one or two critical workloads, any shield."""
    targets = []
    for number in range(draw(st.integers(1, 3))):
        least, safe, most = sorted(draw(st.lists(st.integers(1, 100_000), min_size=3, max_size=3)))
        weight = draw(st.integers(1, 10))
        targets.append(
            Target(deployment=f"t{number}", min=Rate(least), max=Rate(most), fail_safe=Rate(safe), weight=weight)
        )
    rise = draw(st.floats(0.01, 1))
    shield = Shield(rise_per_second=rise, cut=draw(st.floats(0.05, 0.95)), deadband=draw(st.floats(0, min(rise, 0.2))))
    capacity = draw(st.one_of(st.none(), st.integers(sum(t.fail_safe for t in targets), 400_000).map(Rate)))
    critical = tuple(Critical(f"c{number}") for number in range(draw(st.integers(1, 2))))
    return Domain("d", critical, tuple(targets), shield=shield, capacity=capacity)


class Loop(RuleBasedStateMachine):
    """Samples arrive delayed, duplicated, out of order, empty and absurd; the state is serialized each time."""

    @initialize(domain=domains())
    def begin(self, domain: Domain) -> None:
        """Create a domain."""
        self.domain = domain
        self.learner = Harmful()
        self.controller = Controller(domain, self.learner)
        self.state: State | None = None
        self.last: Decision | None = None
        self.now = 1000 * S
        self.waiting: list[Sample] = []
        self.low = {t.key: t.fail_safe for t in domain.targets}
        self.history: list[tuple[int, dict[str, int]]] = []

    @rule(
        latency=LATENCY, jitter=LATENCY, lost=st.sampled_from([None, 0.0, 0.0, 0.0, 3.0, math.nan, math.inf, -2.0]),
        observations=st.sampled_from([500, 500, 500, 0, -1]), throughput=RATE, window=st.integers(1, 4),
        period=st.sampled_from([S // 4, S // 2, S]), skip=st.sampled_from([1, 1, 1, 2, 30]),
        late=st.booleans(), no_data=st.sampled_from([None, None, None, "timeout"]), shorten=st.integers(0, 3),
    )  # fmt: skip
    def measure(self, **drawn: Any) -> None:
        """A window ends; its sample arrives now or later."""
        self.now += drawn["period"] * drawn["skip"]
        measures = [
            CriticalMeasure(
                one.key, drawn["jitter"], drawn["latency"], drawn["observations"], drawn["lost"], drawn["throughput"]
            )
            for one in self.domain.critical
        ]
        efforts = tuple(TargetMeasure(one.key, drawn["throughput"]) for one in self.domain.targets)
        one = Sample(
            "d", self.now - drawn["window"] * drawn["period"], self.now, drawn["period"], "test",
            tuple(measures[drawn["shorten"] // 3 :]), efforts, drawn["no_data"],
        )  # fmt: skip
        self.waiting.append(one)
        if not drawn["late"]:
            self.take(one)

    @rule(index=st.integers(0, 1000), again=st.booleans())
    def arrive(self, index: int, again: bool) -> None:
        """A delayed sample arrives, possibly for the second time."""
        if self.waiting:
            one = self.waiting[index % len(self.waiting)] if again else self.waiting.pop(index % len(self.waiting))
            self.take(one)

    @rule(start=st.integers(-(2**62), 2**62), shift=st.integers(-(2**62), 10**6), period=st.integers(-(2**62), 2**62))
    def absurd(self, start: int, shift: int, period: int) -> None:
        """An impossible window, which ends in the past or shortly after now."""
        measures = tuple(CriticalMeasure(one.key, 0.0, 0.0, 500, 0.0, 0) for one in self.domain.critical)
        self.take(Sample("d", start, self.now + shift, period, "test", measures))
        self.now += 10**6

    @rule(answer=HARM, memory=st.sampled_from([CutMemory(), CutMemory(2**62), None, {}, 7]))
    def scheme(self, answer: Any, memory: Any) -> None:
        """The policy changes its proposals."""
        self.learner.answer, self.learner.memory = answer, memory

    @rule()
    def keen(self) -> None:
        """The policy proposes the maximum."""
        self.learner.answer, self.learner.memory = 10**12, CutMemory()

    @rule(fault=st.sampled_from(["took 80 ms"]))
    def slow(self, fault: str) -> None:
        """The policy took too long: the decision service records a fault, and skips the policy for this step."""
        self.now += S // 2
        measures = tuple(CriticalMeasure(one.key, 0.0005, 0.0005, 500, 0.0, 0) for one in self.domain.critical)
        self.take(Sample("d", self.now - S, self.now, S // 2, "test", measures), fault)

    @rule()
    def wipe(self) -> None:
        """The bus was wiped: a new epoch."""
        self.state = self.last = None
        self.history.clear()

    def take(self, sample: Sample, fault: str | None = None) -> None:
        """Step, and check the result."""
        before = self.state
        try:
            decision = self.controller.step(before, sample, fault)
        except StaleSample:
            assert before is not None
            assert sample.end <= before.end
            return
        again = self.controller.step(before, sample, fault)
        assert encode(decision) == encode(again), "the same inputs gave another decision"
        if fault is not None:
            assert decision.fault == fault
        self.check(before, sample, decision)
        # The next step starts from the serialized state.
        self.state = decode(Decision, encode(decision)).state
        self.last = decision

    def check(self, before: State | None, sample: Sample, decision: Decision) -> None:
        """Check the invariants of a single decision."""
        seen = Observer(self.domain).observe(sample)
        gap = before is not None and sample.end - before.end > self.domain.dead_man
        most = sum(Limits.from_target(target, self.domain).max for target in self.domain.targets)
        cap = most if self.domain.capacity is None else min(most, self.domain.capacity)
        assert sum(one.limit for one in decision.targets) <= cap
        for target, one in zip(self.domain.targets, decision.targets, strict=True):
            limits = Limits.from_target(target, self.domain)
            assert limits.min <= one.limit <= limits.max
            was = before.shield[one.target].limit if before else target.fail_safe
            if seen.missing or seen.violated or before is None or gap:
                assert one.limit <= was, "a limit rose without good news"
            if gap:
                assert one.limit <= target.fail_safe
            if before is not None:
                assert one.limit - was <= limits.rise
        if before is not None:
            assert (decision.epoch, decision.seq) == (before.epoch, before.seq + 1)
        assert decision.expires - decision.end == self.domain.dead_man

    @invariant()
    def rises_are_paid_for(self) -> None:
        """Over every interval of the run, rises are within rise x (t + 1 s)."""
        if getattr(self, "last", None) is None:
            return
        limits = {one.target: one.limit for one in self.last.targets}  # type: ignore[union-attr]
        end = self.last.end  # type: ignore[union-attr]
        if not self.history or self.history[-1][0] != end:
            self.history = [*self.history[-30:], (end, limits)]
        for then, was in self.history[:-1]:
            for target in self.domain.targets:
                rise = Limits.from_target(target, self.domain).rise
                assert (limits[target.key] - was[target.key]) * S <= rise * (end - then + S)


Loop.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLoop = Loop.TestCase
TestLoop.__doc__ = "No order of bad inputs, and no learner, moves a limit out of its rules."
