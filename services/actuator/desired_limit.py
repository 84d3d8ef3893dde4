"""What one target's limit should be, as time passes.  No I/O: time is an argument.

    decisions --> here --> order --> plan.py

A decision is taken if it answers a newer sample than the one in force, and holds until it expires.
Then, and at the start when nothing better is known, the fail-safe limit is in order.
"""

from msgspec import Struct

from schemas.domain import Target
from schemas.messages import Decision, TargetDecision
from schemas.units import Duration
from services.actuator.order import Order, fail_safe, from_decision, from_record, lowest, not_raised
from services.actuator.ownership import Record
from services.control.fencing import AHEAD, rejection_reason


class Moment(Struct, frozen=True):
    """A point in time."""

    now: int
    """By the wall clock, UTC ns: says whether a decision has expired."""
    steady: float
    """By a clock that never steps, seconds: says how long was waited."""


class Intent:
    """One target's order."""

    def __init__(self, target: Target, dead_man: Duration, grace_ends: float) -> None:
        """Begin without an order.

        Args:
            target: whose bounds and fail-safe limit hold.
            dead_man: without a decision for so long, the fail-safe limit is in order.
            grace_ends: until then, by the steady clock, the bus may still tell of a decision.
        """
        self.order: Order | None = None
        self.deadline: float | None = None
        """When the order lapses, by the steady clock; None: never."""
        self._target = target
        self._dead_man = dead_man
        self._grace_ends = grace_ends

    def alarm(self, moment: Moment) -> float | None:
        """When to look again although nothing happened, by the steady clock."""
        alarms = [self.deadline] if self.deadline is not None else []
        alarms += [self._grace_ends] if moment.steady < self._grace_ends else []
        return min(alarms, default=None)

    def informed(self, moment: Moment, *, bus_said: bool) -> bool:
        """Whether the bus has said what it holds, or has had its time to."""
        return bus_said or moment.steady >= self._grace_ends

    def offer(
        self, decision: Decision, part: TargetDecision, published: int, record: Record | None, moment: Moment
    ) -> str | None:
        """Take a decision as the order; gives the reason if it is not taken.

        Args:
            decision: what was decided.
            part: the decision's part about this target.
            published: when, UTC ns.
            record: what tells of the newest decision, as far as it is known.
            moment: now.
        """
        why = rejection_reason(self._fence(record, moment.now), decision, moment.now)
        if why is None:
            known = lowest(*(one.limit for one in (self.order, record) if one is not None))
            order = from_decision(self._target, decision, part, published)
            self._take(not_raised(self._target, order, known), moment)
        return why

    def hold(self, limit: int | None) -> None:
        """Lower an order that would raise what is in force without data.

        Args:
            limit: in force on the objects, kbit/s: they may be seen only after the decision came.
        """
        if self.order is not None:
            self.order = not_raised(self._target, self.order, limit)

    def is_about(self, decision: Decision) -> bool:
        """Whether the order comes from that decision."""
        return self.order is not None and self.order.decision == decision.id and self.order.end == decision.end

    def allows(self, order: Order, moment: Moment, *, cut: bool) -> bool:
        """Whether a write for an order may still be sent: while the order is in hand, and not over.

        A cut goes on under an order that took its place and is not lower: it has to be made anyway, and
        were it begun anew with every order, a slow API server would never get to the last of them.
        """
        if order is self.order:
            return self.deadline is None or moment.steady < self.deadline
        over = order.expires is not None and moment.now >= order.expires
        return cut and not over and self.order is not None and order.limit <= self.order.limit

    def lapse(self, limit: int | None, moment: Moment, *, seen: bool) -> Order | None:
        """Replace an order that is over by the fail-safe limit; gives the one that is over.

        Args:
            limit: in force on the objects, kbit/s.
            moment: now.
            seen: whether the Deployment is known; without it there is nothing to be in order.
        """
        if self.deadline is None or moment.steady < self.deadline:
            return None
        over, self.deadline = self.order, None
        text = f"no decision for {self._dead_man}"
        self.order = fail_safe(self._target, "dead-man", text, limit, over) if seen else None
        return over

    def begin(self, record: Record | None, limit: int | None, moment: Moment, *, bus_said: bool) -> None:
        """Without an order, go on with what the Deployment tells, or with the fail-safe limit."""
        if self.order is not None:
            return
        if record is not None and self._holds(record, moment.now):
            self._take(from_record(self._target, record), moment)
        elif self.informed(moment, bus_said=bus_said):
            self.order = fail_safe(self._target, "start", "no unexpired decision at the start", limit, record)

    def bow(self, record: Record | None, moment: Moment) -> bool:
        """Leave the order for a newer decision that the Deployment tells of; gives whether there is one."""
        if record is None or record.end is None or self.order is None or record.end > moment.now + AHEAD:
            return False
        if self.order.end is not None and record.end <= self.order.end:
            return False
        if self._holds(record, moment.now):
            self._take(from_record(self._target, record), moment)
        elif self.order.cause == "decision":
            text = "a newer decision than the one in hand was in force"
            self.order = fail_safe(self._target, "start", text, record.limit, record)
            self.deadline = None
        else:
            return False
        return True

    def _fence(self, record: Record | None, now: int) -> int | None:
        """End of the newest sample whose decision is or was in force; one from the future is void."""
        ends = [one.end for one in (self.order, record) if one is not None and one.end is not None]
        return max((end for end in ends if end <= now + AHEAD), default=None)

    def _take(self, order: Order, moment: Moment) -> None:
        # Whatever a decision says of its expiry, without a newer one the dead-man time is the end.
        left = min((order.expires or 0) - moment.now, self._dead_man)
        self.order = order
        self.deadline = moment.steady + left / 1e9

    def _holds(self, record: Record, now: int) -> bool:
        """Whether a record tells of a decision that still holds."""
        if record.end is None or record.expires is None:
            return False
        return record.end <= now + AHEAD and now < record.expires
