"""What one target's limit should be, as decisions arrive and time passes.  Pure: time is an argument.

    decisions --> here --> limit order --> plan.py

A decision is accepted if it answers a newer sample than the one in force, and holds until it expires.
After that, and at the start when nothing better is known, the fail-safe limit is desired.  A higher limit is
approached by steps.
"""

from msgspec import Struct
from msgspec.structs import replace

from schemas.domain import Target
from schemas.messages import Cause, Decision, TargetDecision
from schemas.provenance import Provenance
from schemas.units import Duration, Rate
from services.actuator.ownership import OwnershipRecord
from services.control.admission import AHEAD, rejection_reason

HELD_BACK = "raised no further than"
"""Part of the reason of an order whose limit is lower than was decided; audits look for it."""
_MOST_RISE_S = 1.0
"""No more than the rise of so much time is ever saved up."""
_RISE_STEP_S = 0.5
"""A rise in steps takes one in this time."""


class Instant(Struct, frozen=True):
    """A point in time."""

    now: int
    """By the wall clock, UTC ns: shows whether a decision has expired."""
    steady: float
    """By a clock that never steps, seconds: measures durations."""


class LimitOrder(Provenance, frozen=True, kw_only=True):
    """One target's desired limit, and why."""

    cause: Cause
    limit: int
    """kbit/s, within the actuator's own bounds."""
    reason: str
    why_no_raise: str | None = None
    """Why the order must not raise what is in force; None where it may."""
    is_repeated: bool = False
    """Whether the fail-safe limit was desired just before for the same reason."""


def build_order(target: Target, decision: Decision, part: TargetDecision, published: int) -> LimitOrder:
    """Take a target's limit from a decision, within the target's bounds.

    Args:
        target: whose bounds hold.
        decision: what was decided.
        part: the decision's part about this target.
        published: when the decision was published, UTC ns.
    """
    limit = _clamp(target, part.limit)
    reason = decision.reason
    if limit != part.limit:
        asked = Rate(part.limit) if part.limit >= 0 else f"{part.limit} kbit/s"
        reason = f"{reason}; {asked} was asked for, outside of {target.min} to {target.max}"
    return LimitOrder(
        cause="decision",
        limit=limit,
        reason=reason,
        why_no_raise="without data that allow a raise" if decision.forbids_raise(part) else None,
        decision=decision.id,
        epoch=decision.state.epoch,
        seq=decision.state.seq,
        end=decision.end,
        decided=published,
        expires=decision.expires,
    )


def _clamp(target: Target, limit: int) -> int:
    """Bound a limit by the actuator's own configuration."""
    return int(min(max(limit, target.min), target.max))


class Lapses:
    """Decisions that reach the actuator so late that each lapses before the next one comes.

    Clocks that differ, or a slow bus, would otherwise take a limit up with every decision, and down again when it
    lapses.  Once the dead-man has fired, a decision raises the limit only if it holds for long enough.
    """

    _SHARE, _AGAIN, _MOST, _FORGET = 0.2, 2.0, 0.8, 10.0
    """Of the dead-man time: how long a decision must hold at first, by what factor longer after each further lapse,
    how long at most, and after which time without one the lapses no longer count."""

    def __init__(self, dead_man_s: float) -> None:
        """Begin with none."""
        self.why: str | None = None
        """Why decisions raise nothing now."""
        self._dead_man_s = dead_man_s
        self._needed_s: float | None = None
        """How long a decision must hold to raise the limit; None: no lapse was counted since the last that did."""
        self._again = 0
        self._last = float("-inf")

    def count(self, now: float) -> bool:
        """Count a lapse; returns whether no decision could raise the limit since the one before."""
        if self._needed_s is not None:
            return True
        self._again = self._again + 1 if now - self._last < self._FORGET * self._dead_man_s else 0
        self._last = now
        self._needed_s = self._dead_man_s * min(self._SHARE * self._AGAIN**self._again, self._MOST)
        return False

    def why_too_late(self, left_s: float, now: float) -> str | None:
        """Why a decision that holds for ``left_s`` must not raise the limit; None where it may."""
        if self._needed_s is None or left_s >= self._needed_s:
            self._needed_s = self.why = None
        else:
            self._last = now
            text = f"holds for {max(left_s, 0.0):.1f} s only, too late to rely on the next"
            self.why = f"decisions arrive late: the last one {text}"
            return f"was decided, {HELD_BACK} what is in force: it {text}"
        return None


class DesiredLimit:
    """One target's limit order over time."""

    def __init__(self, target: Target, dead_man: Duration, grace_ends: float) -> None:
        """Begin without an order.

        Args:
            target: whose bounds and fail-safe limit hold.
            dead_man: without a decision for so long, the fail-safe limit is desired.
            grace_ends: until then, by the steady clock, the bus may still supply a decision.
        """
        self.order: LimitOrder | None = None
        self.deadline: float | None = None
        """When the order expires, by the steady clock; None: never.

        Whatever expiry a decision has, it never holds for longer than the dead-man time.
        """
        self.bus_answered = False
        """Whether the bus has supplied what it holds."""
        self._target = target
        self._dead_man = dead_man
        self._grace_ends = grace_ends
        self._revision = self._least_revision = 0
        """The last definition that was decided under, and the first that counts until a time by the steady clock."""
        self._scope_settles = float("-inf")
        self.lapses = Lapses(dead_man.seconds)

    def define(self, target: Target, dead_man: Duration) -> None:
        """Go on under other bounds: the order is brought inside of them, and a fail-safe limit is not raised."""
        if dead_man != self._dead_man:
            self.lapses = Lapses(dead_man.seconds)
        self._target, self._dead_man = target, dead_man
        if self.order is None:
            return
        wanted = self.order.limit if self.order.cause == "decision" else min(self.order.limit, target.fail_safe)
        limit = _clamp(target, wanted)
        if limit != self.order.limit:
            text = f"{self.order.reason}; {Rate(self.order.limit)} is not within its new bounds"
            self.order = replace(self.order, limit=limit, reason=text)

    def change_scope(self, now: float) -> None:
        """Limits are another quantity from now on, by the steady clock: nothing that was decided goes on.

        Which definition brought the change is not known here, only that it is later than what was seen.  So decisions
        under earlier ones are refused for a time only, in which the decision service takes the definition up.
        """
        self.order = self.deadline = None
        self._least_revision, self._scope_settles = self._revision + 1, now + self._dead_man.seconds

    def next_wake(self, instant: Instant) -> float | None:
        """When time alone may change the order next, by the steady clock; None: never."""
        times = [self.deadline] if self.deadline is not None else []
        times += [self._grace_ends] if instant.steady < self._grace_ends else []
        return min(times, default=None)

    def accept(
        self,
        decision: Decision,
        part: TargetDecision,
        published: int,
        record: OwnershipRecord | None,
        instant: Instant,
    ) -> str | None:
        """Make a decision the order, or return why it is refused.

        Args:
            decision: what was decided.
            part: the decision's part about this target.
            published: when, UTC ns.
            record: the newest one on the target's objects, as far as they are known.
            instant: now.
        """
        self._revision = max(self._revision, decision.definition)
        if decision.definition < self._least_revision and instant.steady < self._scope_settles:
            return f"overtaken: it was decided under definition {decision.definition}, before the scope changed"
        known = [one for one in (self.order, record) if one is not None]
        # A sample from the future was written under a wrong clock, and fences nothing.
        ends = [one.end for one in known if one.end is not None and one.end <= instant.now + AHEAD]
        why = rejection_reason(max(ends, default=None), decision, instant.now)
        if why is None:
            before = min((one.limit for one in known), default=None)
            order = build_order(self._target, decision, part, published)
            left_s = min(decision.expires - instant.now, self._dead_man) / 1e9
            late = self.lapses.why_too_late(left_s, instant.steady)
            self.order = order if late is None or order.why_no_raise else replace(order, why_no_raise=late)
            self.deadline = instant.steady + left_s
            self.cap(before)
        return why

    def cap(self, limit: int | None) -> None:
        """Lower an order that would raise the limit in force without data that allow it.

        A decision service that has lost its state does not know what is in force.

        Args:
            limit: in force, kbit/s; None: unlimited.
        """
        order = self.order
        if order is None or order.why_no_raise is None or limit is None:
            return
        kept = _clamp(self._target, limit)
        if kept < order.limit:
            text = f"{Rate(order.limit)} {order.why_no_raise}: stays at {Rate(kept)}"
            self.order = replace(order, limit=kept, reason=f"{order.reason}; {text}")

    def is_from(self, decision: Decision) -> bool:
        """Whether the order comes from that decision."""
        return self.order is not None and self.order.decision == decision.id and self.order.end == decision.end

    def is_wanted(self, order: LimitOrder, instant: Instant, *, is_cut: bool) -> bool:
        """Whether a write for an order may still be sent: it is the current order, and has not expired.

        A cut is still sent under a newer order that is not lower: it has to be made anyway, and if every
        order restarted it, a slow API server would never get to the last Pod.
        """
        if order is self.order:
            return self.deadline is None or instant.steady < self.deadline
        has_expired = order.expires is not None and instant.now >= order.expires
        return is_cut and not has_expired and self.order is not None and order.limit <= self.order.limit

    def expire(self, limit: int | None, instant: Instant, *, is_observed: bool) -> LimitOrder | None:
        """Replace an expired order by the fail-safe limit; returns the expired order.

        Args:
            limit: in force on the objects, kbit/s.
            instant: now.
            is_observed: whether the workload is known; if not, no limit is desired.
        """
        if self.deadline is None or instant.steady < self.deadline:
            return None
        expired, self.order = self.order, None
        self.deadline = None
        is_repeated = self.lapses.count(instant.steady)
        if is_observed:
            self._fall_back("dead-man", f"no decision for {self._dead_man}", limit, expired, is_repeated=is_repeated)
        return expired

    def initialize(self, record: OwnershipRecord | None, limit: int | None, instant: Instant) -> bool:
        """Without an order, continue the one that a record shows, or desire the fail-safe limit.

        Args:
            record: the newest one on the target's objects.
            limit: in force on the objects, kbit/s.
            instant: now.

        Returns:
            Whether the bus has supplied what it holds, or has had its time to.
        """
        is_ready = self.bus_answered or instant.steady >= self._grace_ends
        if self.order is None and record is not None and _is_current(record, instant.now):
            self._resume(record, instant)
        elif self.order is None and is_ready:
            self._fall_back("start", "no unexpired decision at the start", limit, record)
        return is_ready

    def adopt_newer(self, record: OwnershipRecord | None, instant: Instant) -> bool:
        """Give the order up for a newer decision that a record shows; returns whether there is one."""
        if record is None or record.end is None or self.order is None or record.end > instant.now + AHEAD:
            return False
        if self.order.end is not None and record.end <= self.order.end:
            return False
        if _is_current(record, instant.now):
            self._resume(record, instant)
            return True
        if self.order.cause != "decision":
            return False
        self._fall_back("start", "a newer decision was in force, and has expired", record.limit, record)
        self.deadline = None
        return True

    def _resume(self, record: OwnershipRecord, instant: Instant) -> None:
        limit = _clamp(self._target, record.limit)
        self.order = LimitOrder(cause="decision", limit=limit, reason="in force already", **record.fields)
        self.deadline = instant.steady + min((record.expires or 0) - instant.now, self._dead_man) / 1e9

    def _fall_back(
        self,
        cause: Cause,
        reason: str,
        limit: int | None,
        last: LimitOrder | OwnershipRecord | None,
        *,
        is_repeated: bool = False,
    ) -> None:
        """Desire the fail-safe limit, or a lower one that may be in force: without data nothing is raised.

        The last order may be in force on some of the objects only; its fence is kept.
        """
        known = (limit, last.limit if last else None)
        safe = min([self._target.fail_safe, *(one for one in known if one is not None)])
        self.order = LimitOrder(
            cause=cause,
            limit=_clamp(self._target, safe),
            reason=reason,
            epoch=last.epoch if last else 0,
            seq=last.seq if last else 0,
            end=last.end if last else None,
            is_repeated=is_repeated,
        )


class RiseBound:
    """Bounds how fast what is in force rises, whatever is decided and however long nothing could be written.

    The shield bounds every rise from the limit decided before.  After an outage that limit was never in force:
    decisions went on rising on latency measured under an older one.  The same bound therefore holds here, from what
    is in force.  Over any time t, a limit rises by at most ``rise * (t + 1 s)``, as under the shield.  Cuts are never
    delayed.  Limits are kbit/s, times seconds by a steady clock.
    """

    def __init__(self, rise: int) -> None:
        """``rise`` is the most in one second, kbit/s."""
        self._rise = rise
        self._saved = rise * _MOST_RISE_S
        """The rise that is allowed at once, kbit/s."""
        self._now = 0.0
        self._in_force: int | None = None
        self._step: tuple[LimitOrder, LimitOrder] | None = None
        """The order, and the step towards it that is being taken."""

    def define(self, rise: int) -> None:
        """Rise by at most so much in one second from now on, kbit/s; nothing more is saved up than before."""
        self._rise = rise

    def next_step(self, order: LimitOrder, in_force: int | None, now: float) -> LimitOrder:
        """The order as far as it may be put in force now.

        Args:
            order: what is desired.
            in_force: the lowest limit that may be in force; None: there is none, so that any limit is a cut.
            now: by the steady clock.
        """
        # A rise uses up what was saved.
        if in_force is not None and self._in_force is not None and in_force > self._in_force:
            self._saved = max(self._saved - (in_force - self._in_force), 0.0)
        self._saved = min(self._saved + self._rise * max(now - self._now, 0.0), self._rise * _MOST_RISE_S)
        self._now, self._in_force = now, in_force
        if in_force is None or order.limit <= in_force:
            self._step = None
            return order
        if self._step is not None and self._step[0] is order and self._step[1].limit > in_force:
            return self._step[1]
        highest = in_force + int(self._saved)
        if order.limit <= highest:
            self._step = (order, order)
            return order
        if self.wait_s(order, in_force) > 0:
            highest = in_force
        text = f"{Rate(order.limit)} was decided, {HELD_BACK} {Rate(highest)}: rises start from what is in force"
        step = replace(order, limit=highest, reason=f"{order.reason}; {text}")
        self._step = (order, step)
        return step

    def wait_s(self, order: LimitOrder, in_force: int | None) -> float:
        """After how many seconds the next step is due, once this one is in force; not positive: now."""
        if in_force is None or order.limit <= in_force:
            return 0.0
        needed = min(float(order.limit - in_force), self._rise * _RISE_STEP_S)
        return (needed - self._saved) / self._rise


def _is_current(record: OwnershipRecord, now: int) -> bool:
    """Whether a record shows a decision that still holds."""
    if record.end is None or record.expires is None:
        return False
    return record.end <= now + AHEAD and now < record.expires
