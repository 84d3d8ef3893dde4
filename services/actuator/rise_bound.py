"""Bounds how fast what is in force rises, whatever is decided and however long nothing could be written.

The shield bounds every rise from the limit decided before.  After an outage that limit was never in force: decisions
went on rising on latency measured under an older one.  The same bound therefore holds here, from what is in force.
Over any time t, a limit rises by at most ``rise * (t + 1 s)``, as under the shield.  Cuts are never delayed.
Pure: time is an argument.
"""

from msgspec.structs import replace

from schemas.units import Rate
from services.actuator.desired_limit import HELD_BACK, LimitOrder

_MOST_S = 1.0
"""No more than the rise of so much time is ever saved up."""
_STEP_S = 0.5
"""A rise in steps takes one in this time."""


class RiseBound:
    """One target's rise so far.  Limits are kbit/s, times seconds by a steady clock."""

    def __init__(self, rise: int) -> None:
        """``rise`` is the most in one second, kbit/s."""
        self._rise = rise
        self._saved = rise * _MOST_S
        """The rise that is allowed at once, kbit/s."""
        self._now = 0.0
        self._in_force: int | None = None
        self._step: tuple[LimitOrder, LimitOrder] | None = None
        """The order, and the step towards it that is being taken."""

    def next_step(self, order: LimitOrder, in_force: int | None, now: float) -> LimitOrder:
        """The order as far as it may be put in force now.

        Args:
            order: what is desired.
            in_force: the lowest limit that may be in force; None: there is none, so that any limit is a cut.
            now: by the steady clock.
        """
        self._count(in_force, now)
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
        needed = min(float(order.limit - in_force), self._rise * _STEP_S)
        return (needed - self._saved) / self._rise

    def _count(self, in_force: int | None, now: float) -> None:
        """Take note of what is in force: a rise uses up what was saved."""
        if in_force is not None and self._in_force is not None and in_force > self._in_force:
            self._saved = max(self._saved - (in_force - self._in_force), 0.0)
        self._saved = min(self._saved + self._rise * max(now - self._now, 0.0), self._rise * _MOST_S)
        self._now, self._in_force = now, in_force
