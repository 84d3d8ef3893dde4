"""The source with the shortest lag: scrapes the exporters' own pages at the end of every period.

Quantiles come from the increase of the buckets between the page at the window's start and the one at its
end, as Prometheus would compute them from the same two points.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import urllib3
from msgspec.structs import replace

from schemas.config import Signal
from services.common.histogram import quantile, summarize
from services.sampler.http_worker import HttpWorker, RequestFailed
from services.sampler.scrape.parser import CounterSeries, MalformedPage, PageReader, ScrapedPage
from services.sampler.scrape.window import Increase, PageWindow
from services.sampler.source import LatencyStats, Measurements, NoData, Source
from services.sampler.workloads import Workloads

_MAX_BYTES = 8 * 1024 * 1024
_ONE_PAGE = "seen on one page so far; a window needs two"
_HEADERS = {"Accept": "text/plain;version=0.0.4", "User-Agent": "sluice-sampler"}


class Scraper:
    """Reads one exporter's page over a persistent connection."""

    def __init__(self, url: str, signal: Signal, workloads: Workloads) -> None:
        """Prepare to read ``url`` for these workloads.

        Raises:
            ValueError: it is not the address of a page.
        """
        self.url = url
        self.window = PageWindow(signal.window)
        self.faults: dict[str, str] = {}
        """Why its series cannot be used, by workload, of the newest page."""
        self._timeout = signal.timeout.seconds
        self._reader = PageReader(workloads)
        self._http = urllib3.connection_from_url(url, maxsize=1, retries=False)
        self._path = urllib3.util.parse_url(url).request_uri
        self._worker = HttpWorker(f"scrape {url}", self._timeout)

    async def scrape(self, end: int) -> str | None:
        """Add the page for the window that ends at ``end``.

        Returns:
            Why it failed, or None.
        """
        try:
            page, at = await self._worker.run(self._fetch)
        except (RequestFailed, MalformedPage) as error:
            self.window.drop_old(end, time.monotonic())
            return f"{self.url}: {error}"
        self.faults = page.faults
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
        deadline = time.monotonic() + self._timeout
        response = self._http.request(
            "GET", self._path, headers=_HEADERS, timeout=self._timeout, preload_content=False, redirect=False
        )
        at = time.monotonic()
        try:
            body = _read_body(response, deadline)
        except BaseException:
            response.close()
            raise
        response.release_conn()
        if response.status != 200:
            raise RequestFailed(f"HTTP status {response.status}")
        return self._reader.read(body), at

    def close(self) -> None:
        """Release the connection and the thread."""
        self._http.close()
        self._worker.close()


def _read_body(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    chunks, size = [], 0
    for chunk in response.stream(65536):
        size += len(chunk)
        if size > _MAX_BYTES:
            raise RequestFailed(f"the page is larger than {_MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise RequestFailed("the page came too slowly")
        chunks.append(chunk)
    return b"".join(chunks)


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
        failures = await asyncio.gather(*(scraper.scrape(end) for scraper in self._scrapers))
        unknown: dict[Scraper, str] = {}
        answered = []
        for scraper, failure in zip(self._scrapers, failures, strict=True):
            if failure is not None:
                unknown[scraper] = failure
                continue
            answered.append(scraper)
            if scraper.window.start == end:
                unknown[scraper] = _ONE_PAGE
        if not answered:
            raise NoData("; ".join(unknown.values()))
        increases = [item for scraper in answered for item in scraper.window.increases().items()]
        last = [item for scraper in answered for item in scraper.window.last_increases().items()]
        starts = [start for scraper in answered if (start := scraper.window.start) not in (None, end)]
        partly = {key for scraper in unknown for key in scraper.window.workloads("throughput")}
        throughput, pods = measure_throughput(increases, partly)
        medians = {key: quantile(0.5, *histogram) for key, histogram in _sum_histograms(last).items()}
        return Measurements(
            start=min(starts, default=end - self._window),
            latency=measure_latency(increases, self._workloads.critical, self._explain_missing(answered, unknown)),
            throughput=throughput,
            recent=measure_throughput(last, partly)[0],
            recent_p50={key: median for key, median in medians.items() if median is not None},
            pods=pods,
        )

    def _explain_missing(self, answered: Iterable[Scraper], unknown: Mapping[Scraper, str]) -> dict[str, str]:
        """Why workloads are not measured: no page shows them, or an exporter that shows them cannot be read.

        Several exporters may each see a part of a workload: then the unread part may be the broken one.
        """
        present = {key for scraper in answered for key in scraper.window.present}
        elsewhere = "".join(f"; {why}" for why in unknown.values() if why is not _ONE_PAGE)
        absent = f"not measured: the page has no series of {self._workloads.names.metric} for it{elsewhere}"
        missing = {key: absent for key in self._workloads.critical if key not in present}
        for scraper, why in unknown.items():
            missing |= dict.fromkeys(scraper.window.workloads("latency"), why)
        for scraper in answered:
            missing |= scraper.faults
        return missing

    def close(self) -> None:
        """Release connections and threads."""
        for scraper in self._scrapers:
            scraper.close()


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
        why = missing.get(key) or (None if key in histograms else _ONE_PAGE)
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


def measure_throughput(
    increases: Iterable[tuple[CounterSeries, Increase]], partly: Collection[str] = ()
) -> tuple[dict[str, int], dict[str, int]]:
    """Throughput (kbit/s) and number of pods by workload, over all its pods.

    Args:
        increases: of each series.
        partly: workloads with a pod whose exporter cannot be read.  They are left out, and so are those with
            a pod without a new count.
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
