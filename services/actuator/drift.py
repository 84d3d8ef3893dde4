"""When to correct an object again whose value another client changes."""


class DriftBackOff:
    """Delays corrections of values that another client changes repeatedly.  Times are seconds by a steady clock.

    Two who correct each other must not keep the API server busy.
    """

    _FIRST_S, _MOST_S = 0.2, 10.0
    """Between two corrections at first, and at most."""
    _CUT_S = 0.5
    """At most this long where an object may send more than it should."""

    def __init__(self) -> None:
        """Begin with nothing corrected."""
        self._gap_s = self._FIRST_S
        self._last = float("-inf")

    def next_wait(self, now: float, *, has_cut: bool) -> float:
        """How long the next correction has to wait; not positive: not at all."""
        gap_s = min(self._gap_s, self._CUT_S) if has_cut else self._gap_s
        return self._last + gap_s - now

    def count(self, now: float) -> None:
        """Count a correction."""
        is_repeated = now - self._last < 4 * self._gap_s
        self._gap_s = min(2 * self._gap_s, self._MOST_S) if is_repeated else self._FIRST_S
        self._last = now
