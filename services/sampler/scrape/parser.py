"""Reads an exporter's page in the Prometheus text format, and keeps only what a sample needs.

A page is read several times a second, and little but its numbers changes.  So a line's name and labels are
parsed once, by prometheus_client, and cached by their bytes.
"""

import re
from math import inf, isnan, nan
from typing import Literal, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from services.sampler.workloads import Workloads

_LE = re.compile(rb'[{,]le="([0-9A-Za-z.+-]*)"')
"""A bucket's bound.  Inside another label's value a backslash would precede the quotation mark."""

SeriesKind = Literal["latency", "lost", "throughput"]


class CounterSeries(NamedTuple):
    """One series of counters: a histogram's buckets together, or one counter."""

    kind: SeriesKind
    workload: str
    """``namespace/workload``."""
    labels: tuple[tuple[str, str], ...]
    bounds: tuple[float, ...] = ()
    """A histogram's finite bounds, ascending."""


class ScrapedPage(NamedTuple):
    """The counters of one page."""

    counters: dict[CounterSeries, tuple[float, ...]]
    """One number of a counter; of a histogram the cumulative buckets, ``+Inf`` last."""
    stamps: dict[CounterSeries, int]
    """When bytes were counted, Unix ms, where the page says so: cAdvisor counts less often than it is scraped."""
    faults: dict[str, str]
    """Why its series cannot be used, by workload."""


class MalformedPage(ValueError):
    """The page is not in the text format; says where and why."""


class _KnownLine(NamedTuple):
    series: CounterSeries
    bound: float | None
    """Of a histogram's bucket; None for a counter."""


class PageReader:
    """Reads the pages of one exporter."""

    def __init__(self, workloads: Workloads) -> None:
        """Read the series of these workloads and skip all others."""
        names = workloads.names
        self._workloads = workloads
        self._kinds: dict[bytes, SeriesKind] = {f"{names.metric}_bucket{{".encode(): "latency"}
        if names.lost:
            self._kinds[f"{names.lost}{{".encode()] = "lost"
        if names.throughput:
            self._kinds[f"{names.throughput}{{".encode()] = "throughput"
        # Only these lines of a page, which may be megabytes long, are ever copied.
        self._wanted = re.compile(rb"^(?:%s)[^\n]*" % b"|".join(map(re.escape, self._kinds)), re.MULTILINE)
        self._known: dict[bytes, _KnownLine | None] = {}
        self._histograms: dict[bytes, CounterSeries | None] = {}

    def read(self, text: bytes) -> ScrapedPage:
        """Read one page.

        Raises:
            MalformedPage: it is cut off, or a line that matters is not in the text format.
        """
        if text and not text.endswith(b"\n"):
            raise MalformedPage("the page does not end with a line feed: it was cut off")
        lines = self._wanted.findall(text)
        if len(self._known) > 4 * len(lines) + 1000:
            # Pods come and go: drop the cache, and parse anew what is still there.
            self._known.clear()
            self._histograms.clear()
        histograms: dict[CounterSeries, dict[float, float]] = {}
        page = ScrapedPage({}, {}, {})
        for line in lines:
            name, brace, rest = line.rpartition(b"}")
            if not brace:
                raise MalformedPage(f"not in the text format (labels without an end): {line.decode(errors='replace')}")
            if name not in self._known:
                self._known[name] = self._parse_name(name + brace)
            known = self._known[name]
            if known is None:
                continue
            value, stamp = _parse_numbers(line, rest)
            if stamp is not None and known.series.kind == "throughput":
                page.stamps[known.series] = stamp
            if known.bound is None:
                page.counters[known.series] = (value,)
            else:
                histograms.setdefault(known.series, {})[known.bound] = value
        for series, buckets in histograms.items():
            _add_histogram(page, series, buckets)
        return page

    def _parse_name(self, name: bytes) -> _KnownLine | None:
        """Find the series of a line by its name and labels; None where it belongs to no configured workload."""
        kind = next(kind for prefix, kind in self._kinds.items() if name.startswith(prefix))
        if kind != "latency":
            series = self._find_series(kind, name)
            return None if series is None else _KnownLine(series, None)
        bucket = _LE.search(name)
        # The buckets of one histogram differ in their bounds alone: parse its labels once.
        whole = name if bucket is None else name[: bucket.start(1)] + b"0" + name[bucket.end(1) :]
        if whole not in self._histograms:
            self._histograms[whole] = self._find_series(kind, whole)
        histogram = self._histograms[whole]
        if histogram is None:
            return None
        text = "" if bucket is None else bucket[1].decode()
        try:
            bound = float(text)
        except ValueError:
            bound = nan
        if isnan(bound):
            raise MalformedPage(f"bucket with the bound {text!r}: {name.decode(errors='replace')}")
        return _KnownLine(histogram, bound)

    def _find_series(self, kind: SeriesKind, name: bytes) -> CounterSeries | None:
        try:
            families = list(text_string_to_metric_families(name.decode() + " 0\n"))
            labels: dict[str, str] = dict(families[0].samples[0].labels)
        except (ValueError, IndexError, KeyError) as error:
            raise MalformedPage(f"not in the text format ({error}): {name.decode(errors='replace')}") from None
        if kind == "throughput":
            key = self._workloads.find_sender(labels)
        else:
            key = self._workloads.find_critical(labels) if self._workloads.has_matchers(labels) else None
        if key is None:
            return None
        labels.pop("le", None)
        return CounterSeries(kind, key, tuple(sorted(labels.items())))


def _parse_numbers(line: bytes, rest: bytes) -> tuple[float, int | None]:
    number, *stamp = rest.split() or [b""]
    try:
        value, stamps = float(number), [int(part) for part in stamp]
    except ValueError as error:
        raise MalformedPage(f"not in the text format ({error}): {line.decode(errors='replace')}") from None
    if not 0 <= value < inf or len(stamps) > 1:
        raise MalformedPage(f"expected a counter and perhaps a timestamp: {line.decode(errors='replace')}")
    return value, stamps[0] if stamps else None


def _add_histogram(page: ScrapedPage, series: CounterSeries, buckets: dict[float, float]) -> None:
    """Add a histogram with its buckets in order, or the reason why they are not usable."""
    bounds = sorted(buckets)
    if bounds[-1] != inf:
        page.faults[series.workload] = "histogram without a +Inf bucket"
    elif len(bounds) < 2:
        page.faults[series.workload] = "histogram without a finite bucket"
    else:
        page.counters[series._replace(bounds=tuple(bounds[:-1]))] = tuple(buckets[bound] for bound in bounds)
