"""When to correct what somebody else changed.  No I/O: time is an argument.

plan.py --> wait here --> execute.py

Corrected at once what was changed once, and ever more slowly what is changed again and again: two
who correct each other must not keep the API server busy.
"""

from collections.abc import Sequence

from services.actuator.plan import Write

_GAP_S = (0.2, 10.0)
"""Between two corrections: the first, and up to the second if it keeps coming back."""
_CUT_S = 0.5
"""At most this long where something may send more than it should."""


class Drift:
    """One target's corrections.  Times are seconds by a clock that never steps."""

    def __init__(self) -> None:
        """Begin with nothing corrected."""
        self._gap_s = _GAP_S[0]
        self._last = float("-inf")

    def wait_s(self, writes: Sequence[Write], now: float) -> float | None:
        """How long some writes have to wait; None: not at all, as whatever is not drift."""
        if any(write.record.cause != "drift" for write in writes):
            return None
        gap_s = min(self._gap_s, _CUT_S) if any(write.cut for write in writes) else self._gap_s
        left = self._last + gap_s - now
        return left if left > 0 else None

    def corrected(self, now: float) -> None:
        """Drift was corrected."""
        first, most = _GAP_S
        again = now - self._last < 4 * self._gap_s
        self._gap_s = min(2 * self._gap_s, most) if again else first
        self._last = now
