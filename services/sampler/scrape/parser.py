"""Reads an exporter's page in the Prometheus text format, and keeps only what a sample needs.

A page is read several times a second and hardly changes but for its numbers.  So what a line's name
and labels mean is worked out once, by prometheus_client's parser, and remembered by their bytes.
"""

import re
from collections.abc import Mapping
from math import inf, isnan, nan
from typing import Literal, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from services.sampler.workloads import Workloads

_LE = re.compile(rb'[{,]le="([0-9A-Za-z.+-]*)"')
"""A bucket's bound: inside another label's value the quotation mark would stand behind a backslash."""

Kind = Literal["latency", "lost", "sent"]


class Series(NamedTuple):
    """One series of counters: a histogram's buckets together, or one counter."""

    kind: Kind
    workload: str
    """``namespace/workload``."""
    labels: tuple[tuple[str, str], ...]
    bounds: tuple[float, ...] = ()
    """A histogram's finite bounds, ascending."""


class Page(NamedTuple):
    """What one page says."""

    counters: dict[Series, tuple[float, ...]]
    """One number of a counter; of a histogram the cumulative buckets, ``+Inf`` last."""
    stamps: dict[Series, int]
    """When bytes were counted, Unix ms, where the page says so itself: cAdvisor counts less often than it is asked."""
    faults: dict[str, str]
    """By workload: why its series cannot be used."""


class MalformedPage(ValueError):
    """The page is not in the text format; says where and why."""


class _Line(NamedTuple):
    series: Series
    bound: float | None
    """Of a histogram's bucket."""


class PageReader:
    """Reads the pages of one exporter."""

    def __init__(self, workloads: Workloads) -> None:
        """Read for these workloads; all other series are passed over."""
        names = workloads.names
        self._workloads = workloads
        self._kinds: dict[bytes, Kind] = {f"{names.metric}_bucket{{".encode(): "latency"}
        if names.lost:
            self._kinds[f"{names.lost}{{".encode()] = "lost"
        if names.throughput:
            self._kinds[f"{names.throughput}{{".encode()] = "sent"
        # Of a page that is megabytes long only these lines are ever copied.
        self._wanted = re.compile(rb"^(?:%s)[^\n]*" % b"|".join(map(re.escape, self._kinds)), re.MULTILINE)
        self._known: dict[bytes, _Line | None] = {}
        self._histograms: dict[bytes, Series | None] = {}

    def read(self, text: bytes) -> Page:
        """Read one page.

        Raises:
            MalformedPage: it is cut off, or a line that matters is not in the text format.
        """
        if text and not text.endswith(b"\n"):
            raise MalformedPage("the page does not end with a line feed: it was cut off")
        lines = self._wanted.findall(text)
        if len(self._known) > 4 * len(lines) + 1000:
            # Pods come and go; what is still there is learned again.
            self._known.clear()
            self._histograms.clear()
        histograms: dict[Series, dict[float, float]] = {}
        page = Page({}, {}, {})
        for line in lines:
            self._take(line, page, histograms)
        for series, buckets in histograms.items():
            _close(series, buckets, page)
        return page

    def _take(self, line: bytes, page: Page, histograms: dict[Series, dict[float, float]]) -> None:
        name, brace, rest = line.rpartition(b"}")
        if not brace:
            raise MalformedPage(f"not in the text format (labels without an end): {line.decode(errors='replace')}")
        if name not in self._known:
            self._known[name] = self._learn(name + brace)
        known = self._known[name]
        if known is None:
            return
        value, stamp = _numbers(line, rest)
        if stamp is not None and known.series.kind == "sent":
            page.stamps[known.series] = stamp
        if known.bound is None:
            page.counters[known.series] = (value,)
        else:
            histograms.setdefault(known.series, {})[known.bound] = value

    def _learn(self, name: bytes) -> _Line | None:
        kind = next(kind for prefix, kind in self._kinds.items() if name.startswith(prefix))
        if kind != "latency":
            series = self._series_of(kind, _labels(name))
            return None if series is None else _Line(series, None)
        bucket = _LE.search(name)
        # The buckets of one histogram differ in their bounds alone: its labels are read once.
        whole = name if bucket is None else name[: bucket.start(1)] + b"0" + name[bucket.end(1) :]
        if whole not in self._histograms:
            self._histograms[whole] = self._series_of(kind, _labels(whole))
        histogram = self._histograms[whole]
        if histogram is None:
            return None
        return _Line(histogram, _bound("" if bucket is None else bucket[1].decode(), name))

    def _series_of(self, kind: Kind, labels: dict[str, str]) -> Series | None:
        if kind == "sent":
            key = self._workloads.sender_of(labels)
        else:
            key = self._workloads.critical_of(labels) if self._workloads.matches(labels) else None
        if key is None:
            return None
        labels.pop("le", None)
        return Series(kind, key, tuple(sorted(labels.items())))


def _labels(name: bytes) -> dict[str, str]:
    """The labels of one series as prometheus_client reads them.

    Raises:
        MalformedPage: it cannot.
    """
    try:
        families = list(text_string_to_metric_families(name.decode() + " 0\n"))
        labels: Mapping[str, str] = families[0].samples[0].labels
    except (ValueError, IndexError, KeyError) as error:
        raise MalformedPage(f"not in the text format ({error}): {name.decode(errors='replace')}") from None
    return dict(labels)


def _bound(text: str, name: bytes) -> float:
    try:
        bound = float(text)
    except ValueError:
        bound = nan
    if isnan(bound):
        raise MalformedPage(f"bucket with the bound {text!r}: {name.decode(errors='replace')}")
    return bound


def _numbers(line: bytes, rest: bytes) -> tuple[float, int | None]:
    number, *stamp = rest.split() or [b""]
    try:
        value, stamps = float(number), [int(part) for part in stamp]
    except ValueError as error:
        raise MalformedPage(f"not in the text format ({error}): {line.decode(errors='replace')}") from None
    if not 0 <= value < inf or len(stamps) > 1:
        raise MalformedPage(f"expected a counter and perhaps a timestamp: {line.decode(errors='replace')}")
    return value, stamps[0] if stamps else None


def _close(series: Series, buckets: dict[float, float], page: Page) -> None:
    """Put a histogram's buckets in order, and see whether they make a histogram."""
    ordered = sorted(buckets.items())
    bounds = tuple(bound for bound, _ in ordered)
    if bounds[-1] != inf:
        page.faults[series.workload] = "histogram without a +Inf bucket"
    elif len(bounds) < 2:
        page.faults[series.workload] = "histogram without a finite bucket"
    else:
        whole = series._replace(bounds=bounds[:-1])
        page.counters[whole] = tuple(count for _, count in ordered)
