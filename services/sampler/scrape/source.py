"""The source with the shortest lag: scrapes the exporters' own pages at the end of every period.

Quantiles come from the increase of the buckets between the page at the window's start and the one at its
end, as Prometheus would compute them from the same two points.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from schemas.config import Signal
from services.common.histogram import quantile, summarize
from services.sampler.http_client import HttpClient, HttpWorker, RequestFailed, show_url
from services.sampler.scrape.parser import CounterSeries, MalformedPage, PageReader, ScrapedPage, SeriesKind
from services.sampler.scrape.throughput import ONE_PAGE, PageSource, Throughput, by_part, combine_pages
from services.sampler.scrape.window import Increase, PageWindow
from services.sampler.source import LatencyStats, Measurements, NoData, Source
from services.sampler.workloads import Workloads, explain_absence

if TYPE_CHECKING:
    from services.sampler.scrape.meters import MeterFleet

_ACCEPT = "text/plain;version=0.0.4"
_ACCEPT_ANY_NAME = f"text/plain;version=1.0.0;escaping=allow-utf-8,{_ACCEPT};q=0.5"
"""Without it, exporters write underscores for what only names in quotation marks may hold."""
_JUDGED: tuple[SeriesKind, ...] = ("latency", "lost")
_NO_PAGES = ("text/html", "application/json", "application/vnd.google.protobuf")


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
        increases = by_part((item for scraper in answered for item in scraper.window.increases().items()), parts)
        last = by_part((item for scraper in answered for item in scraper.window.increases(2).items()), parts)
        starts = [start for scraper in answered if (start := scraper.window.start) not in (None, end)]
        unreliable = self._explain_unreliable(answered, end)
        increases = [item for item in increases if item[0].workload not in unreliable]
        sent = self._measure_throughput(answered, unknown, end)
        missing = self._explain_missing(answered, unknown) | unreliable
        medians = {key: quantile(0.5, *histogram) for key, histogram in _sum_histograms(last).items()}
        return Measurements(
            start=min(starts, default=end - self._window),
            latency=measure_latency(increases, self._workloads.measured_critical, missing),
            throughput=sent.rates,
            recent=sent.recent,
            recent_p50={key: median for key, median in medians.items() if median is not None},
            pods=sent.pods,
            throughput_missing=sent.missing,
            notes=self._fleet.notes if self._fleet is not None else {},
        )

    def _measure_throughput(
        self, answered: Sequence[PageSource], unknown: Mapping[Scraper, str], end: int
    ) -> Throughput:
        """What the workloads sent, by the meters where there are any, otherwise by the exporters' pages."""
        if self._fleet is None:
            return combine_pages(self._workloads, answered, unknown.items(), end)
        why = self._fleet.explain_all_missing()
        if why is not None:
            return Throughput({}, {}, {}, dict.fromkeys(self._workloads.measured_senders, why))
        return combine_pages(self._workloads, self._fleet.answered, self._fleet.explain_unknown(end).items(), end)

    def _explain_unreliable(self, answered: Iterable[Scraper], end: int) -> dict[str, str]:
        """Why latencies and losses are not believed, by critical workload."""
        reasons: dict[str, str] = {}
        for scraper in answered:
            for kind in _JUDGED:
                for key in sorted(scraper.window.workloads(kind)):
                    why = scraper.window.explain_unreliable(kind, key, end)
                    if why is not None:
                        reasons[key] = f"{scraper.url}: {why}"
        return self._workloads.parts.expand_reasons(reasons)

    def _explain_missing(self, answered: Iterable[Scraper], unknown: Mapping[Scraper, str]) -> dict[str, str]:
        """Why workloads are not measured: no page shows them, or an exporter that shows them cannot be read.

        Several exporters may each see a part of a workload: then the unread part may be the broken one.
        """
        names, parts = self._workloads.names, self._workloads.parts
        read = {key for scraper in answered for key in scraper.window.present}
        present = parts.expand_all(read)
        elsewhere = "".join(f"; {why}" for why in unknown.values() if why is not ONE_PAGE)
        missing = {
            key: explain_absence(names.metric, key, names.node, read) + elsewhere
            for key in self._workloads.measured_critical
            if key not in present
        }
        for scraper, why in unknown.items():
            missing |= dict.fromkeys(parts.expand_all(scraper.window.workloads("latency")), why)
        for scraper in answered:
            missing |= parts.expand_reasons(scraper.page.faults)
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
