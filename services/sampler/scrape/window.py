"""The last pages of one exporter, and how much every counter increased over a window of them.

Increases are those of PromQL's ``increase`` before it extrapolates: from the first page in the window that
has the series to the last, and across every reset in between.  There are two differences.  What appears inside the
window counts from zero: a loss counter, because an exporter that names a workload only at its first loss would
otherwise hide that loss, and a histogram of a workload that has others, because it may hold the slow connections.
A histogram is reset as a whole, where PromQL looks at each bucket alone: a bucket that
has already counted more than before the restart would be cut.

Counters that one process cannot have counted are not believed.

A counter only rises.  One that falls is taken for restarted, and counts from zero.  But several processes that
answer in turn at one address, behind a Service say, look alike: the counter falls to what another process has
counted in hours.  So a restart is believed only if

1. a histogram fell as a whole: no bucket alone;
2. within one window the counter fell below everything that it had shown, and stays below the height it fell from;
3. what it shows after the fall can have been counted since the last page: at most 100, or ten times the recent pace;
4. it does not, however much later, jump back above the height it fell from, in a larger step than that.

A histogram that appears with more than that is doubtful, too.
A rise of more than 1,000, and of more than ten times the recent pace, is believed with its third page in a row: three
processes in the order of their heights look like two such rises.  One that ends sooner stays doubtful for a window.

Coming back above, or a bucket that falls alone, proves that several processes answer; a fall that is not deep enough
or shows too much, and such a rise, make it doubtful.
"""

from collections import deque
from collections.abc import Iterable, Sequence, Set
from enum import Enum
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from services.sampler.scrape.parser import CounterSeries, ScrapedPage, SeriesKind

_SLACK = 100.0
"""What any process may count between two pages."""
_BURST = 1_000.0
"""A rise that is believed whatever the pace was before."""
_TIMES_PACE = 10.0
_GOES_ON = 3
"""Sudden rises in a row that are believed: three processes can make two."""
_PACES = 3
"""The pace is the median of so many steps: one wrong step does not change it."""


class Increase(NamedTuple):
    """The increase of one series."""

    counts: list[float]
    seconds: float
    """The time between the two counts; 0 where the exporter did not update the count within the window."""


class _Snapshot(NamedTuple):
    end: int
    at: float
    increases: dict[CounterSeries, list[float]]
    """Since the page before."""
    stamps: dict[CounterSeries, int]
    heights: dict[CounterSeries, float]
    """What each counter showed; of a histogram all observations."""


_HELD = 10
"""Windows for which an address is not believed after several processes have answered at it."""
_SEVERAL = "several processes answer at one address: a counter fell to {after:g} from {before:g}, or came back above it"
_DOUBTFUL = (
    "several processes answer at one address, or the counter jumped: from {before:g} to {after:g} between two pages"
)
_APPEARED = "a histogram appeared with {after:g} observations: it is not known when they were made"


class Verdict(Enum):
    """Whether one process counted a step."""

    ONE = "one process"
    DOUBTFUL = "doubtful"
    PENDING = "doubtful, unless the next pages show more of the kind"
    SEVERAL = "several processes"


class CounterTrail:
    """What is remembered of one counter."""

    __slots__ = ("_paces", "_peak", "_sudden")

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._paces: tuple[float, ...] = ()
        self._peak = 0.0
        self._sudden = 0
        """Sudden rises in a row."""

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
        was_pending = 0 < self._sudden < _GOES_ON
        if high < low:
            self._sudden = 0
            self._peak = max(self._peak, low)
            readings = list(heights)
            if _came_back(readings, high):
                return Verdict.SEVERAL
            deep = all(reading > high for reading in readings)
            is_restart = deep and high <= max(_SLACK, plausible) and not was_pending
            return Verdict.ONE if is_restart else Verdict.DOUBTFUL
        rise = high - low
        is_back = self._peak and (
            _came_back(heights, high) or (low < self._peak <= high and rise > max(_SLACK, plausible))
        )
        if is_back or any(new < old for old, new in zip(before, after, strict=True)):
            return Verdict.SEVERAL
        if high >= self._peak:
            self._peak = 0.0
        self._sudden = self._sudden + 1 if steady and rise > max(_BURST, plausible) else 0
        if 0 < self._sudden < _GOES_ON:
            return Verdict.PENDING
        if seconds > 0:
            self._paces = (*self._paces[1 - _PACES :], rise / seconds)
        return Verdict.DOUBTFUL if was_pending and not self._sudden else Verdict.ONE


def _came_back(heights: Iterable[float], high: float) -> bool:
    """Whether a counter that fell within the window is back where it fell from."""
    return any(earlier > later and earlier <= high for earlier, later in pairwise(heights))


class PageWindow:
    """Pages of one exporter over one window."""

    def __init__(self, window: int) -> None:
        """Keep as many pages as a window of that many ns needs."""
        self._window = window
        self._snapshots: deque[_Snapshot] = deque()
        self._last: dict[CounterSeries, tuple[int, tuple[float, ...]]] = {}
        self._newest: set[tuple[SeriesKind, str]] = set()
        self._trails: dict[CounterSeries, CounterTrail] = {}
        self._unreliable: dict[tuple[SeriesKind, str], tuple[int, str]] = {}
        self._several: tuple[int, str] | None = None
        self._unread: frozenset[str] = frozenset()
        """Workloads whose counters were not read before: what they show first was not counted since the last page."""

    def expect(self, workloads: Iterable[str]) -> None:
        """Read these workloads from the next page on, which were not read before."""
        self._unread = frozenset(workloads)

    def add(self, end: int, at: float, page: ScrapedPage) -> None:
        """Add the page that was read for the window ending at ``end``.

        Args:
            end: UTC ns, later than that of the page before.
            at: when it was read, by a clock that never jumps, seconds.
            page: what was read.
        """
        self.drop_old(end, at)
        increases = {}
        heights = {series: counts[-1] for series, counts in page.counters.items()}
        for series, counts in page.counters.items():
            if series in self._last:
                before = self._last[series][1]
                trail = self._trails.setdefault(series, CounterTrail())
                # A page may have been without the series.
                last = next(one for one in reversed(self._snapshots) if series in one.heights)
                shown = (one.heights[series] for one in self._snapshots if series in one.heights)
                verdict = trail.judge(before, counts, at - last.at, shown, steady=series.kind != "throughput")
                if verdict is not Verdict.ONE:
                    self._doubt(series, verdict, before[-1], counts[-1], end)
                reset = counts[-1] < before[-1]
                increases[series] = (
                    list(counts) if reset else [max(b - a, 0.0) for a, b in zip(before, counts, strict=True)]
                )
            elif self._snapshots and self._counts_from_zero(series, counts, end, at):
                increases[series] = list(counts)
            self._last[series] = (end, counts)
        self._unread = frozenset()
        self._snapshots.append(_Snapshot(end, at, increases, page.stamps, heights))
        self._newest = {(series.kind, series.workload) for series in page.counters}
        self._newest |= {("latency", workload) for workload in page.faults}

    def _counts_from_zero(self, series: CounterSeries, counts: Sequence[float], end: int, at: float) -> bool:
        """Whether all that a new series shows was counted since the last page.

        A histogram that may have counted before it is remembered as doubtful.
        """
        if series.kind == "lost":
            return series.workload.partition("@")[0] not in self._unread
        if series.kind != "latency" or ("latency", series.workload) not in self._newest:
            return False
        last = self._snapshots[-1]
        risen = sum(added[-1] for one, added in last.increases.items() if one[:2] == series[:2])
        before = self._snapshots[-2].at if len(self._snapshots) > 1 else at
        pace = risen / (last.at - before) if last.at > before else 0.0
        if counts[-1] <= max(_SLACK, _TIMES_PACE * pace * (at - last.at)):
            return True
        key = (series.kind, series.workload)
        why = _APPEARED.format(after=counts[-1])
        self._unreliable[key] = max(self._unreliable.get(key, (0, "")), (end + self._window, why))
        return False

    def _doubt(self, series: CounterSeries, verdict: Verdict, before: float, after: float, end: int) -> None:
        """Remember a step that one process cannot have counted, or may not have."""
        several = verdict is Verdict.SEVERAL
        why = (_SEVERAL if several else _DOUBTFUL).format(before=before, after=after)
        until = end + 1 if verdict is Verdict.PENDING else end + self._window * (_HELD if several else 1)
        if several and series.kind != "throughput":
            self._several = until, why
        key = (series.kind, series.workload)
        self._unreliable[key] = max(self._unreliable.get(key, (0, "")), (until, why))

    def explain_unreliable(self, end: int, *kinds: SeriesKind) -> dict[str, str]:
        """Why counters of some kinds are not believed in the window that ends at ``end``, by workload.

        Several processes at the address spoil all latencies and losses; bytes are counted by others.
        """
        reasons: dict[str, str] = {}
        for kind in kinds:
            for workload in sorted(self.workloads(kind)):
                until, why = self._unreliable.get((kind, workload), (0, ""))
                if end >= until and kind != "throughput" and self._several is not None:
                    until, why = self._several
                if end < until:
                    reasons[workload] = why
        return reasons

    def drop_old(self, end: int, at: float) -> None:
        """Drop pages from before the window that ends at ``end``, by either clock.

        The wall clock may have been set back: then old pages look recent.  The workloads on the newest page
        stay known.
        """
        oldest, longest = end - self._window, 1.25 * self._window / 1e9
        while self._snapshots and (self._snapshots[0].end < oldest or at - self._snapshots[0].at > longest):
            self._snapshots.popleft()
        if not self._snapshots:
            self._last.clear()
            self._trails.clear()
        elif any(seen < self._snapshots[0].end for seen, _ in self._last.values()):
            self._last = {series: last for series, last in self._last.items() if last[0] >= self._snapshots[0].end}
            self._trails = {series: trail for series, trail in self._trails.items() if series in self._last}

    @property
    def start(self) -> int | None:
        """End of the oldest page's window, UTC ns; None without pages."""
        return self._snapshots[0].end if self._snapshots else None

    def workloads(self, kind: SeriesKind) -> set[str]:
        """The workloads with a series of a kind on any page of the window, or on the newest page however old.

        An exporter that has failed for longer than a window still holds a part of their counts.
        """
        recent = {series.workload for series in self._last if series.kind == kind}
        return recent | {workload for newest, workload in self._newest if newest == kind}

    @property
    def series(self) -> Set[CounterSeries]:
        """All series of the window: more than one page has where labels change."""
        return self._last.keys()

    @property
    def present(self) -> set[str]:
        """The workloads with a latency histogram, usable or not, on the newest page."""
        return {workload for kind, workload in self._newest if kind == "latency"}

    def increases(self, pages: int | None = None) -> dict[CounterSeries, Increase]:
        """The increase of each series over the window; a series that is on one page only is left out.

        Args:
            pages: look at this many of the newest pages, instead of all.
        """
        chosen = list(self._snapshots)[-pages if pages else 0 :]
        sums: dict[CounterSeries, list[float]] = {}
        for page in chosen[1:]:
            for series, added in page.increases.items():
                so_far = sums.get(series)
                sums[series] = added if so_far is None else [a + b for a, b in zip(so_far, added, strict=True)]
        increases = {}
        for series, counts in sums.items():
            # Between the first and the last count, by the pages' own timestamps where they have them.  A pod that
            # came or went within the window sent nothing in the rest of it.
            first, last = chosen[0], chosen[-1]
            if series in first.stamps and series in last.stamps:
                seconds = (last.stamps[series] - first.stamps[series]) / 1000
            elif any(series in page.stamps for page in chosen):
                seconds = (last.end - first.end) / 1e9
            else:
                seconds = last.at - first.at
            increases[series] = Increase(counts, seconds)
        return increases
