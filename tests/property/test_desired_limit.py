"""One target's order under any history of decisions, silence and clocks."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from schemas.messages import Decision, Rule, State, TargetDecision
from schemas.units import Duration
from services.actuator.desired_limit import DesiredLimit, Instant, LimitOrder
from services.control.admission import AHEAD
from tests.support.kube.objects import NOW, TARGET

S = 10**9
DEAD_MAN = Duration(5 * S)


class History(RuleBasedStateMachine):
    """Valid and forged decisions, in any order; time passes, the wall clock steps."""

    def __init__(self) -> None:
        """Begin at some time."""
        super().__init__()
        self.now = NOW
        self.steady = 100.0
        self.limit: int | None = None
        self.accepted_at: float | None = None

    @initialize(limit=st.none() | st.integers(1, 10**6))
    def begin(self, limit: int | None) -> None:
        """Start with some limit in force, or none."""
        self.limit = limit
        self.desired = DesiredLimit(TARGET, DEAD_MAN, self.steady + 2)

    @property
    def instant(self) -> Instant:
        """The current time."""
        return Instant(self.now, self.steady)

    @rule(
        age=st.integers(-30 * S, 30 * S),
        good_for=st.integers(-10 * S, 10**12),
        limit=st.integers(-(2**63), 2**63 - 1),
        rule_=st.sampled_from(("none", "no-data")),
        stress=st.none() | st.just(0.5),
        violated=st.booleans(),
    )
    def offer(
        self,
        age: int,
        good_for: int,
        limit: int,
        rule_: Rule,
        stress: float | None,
        violated: bool,
    ) -> None:
        """A decision arrives."""
        before = self.desired.order
        end = self.now - age
        part = TargetDecision(target=TARGET.key, limit=limit, proposal=limit, rule=rule_, was=0)
        state = State(1, 1, end, {}, "p")
        decision = Decision(
            domain="d",
            sample=f"d:{end}",
            end=end,
            expires=end + good_for,
            targets=(part,),
            reason="",
            state=state,
            policy="p",
            stress=stress,
            violated=violated,
        )
        why = self.desired.accept(decision, part, end, None, self.instant)
        if why is not None:
            assert self.desired.order is before
            return
        self.desired.cap(self.limit)
        order = self.desired.order
        assert order is not None
        if self.limit is not None and (rule_ == "no-data" or violated or stress is None):
            assert order.limit <= max(self.limit, TARGET.min), "a raise without data"
        assert self.now < decision.expires
        if before is not None and before.end is not None and before.end <= self.now + AHEAD:
            assert order.end is not None
            assert order.end > before.end, "older over newer"
        self.accepted_at = self.steady
        self.apply(order)

    @rule(seconds=st.floats(0, 8))
    def wait(self, seconds: float) -> None:
        """Time passes; the actuator wakes up."""
        self.steady += seconds
        self.now += int(seconds * 1e9)
        self.look()

    @rule(seconds=st.integers(-10_000, 10_000))
    def step_clock(self, seconds: int) -> None:
        """The wall clock is set; the monotonic one is not."""
        self.now = max(self.now + seconds * S, S)
        self.look()

    def look(self) -> None:
        """The actuator's reaction when it wakes up."""
        expired = self.desired.expire(self.limit, self.instant, is_observed=True)
        if expired is not None:
            self.check_fail_safe()
        was = self.desired.order
        self.desired.initialize(None, self.limit, self.instant)
        if was is None and self.desired.order is not None:
            self.check_fail_safe()

    def check_fail_safe(self) -> None:
        """The fail-safe limit raises nothing, except to the configured minimum."""
        order = self.desired.order
        assert order is not None
        assert order.cause in ("dead-man", "start")
        assert order.limit <= TARGET.fail_safe
        if self.limit is not None:
            assert order.limit <= max(self.limit, TARGET.min)
        self.apply(order)

    def apply(self, order: LimitOrder) -> None:
        """The order comes into force."""
        self.limit = order.limit

    @invariant()
    def stays_in_bounds(self) -> None:
        """The bounds hold, whatever was decided."""
        order = getattr(self, "desired", None) and self.desired.order
        if order:
            assert TARGET.min <= order.limit <= TARGET.max

    @invariant()
    def never_held_for_longer(self) -> None:
        """No decision holds longer than the dead-man time, whatever its expiry and whatever the clocks do."""
        desired = getattr(self, "desired", None)
        if desired is None or desired.order is None or desired.order.cause != "decision":
            return
        assert desired.deadline is not None
        assert self.accepted_at is not None
        assert desired.deadline <= self.accepted_at + DEAD_MAN.seconds + 1e-6


TestHistory = History.TestCase
