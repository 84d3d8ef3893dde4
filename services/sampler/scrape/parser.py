"""Reads an exporter's page while it streams in, and keeps only the counters that a sample needs.

Every line is checked against the format, as Prometheus does: one malformed line spoils the page.  Only the
lines of configured workloads are parsed, so that memory does not grow with the page.  A page is read several
times a second, and little but its numbers changes: a line's name and labels are parsed once, and cached by
their bytes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from math import inf, isnan
from types import MappingProxyType
from typing import Literal, NamedTuple

from schemas.meter import UNMETERED
from services.sampler.scrape.text_format import OPENMETRICS, TEXT, Grammar, parse_bound, parse_head
from services.sampler.workloads import Workloads

SeriesKind = Literal["latency", "lost", "throughput", "unmetered"]

_LONGEST_LINE = 256 * 1024
_LINE_BYTES = 512
"""Of a line on average, where there are as many as there may be: twice what cAdvisor writes."""
_SHOWN = 300
"""Characters of a malformed line that are shown."""


class CounterSeries(NamedTuple):
    """One series of counters: a histogram's buckets together, or one counter."""

    kind: SeriesKind
    workload: str
    """``namespace/workload``; of one that is read node by node with ``@node``."""
    labels: tuple[tuple[str, str], ...]
    bounds: tuple[float, ...] = ()
    """A histogram's finite bounds, ascending."""


class ScrapedPage(NamedTuple):
    """The counters of one page."""

    counters: dict[CounterSeries, tuple[float, ...]]
    """One number of a counter; of a histogram the cumulative buckets, ``+Inf`` last."""
    stamps: dict[CounterSeries, int]
    """When bytes were counted, Unix ms, where the page has it: cAdvisor counts less often than it is scraped."""
    faults: dict[str, str]
    """Why the latency or loss of a workload cannot be used."""
    unsettled: Set[str] = frozenset()
    """Workloads with a throughput that the page gives twice, differently."""
    unmetered: Mapping[str, str] = MappingProxyType({})
    """Why a meter does not measure a pod, by the pod's workload."""


class MalformedPage(ValueError):
    """The page is not in its format, or too much of it would have to be kept; the text has place and reason."""


class _KnownLine(NamedTuple):
    series: CounterSeries
    bound: float | None
    """Of a histogram's bucket; None for a counter."""


class _Draft(NamedTuple):
    """A page that is being read."""

    page: ScrapedPage
    histograms: dict[CounterSeries, dict[float, float]]
    unsettled: set[str]
    unmetered: dict[str, str]


class PageReader:
    """Reads the pages of one exporter."""

    def __init__(self, workloads: Workloads, max_lines: int = 5_000) -> None:
        """Read the series of these workloads and skip all others.

        Args:
            workloads: whose series to keep.
            max_lines: a page with more lines of these workloads is refused.
        """
        names = workloads.names
        self._workloads = workloads
        self._max_lines = max_lines
        self._kinds: dict[str, SeriesKind] = {f"{names.metric}_bucket": "latency"}
        if names.lost:
            self._kinds[names.lost] = "lost"
        if names.throughput:
            self._kinds[names.throughput] = "throughput"
            self._kinds[UNMETERED] = "unmetered"
        # A name may also be in braces, in quotation marks.
        self._starts = (*(name.encode() for name in self._kinds), b"{")
        self._critical = {key.partition("/")[2].encode() for key in workloads.critical}
        self._critical_label = re.compile(
            re.escape(names.workload.encode()) + rb'"?[ \t]*+=[ \t]*+"([^"\\\n]*+)"', re.ASCII
        )
        self._namespaces = tuple({f'"{key.partition("/")[0]}"'.encode() for key in workloads.senders})
        counted = (names.throughput, UNMETERED) if names.throughput else ()
        self._throughput = re.compile("|".join(map(re.escape, counted)).encode()) if counted else None
        self._known: dict[bytes, _KnownLine | None] = {}
        self._series: dict[CounterSeries, CounterSeries] = {}

    def read(self, text: bytes, *, openmetrics: bool = False, is_whole: bool = False) -> ScrapedPage:
        """Read one page; see ``read_chunks``."""
        return self.read_chunks([text], openmetrics=openmetrics, is_whole=is_whole)

    def read_chunks(self, chunks: Iterable[bytes], *, openmetrics: bool = False, is_whole: bool = False) -> ScrapedPage:
        """Read one page, given in pieces of any size.

        Args:
            chunks: the page.
            openmetrics: it is in OpenMetrics, not in the text format.
            is_whole: its server announced its length, so that its last line needs no line feed.

        Raises:
            MalformedPage: it is cut off, not in its format, or has too many lines of the configured workloads.
        """
        grammar = OPENMETRICS if openmetrics else TEXT
        draft = _Draft(ScrapedPage({}, {}, {}), {}, set(), {})
        count = size = 0
        for lines in _split_lines(chunks, grammar, is_whole=is_whole):
            for line in self._select(lines):
                count, size = count + 1, size + len(line)
                if count > self._max_lines:
                    raise MalformedPage(f"more than {self._max_lines} lines of the configured workloads")
                if size > _LINE_BYTES * self._max_lines:
                    most = _LINE_BYTES * self._max_lines
                    raise MalformedPage(f"more than {most} bytes of lines of the configured workloads")
                self._take(line, grammar, draft)
        if len(self._known) > count + 1000:
            # Pods come and go: drop the cache, and parse the remaining ones again.
            self._known.clear()
            self._series.clear()
        for series, buckets in draft.histograms.items():
            bounds = sorted(buckets)
            if bounds[-1] != inf:
                draft.page.faults[series.workload] = "histogram without a +Inf bucket"
            elif len(bounds) < 2:
                draft.page.faults[series.workload] = "histogram without a finite bucket"
            else:
                counts = tuple(buckets[bound] for bound in bounds)
                draft.page.counters[series._replace(bounds=tuple(bounds[:-1]))] = counts
        return draft.page._replace(unsettled=draft.unsettled, unmetered=draft.unmetered)

    def _select(self, lines: bytes) -> Iterator[bytes]:
        """The lines that may belong to a configured workload, without parsing any."""
        taken = 0
        for match in self._critical_label.finditer(lines):
            if match[1] in self._critical and match.start() >= taken:
                start, taken = lines.rfind(b"\n", 0, match.start()) + 1, lines.find(b"\n", match.end()) + 1
                if lines.startswith(self._starts, start):
                    yield lines[start:taken]
        if self._throughput is None:
            return
        taken = 0
        for match in self._throughput.finditer(lines):
            if match.start() < taken:
                continue
            start, taken = lines.rfind(b"\n", 0, match.start()) + 1, lines.find(b"\n", match.end()) + 1
            line = lines[start:taken]
            if line.startswith(self._starts) and any(namespace in line for namespace in self._namespaces):
                yield line

    def _take(self, line: bytes, grammar: Grammar, draft: _Draft) -> None:
        """Add the sample of a line to the page, if it belongs to a configured workload."""
        sample = grammar.sample.fullmatch(line)
        assert sample is not None  # the line is well formed, and no comment
        head, number, stamp = sample.groups()
        if head not in self._known:
            self._known[head] = self._parse(head, line)
        known = self._known[head]
        if known is None:
            return
        series, value = known.series, float(number)
        if not 0 <= value < inf:
            raise MalformedPage(f"expected a counter: {_show(line)}")
        if series.kind == "unmetered":
            draft.unmetered[series.workload] = dict(series.labels).get("reason", "")
            return
        if stamp is not None and series.kind == "throughput":
            draft.page.stamps[series] = round(float(stamp) * grammar.stamp_unit)
        if known.bound is None:
            before = draft.page.counters.setdefault(series, (value,))[0]
        else:
            before = draft.histograms.setdefault(series, {}).setdefault(known.bound, value)
        if before == value:
            return
        if series.kind == "throughput":
            draft.unsettled.add(series.workload)
        else:
            draft.page.faults[series.workload] = f"the page shows a series twice, differently: {_show(line)}"

    def _parse(self, head: bytes, line: bytes) -> _KnownLine | None:
        """Find the series of a line by its name and labels; None where it belongs to no configured workload."""
        try:
            name, labels = parse_head(head)
        except ValueError as error:
            raise MalformedPage(f"not in the text format ({error}): {_show(line)}") from None
        kind = self._kinds.get(name)
        if kind is None:
            return None
        if kind in ("throughput", "unmetered"):
            key = self._workloads.find_sender_part(labels)
        else:
            key = self._workloads.find_critical_part(labels) if self._workloads.has_matchers(labels) else None
        if key is None:
            return None
        bound = None
        if kind == "latency":
            text = labels.pop("le", "")
            bound = parse_bound(text) * self._workloads.names.unit
            if isnan(bound):
                raise MalformedPage(f"bucket with the bound {text!r}: {_show(line)}")
        series = CounterSeries(kind, key, tuple(sorted(labels.items())))
        return _KnownLine(self._series.setdefault(series, series), bound)


def _split_lines(chunks: Iterable[bytes], grammar: Grammar, *, is_whole: bool) -> Iterator[bytes]:
    """Whole, well-formed lines, many at a time.

    Raises:
        MalformedPage: a line is malformed or too long, or the page is cut off.
    """
    rest, ended = b"", False
    for chunk in chunks:
        if ended and chunk:
            raise MalformedPage("more after the end of the page, # EOF")
        head, feed, tail = chunk.rpartition(b"\n")
        if not feed:
            rest += chunk
        else:
            lines, rest = rest + head + feed, tail
            if grammar is OPENMETRICS:
                lines, ended = _cut_end(lines, rest)
            _check(lines, grammar)
            yield lines
        if len(rest) > _LONGEST_LINE:
            raise MalformedPage(f"a line of more than {_LONGEST_LINE} bytes: {_show(rest)}")
    if grammar is OPENMETRICS:
        if not ended and rest != b"# EOF":
            raise MalformedPage("the page does not end with # EOF: it was cut off")
    elif rest and is_whole and grammar.lines.fullmatch(rest + b"\n"):
        _check(rest + b"\n", grammar)
        yield rest + b"\n"
    elif rest:
        raise MalformedPage("the page does not end with a line feed: it was cut off")


def _cut_end(lines: bytes, rest: bytes) -> tuple[bytes, bool]:
    """Cut off the line that ends an OpenMetrics page; gives whether it was there.

    Raises:
        MalformedPage: there is more behind it.
    """
    at = 0 if lines.startswith(b"# EOF\n") else lines.find(b"\n# EOF\n") + 1
    if not at and not lines.startswith(b"# EOF\n"):
        return lines, False
    if rest or len(lines) > at + len(b"# EOF\n"):
        raise MalformedPage("more after the end of the page, # EOF")
    return lines[:at], True


def _check(lines: bytes, grammar: Grammar) -> None:
    """Check whole lines against the format.

    Raises:
        MalformedPage: one is malformed.
    """
    match = grammar.lines.match(lines)
    assert match is not None
    if match.end() < len(lines):
        line = lines[match.end() : lines.find(b"\n", match.end())]
        raise MalformedPage(f"not in the text format: {_show(line)}")
    if not lines.isascii():
        for line in lines.split(b"\n"):
            # A comment that is no HELP may be in any encoding.
            if not line.startswith(b"#") or b"HELP" in line:
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    raise MalformedPage(f"not in the text format ({error}): {_show(line)}") from None


def _show(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
