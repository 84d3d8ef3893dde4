"""Whether the readings of a counter can come from one process.  Pure.

A counter only rises.  One that falls is taken for restarted, and counts from zero.  But several processes that
answer in turn at one address, behind a Service say, look alike: the counter falls to what another process has
counted in hours.  So a restart is believed only if

1. a histogram fell as a whole: no bucket alone;
2. within one window the counter fell below everything that it had shown, and stays below the height it fell from;
3. what it shows after the fall can have been counted since the last page: at most 100, or ten times the recent pace;
4. it does not, however much later, jump back above the height it fell from, in a larger step than that.

A rise of more than 1,000, and of more than ten times the recent pace, is believed once it goes on.

Coming back above, or a bucket that falls alone, proves that several processes answer; a fall that is not deep enough
or shows too much, and such a rise, make it doubtful.
"""

from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import pairwise
from statistics import median

_SLACK = 100.0
"""What any process may count between two pages."""
_BURST = 1_000.0
"""A rise that is believed whatever the pace was before."""
_TIMES_PACE = 10.0
_PACES = 3
"""The pace is the median of so many steps: one wrong step does not change it."""


class Verdict(Enum):
    """Whether one process counted a step."""

    ONE = "one process"
    DOUBTFUL = "doubtful"
    SEVERAL = "several processes"


class CounterTrail:
    """What is remembered of one counter."""

    __slots__ = ("_doubted", "_paces", "_peak")

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._paces: tuple[float, ...] = ()
        self._peak = 0.0
        self._doubted = False

    def judge(
        self, before: Sequence[float], after: Sequence[float], seconds: float, heights: Iterable[float], *, steady: bool
    ) -> Verdict:
        """Judge the step from one reading to the next.

        Args:
            before: the counter, or cumulative buckets with ``+Inf`` last, on the page before.
            after: the same on this page.
            seconds: between the two pages.
            heights: of all readings in the window before ``after``, the last of ``before`` included.
            steady: whether the counter is one of events that come steadily, so that a jump is doubtful.
        """
        low, high = before[-1], after[-1]
        plausible = _TIMES_PACE * (median(self._paces) if self._paces else 0.0) * seconds
        if high < low:
            self._doubted = False
            self._peak = max(self._peak, low)
            readings = list(heights)
            if _came_back(readings, high):
                return Verdict.SEVERAL
            deep = all(reading > high for reading in readings)
            return Verdict.ONE if deep and high <= max(_SLACK, plausible) else Verdict.DOUBTFUL
        if any(new < old for old, new in zip(before, after, strict=True)):
            return Verdict.SEVERAL
        rise = high - low
        if self._peak and _came_back(heights, high):
            return Verdict.SEVERAL
        if low < self._peak <= high:
            if rise > max(_SLACK, plausible):
                return Verdict.SEVERAL
            self._peak = 0.0
        sudden = steady and rise > max(_BURST, plausible) and (bool(self._paces) or rise > low)
        doubtful, self._doubted = sudden and not self._doubted, sudden
        if not doubtful and seconds > 0:
            self._paces = (*self._paces[1 - _PACES :], rise / seconds)
        return Verdict.DOUBTFUL if doubtful else Verdict.ONE


def _came_back(heights: Iterable[float], high: float) -> bool:
    """Whether a counter that fell within the window is back where it fell from."""
    return any(earlier > later and earlier <= high for earlier, later in pairwise(heights))
