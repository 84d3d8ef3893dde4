"""The source with the shortest lag: scrapes the exporters' own pages at the end of every period.

Quantiles come from the increase of the buckets between the page at the window's start and the one at its
end, as Prometheus would compute them from the same two points.  Throughput is that of all pods of a workload, or none;
its pages come from the exporters, or from the meters of all nodes.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct
from msgspec.structs import replace

from schemas.config import Signal
from services.common.histogram import quantile, summarize
from services.sampler.http_client import HttpClient, HttpWorker, RequestFailed, show_url
from services.sampler.scrape.parser import CounterSeries, MalformedPage, PageReader, ScrapedPage
from services.sampler.scrape.window import Increase, PageWindow
from services.sampler.source import LatencyStats, Measurements, NoData, Source
from services.sampler.workloads import Parts, Workloads, explain_absence

if TYPE_CHECKING:
    from services.sampler.scrape.meters import MeterFleet

_ACCEPT = "text/plain;version=0.0.4"
_ACCEPT_ANY_NAME = f"text/plain;version=1.0.0;escaping=allow-utf-8,{_ACCEPT};q=0.5"
"""Without it, exporters write underscores for what only names in quotation marks may hold."""
_NO_PAGES = ("text/html", "application/json", "application/vnd.google.protobuf")
_MOST_CHURN = 1.2
"""Times the lines that a page may have: the series of a window, for whose labels memory is needed."""
ONE_PAGE = "seen on one page so far; a window needs two"
_NOT_COUNTED = "not counted anew within the window"


class PageSource(Protocol):
    """Whose pages are read."""

    url: str
    window: PageWindow
    page: ScrapedPage
    """The newest one."""


class Throughput(Struct, frozen=True):
    """What workloads sent in one window."""

    rates: dict[str, int]
    """kbit/s, over all pods."""
    recent: dict[str, int]
    """The same since the page before the last."""
    pods: dict[str, int]
    """How many pods ``rates`` covers."""
    missing: dict[str, str]
    """Why a workload is in none of these."""


class Scraper:
    """Reads one exporter's page over a persistent connection."""

    def __init__(self, url: str, signal: Signal, workloads: Workloads) -> None:
        """Prepare to read ``url`` for these workloads.

        Raises:
            ValueError: it is not the address of a page.
        """
        self.url = show_url(url)
        self.window = PageWindow(signal.window)
        self.page = ScrapedPage({}, {}, {})
        """The newest page."""
        self._max_bytes = signal.scrape.max_bytes
        self._max_lines = signal.scrape.max_lines // len(signal.scrape.urls)
        self._reader = PageReader(workloads, self._max_lines)
        timeout = signal.timeout.seconds
        accept = _ACCEPT if workloads.names.are_plain else _ACCEPT_ANY_NAME
        self._http = HttpClient(url, signal.http, timeout, {"Accept": accept})
        self._worker = HttpWorker(f"scrape {self.url}", timeout)

    def define(self, workloads: Workloads, added: Iterable[str]) -> None:
        """Read these workloads from the next page on; ``added`` were not read before."""
        self._reader = PageReader(workloads, self._max_lines)
        self.window.expect(added)

    async def scrape(self, end: int) -> str | None:
        """Add the page for the window that ends at ``end``.

        Returns:
            Why it failed, or None.
        """
        try:
            page, at = await self._worker.run(self._fetch)
        except (RequestFailed, MalformedPage) as error:
            self.window.drop_old(end, time.monotonic())
            return f"{self.url}: {self._http.hide(str(error))}"
        self.window.drop_old(end, at)
        if (count := len(self.window.series | page.counters.keys())) > _MOST_CHURN * self._max_lines:
            return f"{self.url}: {count} series within a window: their labels change from page to page"
        self.page = page
        self.window.add(end, at, page)
        return None

    def _fetch(self) -> tuple[ScrapedPage, float]:
        """Read the page.

        Returns:
            The page, and when it arrived, by the monotonic clock.

        Raises:
            RequestFailed: the exporter sent no page.
            MalformedPage: the page cannot be parsed.
            OSError, HTTPError: the connection failed.
        """
        with self._http.request("GET", self._http.base) as answer:
            at = time.monotonic()
            if answer.status != 200:
                raise RequestFailed(f"HTTP status {answer.status}")
            if answer.content_type in _NO_PAGES:
                raise RequestFailed(f"not a metrics page: {answer.content_type}")
            openmetrics = answer.content_type == "application/openmetrics-text"
            chunks, is_whole = answer.chunks(self._max_bytes), answer.has_length
            return self._reader.read_chunks(chunks, openmetrics=openmetrics, is_whole=is_whole), at

    def close(self) -> None:
        """Release the connection and the thread."""
        self._http.close()
        self._worker.close()


class ScrapeSource(Source):
    """Measures from the exporters' own pages."""

    needs_warm_up = True

    def __init__(self, signal: Signal, workloads: Workloads) -> None:
        """Prepare one scraper per address in ``signal.scrape.urls``.

        Raises:
            ValueError: one is not the address of a page.
        """
        self._window = signal.window
        self._workloads = workloads
        self._scrapers = [Scraper(url, signal, workloads) for url in signal.scrape.urls]
        self._fleet: MeterFleet | None = None
        if signal.scrape.meters:
            # Most of the HTTP library's memory is saved where no meter is read.
            from services.sampler.scrape import meters  # noqa: PLC0415

            self._fleet = meters.MeterFleet(signal, workloads)

    def define(self, workloads: Workloads) -> None:
        """Read these workloads from the next page on."""
        before = self._workloads
        added = set(workloads.senders) - set(before.senders) | (workloads.parts.split ^ before.parts.split)
        self._workloads = workloads
        for scraper in self._scrapers:
            scraper.define(workloads, added)
        if self._fleet is not None:
            self._fleet.define(workloads)

    @classmethod
    def addresses(cls, signal: Signal) -> tuple[str, ...]:
        """The exporters' pages."""
        return signal.scrape.urls

    @classmethod
    def with_addresses(cls, signal: Signal, urls: Iterable[str]) -> Signal:
        """Scrape other pages."""
        return replace(signal, scrape=replace(signal.scrape, urls=tuple(urls)))

    async def measure(self, end: int) -> Measurements:
        """Scrape every page now, and measure the window that ends at ``end``.

        Raises:
            NoData: no exporter sent a usable page.
        """
        reading = [scraper.scrape(end) for scraper in self._scrapers]
        if self._fleet is None:
            failures = await asyncio.gather(*reading)
        else:
            *failures, _ = await asyncio.gather(*reading, self._fleet.scrape(end))
        unknown: dict[Scraper, str] = {}
        answered = []
        for scraper, failure in zip(self._scrapers, failures, strict=True):
            if failure is not None:
                unknown[scraper] = failure
                continue
            answered.append(scraper)
            if scraper.window.start == end:
                unknown[scraper] = ONE_PAGE
        if not answered:
            raise NoData("; ".join(unknown.values()))
        parts = self._workloads.parts
        doubts = ((one.url, one.window.explain_unreliable(end, "latency", "lost")) for one in answered)
        unreliable = dict(parts.expand((key, f"{url}: {why}") for url, of in doubts for key, why in of.items()))
        increases = [one for one in collect_increases(answered, parts) if one[0].workload not in unreliable]
        last = _sum_histograms(collect_increases(answered, parts, 2))
        medians = {key: quantile(0.5, *histogram) for key, histogram in last.items()}
        missing = self._explain_missing(answered, unknown) | unreliable
        if self._fleet is None:
            sent = combine_pages(self._workloads, answered, unknown.items(), end)
        else:
            sent = self._fleet.measure(end)
        starts = [start for scraper in answered if (start := scraper.window.start) not in (None, end)]
        return Measurements(
            start=min(starts, default=end - self._window),
            latency=measure_latency(increases, self._workloads.measured_critical, missing),
            throughput=sent.rates,
            recent=sent.recent,
            recent_p50={key: median for key, median in medians.items() if median is not None},
            pods=sent.pods,
            throughput_missing=sent.missing,
            notes={} if self._fleet is None else self._fleet.notes,
        )

    def _explain_missing(self, answered: Iterable[Scraper], unknown: Mapping[Scraper, str]) -> dict[str, str]:
        """Why workloads are not measured: no page shows them, or an exporter that shows them cannot be read.

        Several exporters may each see a part of a workload: then the unread part may be the broken one.
        """
        names, parts = self._workloads.names, self._workloads.parts
        read = {key for scraper in answered for key in scraper.window.present}
        present = {name for name, _ in parts.expand((key, None) for key in read)}
        elsewhere = "".join(f"; {why}" for why in unknown.values() if why is not ONE_PAGE)
        missing = {
            key: explain_absence(names.metric, key, names.node, read) + elsewhere
            for key in self._workloads.measured_critical
            if key not in present
        }
        for scraper, why in unknown.items():
            missing |= parts.expand((key, why) for key in scraper.window.workloads("latency"))
        for scraper in answered:
            missing |= parts.expand(scraper.page.faults.items())
        return missing

    def close(self) -> None:
        """Release connections and threads."""
        for scraper in self._scrapers:
            scraper.close()
        if self._fleet is not None:
            self._fleet.close()


def measure_latency(
    increases: Sequence[tuple[CounterSeries, Increase]], critical: Iterable[str], missing: Mapping[str, str]
) -> dict[str, LatencyStats]:
    """Add up the series of each workload, bucket by bucket, and compute its figures.

    Args:
        increases: of each series over the window.
        critical: the workloads to measure.
        missing: why some of them cannot be measured.
    """
    histograms = _sum_histograms(increases)
    lost: dict[str, float] = defaultdict(float)
    for series, added in increases:
        if series.kind == "lost":
            lost[series.workload] += added.counts[0]
    stats = {}
    for key in critical:
        why = missing.get(key) or (None if key in histograms else ONE_PAGE)
        if why is not None:
            stats[key] = LatencyStats(lost=lost.get(key), missing=why)
            continue
        bounds, counts = histograms[key]
        summary = summarize(bounds, counts)
        stats[key] = LatencyStats(
            jitter=summary.jitter,
            p95=summary.p95,
            observations=round(summary.observations),
            lost=lost.get(key),
            bounds=tuple(bounds),
            missing="no observations in the window" if summary.p95 is None else None,
        )
    return stats


def _sum_histograms(increases: Iterable[tuple[CounterSeries, Increase]]) -> dict[str, tuple[list[float], list[float]]]:
    """Bounds and cumulative counts by workload, its series added up."""
    buckets: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    totals: dict[str, float] = defaultdict(float)
    for series, added in increases:
        if series.kind == "latency":
            totals[series.workload] += added.counts[-1]
            for bound, count in zip(series.bounds, added.counts, strict=False):
                buckets[series.workload][bound] += count
    sums = {}
    for key, by_bound in buckets.items():
        bounds = sorted(by_bound)
        sums[key] = bounds, [*(by_bound[bound] for bound in bounds), totals[key]]
    return sums


def combine_pages(
    workloads: Workloads, answered: Collection[PageSource], unknown: Iterable[tuple[PageSource, str]], end: int
) -> Throughput:
    """Combine the pages of the window that ends at ``end``.

    Args:
        workloads: the configured ones.
        answered: whose newest page belongs to ``end``.
        unknown: why the pages of others, or too few of them, are not known.
        end: UTC ns.
    """
    missing: dict[str, str] = {}
    parts = workloads.parts
    for source, why in unknown:
        missing |= dict.fromkeys(source.window.workloads("throughput"), why)
        missing |= dict.fromkeys(source.page.unmetered, why)
    counting = []
    for source in answered:
        missing |= {key: f"{source.url}: {why}" for key, why in source.page.unmetered.items()}
        missing |= dict.fromkeys(source.page.unsettled, f"{source.url}: the page shows a series twice")
        doubts = source.window.explain_unreliable(end, "throughput")
        missing |= {key: f"{source.url}: {doubt}" for key, doubt in doubts.items()}
        if source.window.workloads("throughput"):
            counting.append(source)
    missing = dict(parts.expand(missing.items()))
    whole, recent = collect_increases(counting, parts), collect_increases(counting, parts, 2)
    rates, pods = measure_throughput(whole, missing)
    missing |= {key: _NOT_COUNTED for series, _ in whole if (key := series.workload) not in {*rates, *missing}}
    absent = set(workloads.measured_senders) - {*rates, *missing}
    missing |= dict.fromkeys(absent, "no page has a series of the throughput counter for it")
    return Throughput(rates, measure_throughput(recent, missing)[0], pods, missing)


def collect_increases(
    sources: Iterable[PageSource], parts: Parts, pages: int | None = None
) -> list[tuple[CounterSeries, Increase]]:
    """The increase of every series, by all that it counts for; ``pages`` as in ``PageWindow.increases``."""
    found = (
        (series.workload, (series, added))
        for source in sources
        for series, added in source.window.increases(pages).items()
    )
    return [
        (series if series.workload == name else series._replace(workload=name), added)
        for name, (series, added) in parts.expand(found)
    ]


def measure_throughput(
    increases: Iterable[tuple[CounterSeries, Increase]], partly: Collection[str] = ()
) -> tuple[dict[str, int], dict[str, int]]:
    """Throughput (kbit/s) and number of pods by workload, over all its pods.

    Args:
        increases: of each series.
        partly: workloads with a pod that is not measured.  They are left out, and so are those with a pod
            without a new count.
    """
    rates: dict[str, float] = defaultdict(float)
    pods: dict[str, set[str]] = defaultdict(set)
    unknown = set(partly)
    for series, added in increases:
        if series.kind != "throughput":
            continue
        if added.seconds <= 0:
            unknown.add(series.workload)
            continue
        rates[series.workload] += added.counts[0] * 8 / 1000 / added.seconds
        for label, value in series.labels:
            if label == "pod":
                pods[series.workload].add(value)
    throughput = {key: round(rate) for key, rate in rates.items() if key not in unknown}
    return throughput, {key: len(pods[key]) for key in throughput if pods[key]}
