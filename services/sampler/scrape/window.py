"""The last pages of one exporter, and how much every counter increased over a window of them.

Increases are those of PromQL's ``increase`` before it extrapolates: from the first page in the window that
has the series to the last, and across every reset in between, bucket by bucket.  There is one difference: a
loss counter that appears inside the window counts from zero, because an exporter that names a workload only
at its first loss would otherwise hide that loss.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from services.common.histogram import increase
from services.sampler.scrape.parser import CounterSeries, ScrapedPage, SeriesKind


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


class PageWindow:
    """Pages of one exporter over one window."""

    def __init__(self, window: int) -> None:
        """Keep as many pages as a window of that many ns needs."""
        self._window = window
        self._snapshots: deque[_Snapshot] = deque()
        self._last: dict[CounterSeries, tuple[int, tuple[float, ...]]] = {}
        self._newest: set[tuple[SeriesKind, str]] = set()

    def add(self, end: int, at: float, page: ScrapedPage) -> None:
        """Add the page that was read for the window ending at ``end``.

        Args:
            end: UTC ns, later than that of the page before.
            at: when it was read, by a clock that never jumps, seconds.
            page: what was read.
        """
        self.drop_old(end, at)
        increases = {}
        for series, counts in page.counters.items():
            if series in self._last:
                increases[series] = increase(self._last[series][1], counts)
            elif series.kind == "lost" and self._snapshots:
                increases[series] = list(counts)
            self._last[series] = (end, counts)
        self._snapshots.append(_Snapshot(end, at, increases, page.stamps))
        self._newest = {(series.kind, series.workload) for series in page.counters}
        self._newest |= {("latency", workload) for workload in page.faults}

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
        elif any(seen < self._snapshots[0].end for seen, _ in self._last.values()):
            self._last = {series: last for series, last in self._last.items() if last[0] >= self._snapshots[0].end}

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
    def present(self) -> set[str]:
        """The workloads with a latency histogram, usable or not, on the newest page."""
        return {workload for kind, workload in self._newest if kind == "latency"}

    def increases(self) -> dict[CounterSeries, Increase]:
        """The increase of each series over the window; a series that is on one page only is left out."""
        sums: dict[CounterSeries, list[float]] = {}
        for page in islice(self._snapshots, 1, None):
            for series, added in page.increases.items():
                so_far = sums.get(series)
                sums[series] = added if so_far is None else [a + b for a, b in zip(so_far, added, strict=True)]
        return {series: Increase(counts, _seconds_between(self._snapshots, series)) for series, counts in sums.items()}

    def last_increases(self) -> dict[CounterSeries, Increase]:
        """The increase of each series between the last two pages; nothing before there are two."""
        if len(self._snapshots) < 2:
            return {}
        pages = (self._snapshots[-2], self._snapshots[-1])
        return {
            series: Increase(counts, _seconds_between(pages, series)) for series, counts in pages[1].increases.items()
        }


def _seconds_between(pages: Sequence[_Snapshot], series: CounterSeries) -> float:
    """Seconds from the first to the last count of a series, by the page's own timestamps where it has them."""
    stamps = [page.stamps[series] for page in pages if series in page.stamps]
    if stamps:
        return (stamps[-1] - stamps[0]) / 1000
    return pages[-1].at - pages[0].at
