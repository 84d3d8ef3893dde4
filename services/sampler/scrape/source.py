"""The source with the shortest lag: reads the exporters' own pages at the end of every period.

Quantiles come from what the buckets gained between the page at the window's start and the one at
its end, as Prometheus would compute them from the same two points.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import urllib3

from schemas.config import Signal
from services.common.histogram import latency, quantile
from services.sampler.connection_errors import in_words
from services.sampler.scrape.parser import MalformedPage, Page, PageReader, Series
from services.sampler.scrape.window import Gain, History
from services.sampler.source import Latencies, Measurements, NoData, pods_of
from services.sampler.worker_thread import Busy, Lane
from services.sampler.workloads import Workloads

_MAX_BYTES = 8 * 1024 * 1024
_ONE_PAGE = "seen on one page so far; a window needs two"
_ACCEPT = {"Accept": "text/plain;version=0.0.4", "User-Agent": "sluice-sampler"}


class ScrapeFailed(Exception):
    """An exporter gave no page that can be used; the text says why."""


class Exporter:
    """One exporter's page, read over a connection that is kept."""

    def __init__(self, url: str, signal: Signal, workloads: Workloads) -> None:
        """Prepare to read ``url`` for these workloads.

        Raises:
            ValueError: it is no address of a page.
        """
        self.url = url
        self.history = History(signal.window)
        self._timeout = signal.timeout.seconds
        self.faults: dict[str, str] = {}
        self._reader = PageReader(workloads)
        self._http = urllib3.connection_from_url(url, maxsize=1, retries=False)
        self._path = urllib3.util.parse_url(url).request_uri
        self._lane = Lane(f"scrape {url}")

    async def scrape(self, end: int) -> str | None:
        """Read the page for the window that ends at ``end``.

        Returns:
            Why it failed, or None.
        """
        try:
            page, at = await self._lane.run(self._fetch, self._timeout)
        except TimeoutError:
            failure = f"no answer within {self._timeout:g} s"
        except (Busy, ScrapeFailed, MalformedPage) as error:
            failure = str(error)
        else:
            self.faults = page.faults
            self.history.add(end, at, page)
            return None
        self.history.forget(end, time.monotonic())
        return f"{self.url}: {failure}"

    def _fetch(self) -> tuple[Page, float]:
        """The page, and when it came, by the monotonic clock.

        Raises:
            ScrapeFailed: the exporter gave no page.
            MalformedPage: it gave one that cannot be read.
            TimeoutError: it did not answer in time.
        """
        deadline = time.monotonic() + self._timeout
        try:
            response = self._http.request(
                "GET", self._path, headers=_ACCEPT, timeout=self._timeout, preload_content=False, redirect=False
            )
            at = time.monotonic()
            try:
                body = _read(response, deadline)
            except BaseException:
                response.close()
                raise
            response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ScrapeFailed(in_words(error)) from error
        if response.status != 200:
            raise ScrapeFailed(f"HTTP status {response.status}")
        return self._reader.read(body), at

    def close(self) -> None:
        """Give the connection and the thread back."""
        self._http.close()
        self._lane.close()


def _read(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """Read the body while it is not too large and not too late.

    Raises:
        ScrapeFailed: it is.
    """
    chunks, size = [], 0
    for chunk in response.stream(65536):
        size += len(chunk)
        if size > _MAX_BYTES:
            raise ScrapeFailed(f"the page is larger than {_MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise ScrapeFailed("the page came too slowly")
        chunks.append(chunk)
    return b"".join(chunks)


class ScrapeSource:
    """Measures from the exporters' own pages."""

    def __init__(self, signal: Signal, workloads: Workloads) -> None:
        """Prepare one reader per address in ``signal.scrape.urls``."""
        self._window = signal.window
        self._workloads = workloads
        self._exporters = [Exporter(url, signal, workloads) for url in signal.scrape.urls]

    async def measure(self, end: int) -> Measurements:
        """Read every exporter's page now, and take the window that ends at ``end``.

        Raises:
            NoData: no exporter gave a page that can be used.
        """
        failures = await asyncio.gather(*(exporter.scrape(end) for exporter in self._exporters))
        reasons = [failure for failure in failures if failure is not None]
        if len(reasons) == len(self._exporters):
            raise NoData("; ".join(reasons))
        return self._measurements(end, failures)

    def _measurements(self, end: int, failures: Sequence[str | None]) -> Measurements:
        answered = [one for one, failure in zip(self._exporters, failures, strict=True) if failure is None]
        unknown = {one: failure for one, failure in zip(self._exporters, failures, strict=True) if failure is not None}
        unknown |= {one: _ONE_PAGE for one in answered if one.history.start == end}
        gains = [gain for exporter in answered for gain in exporter.history.gains().items()]
        last = [gain for exporter in answered for gain in exporter.history.last_gains().items()]
        starts = [start for exporter in answered if (start := exporter.history.start) not in (None, end)]
        found = latencies(gains, self._workloads.critical, self._missing(answered, unknown))
        partly = {key for exporter in unknown for key in exporter.history.workloads("sent")}
        start = min(starts, default=end - self._window)
        rates = sent(gains, partly)
        return Measurements(start, found, rates, sent(last, partly), medians(last), pods(gains, rates))

    def _missing(self, answered: Iterable[Exporter], unknown: Mapping[Exporter, str]) -> dict[str, str]:
        """Why workloads are not measured: none shows them, or one that shows them cannot say what it counted.

        Of a workload that several show, one of them sees a part, and the rest may be what is broken.
        """
        present = {key for exporter in answered for key in exporter.history.present}
        elsewhere = "".join(f"; {why}" for why in unknown.values() if why is not _ONE_PAGE)
        absent = f"not measured: the page has no series of {self._workloads.names.metric} for it{elsewhere}"
        missing = {key: absent for key in self._workloads.critical if key not in present}
        for exporter, why in unknown.items():
            missing |= dict.fromkeys(exporter.history.workloads("latency"), why)
        for exporter in answered:
            missing |= exporter.faults
        return missing

    def close(self) -> None:
        """Give connections and threads back."""
        for exporter in self._exporters:
            exporter.close()


def latencies(
    gains: Sequence[tuple[Series, Gain]], critical: Iterable[str], missing: Mapping[str, str]
) -> dict[str, Latencies]:
    """Add the series of each workload up, bucket by bucket, and take the quantiles.

    Args:
        gains: what each series gained over the window.
        critical: the workloads to answer for.
        missing: why there is nothing to say about some of them.
    """
    histograms = _histograms(gains)
    lost: dict[str, float] = defaultdict(float)
    for series, gain in gains:
        if series.kind == "lost":
            lost[series.workload] += gain.counts[0]
    return {key: _latencies(histograms.get(key), lost.get(key), missing.get(key)) for key in critical}


def medians(gains: Iterable[tuple[Series, Gain]]) -> dict[str, float]:
    """Median latency by workload, seconds; workloads without an observation are left out."""
    found = {key: quantile(0.5, bounds, counts) for key, (bounds, counts) in _histograms(gains).items()}
    return {key: median for key, median in found.items() if median is not None}


def _histograms(gains: Iterable[tuple[Series, Gain]]) -> dict[str, tuple[list[float], list[float]]]:
    """Bounds and cumulative counts by workload, its series added up."""
    buckets: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    totals: dict[str, float] = defaultdict(float)
    for series, gain in gains:
        if series.kind == "latency":
            totals[series.workload] += gain.counts[-1]
            for bound, count in zip(series.bounds, gain.counts, strict=False):
                buckets[series.workload][bound] += count
    sums = {}
    for key, by_bound in buckets.items():
        bounds = sorted(by_bound)
        sums[key] = bounds, [*(by_bound[bound] for bound in bounds), totals[key]]
    return sums


def _latencies(histogram: tuple[list[float], list[float]] | None, lost: float | None, missing: str | None) -> Latencies:
    if missing is not None:
        return Latencies(lost=lost, missing=missing)
    if histogram is None:
        return Latencies(lost=lost, missing=_ONE_PAGE)
    bounds, counts = histogram
    measured = latency(bounds, counts)
    return Latencies(
        jitter=measured.jitter,
        p95=measured.p95,
        observations=round(measured.observations),
        lost=lost,
        bounds=tuple(bounds),
        missing="no observations in the window" if measured.p95 is None else None,
    )


def sent(gains: Iterable[tuple[Series, Gain]], partly: Collection[str] = ()) -> dict[str, int]:
    """kbit/s by workload, over all its pods.

    Args:
        gains: what each series gained.
        partly: workloads with a pod that nobody can speak of.  They are left out, and so are those
            with a pod that was not counted anew.
    """
    rates: dict[str, float] = defaultdict(float)
    unknown = set(partly)
    for series, gain in gains:
        if series.kind != "sent":
            continue
        if gain.seconds <= 0:
            unknown.add(series.workload)
        else:
            rates[series.workload] += gain.counts[0] * 8 / 1000 / gain.seconds
    return {key: round(rate) for key, rate in rates.items() if key not in unknown}


def pods(gains: Iterable[tuple[Series, Gain]], measured: Collection[str]) -> dict[str, int]:
    """How many pods the throughput of each measured workload is of."""
    senders = ((series.workload, dict(series.labels)) for series, _ in gains if series.kind == "sent")
    return pods_of(senders, measured)
