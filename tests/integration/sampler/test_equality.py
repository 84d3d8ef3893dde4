"""The direct scrape and a real Prometheus give the same figures for the same buckets."""

import asyncio
import logging
import random
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from schemas.config import Prometheus, Scrape, Signal
from schemas.units import Duration
from services.common.histogram import BOUNDS
from services.sampler.prometheus.source import PrometheusSource
from services.sampler.scrape.parser import PageReader
from services.sampler.scrape.source import ScrapeSource, measure_latency, measure_throughput
from services.sampler.scrape.window import PageWindow
from services.sampler.source import Measurements
from services.sampler.workloads import Workloads, metric_names
from tests.support.exporter_page import LiveExporter
from tests.support.prometheus_server import PrometheusServer
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.prometheus

_log = logging.getLogger(__name__)

S = 10**9
START = 1_795_400_000
PAGES = 300
WINDOW = 5
CRITICAL = ("factory/robot-control", "factory/safety-scanner")
TARGETS = ("factory/telemetry-upload",)


class Exporter:
    """Counters of an exporter, page after page: two protocols each, resets, series that come and go."""

    def __init__(self, seed: int, restart_every: int = 61) -> None:
        """All pages follow from the seed; the last page of each so many is the first after a restart."""
        self._random = random.Random(seed)
        self._restart_every = restart_every
        self._counters: dict[str, float] = {}

    def _add(self, series: str, gain: float) -> None:
        self._counters[series] = self._counters.get(series, 0.0) + gain

    def _observe(self, labels: str, mean: float) -> None:
        latency = self._random.expovariate(1 / mean)
        for bound in (*BOUNDS, float("inf")):
            le = "+Inf" if bound == float("inf") else repr(bound)
            self._add(f'hubble_flow_latency_seconds_bucket{{{labels},le="{le}"}}', float(latency <= bound))
        self._add(f"hubble_flow_latency_seconds_count{{{labels}}}", 1.0)

    def page(self, number: int) -> dict[str, float]:
        """The counters one second later."""
        if number % self._restart_every == self._restart_every - 1:  # restarted, and busy at once
            self._counters.clear()
        mean = self._random.choice((0.0003, 0.001, 0.004, 0.05))
        for workload in ("robot-control", "safety-scanner"):
            for protocol in ("TCP", "UDP"):
                labels = f'namespace="factory",workload="{workload}",protocol="{protocol}"'
                for _ in range(self._random.randrange(20, 60)):
                    self._observe(labels, mean)
                self._add(f"hubble_flow_lost_total{{{labels}}}", float(self._random.randrange(3) // 2))
        for pod in ("7d9f8c6b5-x2x4z", "7d9f8c6b5-b8cde"):
            labels = f'namespace="factory",pod="telemetry-upload-{pod}"'
            self._add(f"container_network_transmit_bytes_total{{{labels}}}", float(self._random.randrange(10**6)))
        return dict(self._counters)


def open_metrics(pages: list[dict[str, float]]) -> str:
    """All pages with their times, in the format of promtool's history."""
    kinds = {
        "hubble_flow_latency_seconds": "histogram",
        "hubble_flow_lost": "counter",
        "container_network_transmit_bytes": "counter",
    }
    lines = []
    for name, kind in kinds.items():
        lines.append(f"# TYPE {name} {kind}")
        for series in dict.fromkeys(series for page in pages for series in page):
            if series.startswith((f"{name}_", f"{name}{{")):
                lines += [f"{series} {page[series]} {START + at}" for at, page in enumerate(pages) if series in page]
    return "\n".join([*lines, "# EOF", ""])


def signal(url: str = Prometheus().url) -> Signal:
    """A window of five scrapes."""
    return Signal(
        source="prometheus",
        period=Duration(S),
        window=Duration(WINDOW * S),
        timeout=Duration(10 * S),
        prometheus=Prometheus(url=url),
    )


def scrape_pages(pages: list[dict[str, float]], window: int) -> Iterator[tuple[int, Measurements]]:
    """The direct scrape's figures from the same pages, by window end."""
    workloads = Workloads(metric_names(signal()), CRITICAL, TARGETS)
    reader, history = PageReader(workloads), PageWindow(window * S)
    for at, page in enumerate(pages):
        text = "".join(f"{series} {value}\n" for series, value in page.items())
        end = (START + at) * S
        history.add(end, float(START + at), reader.read(text.encode()))
        increases = list(history.increases().items())
        throughput, pods = measure_throughput(increases)
        yield end, Measurements(end - window * S, measure_latency(increases, CRITICAL, {}), throughput, pods=pods)


async def test_same_buckets_same_figures(tmp_path: Path) -> None:
    """Over 290 windows with restarts in between, both sources agree to the last digits of a double.

    Prometheus gets exactly the pages of the scrape, at their times, and is queried at these
    times, so that neither timing nor extrapolation affects the result.
    """
    exporter = Exporter(seed=1)
    pages = [exporter.page(number) for number in range(PAGES)]
    difference, compared = 0.0, 0
    with PrometheusServer(tmp_path, history=open_metrics(pages)) as server:
        # From version 3 on, a range excludes its very beginning.
        window = WINDOW if server.version < (3,) else WINDOW - 1
        workloads = Workloads(metric_names(signal()), CRITICAL, TARGETS)
        with closing(PrometheusSource(signal(server.url), workloads)) as source:
            for end, ours in list(scrape_pages(pages, window))[WINDOW:]:
                theirs = await source.measure(end)
                for key in CRITICAL:
                    one, other = ours.latency[key], theirs.latency[key]
                    if (end // S - START - 60) % 61 < WINDOW and end // S - START >= 60:
                        # Of a restart, PromQL looks at each bucket alone.
                        assert "a counter fell" in str(other.missing)
                        continue
                    assert (one.missing, other.missing) == (None, None)
                    assert (one.observations, one.bounds) == (other.observations, other.bounds)
                    assert one.lost == pytest.approx(other.lost)
                    for figure in ("jitter", "p95"):
                        a, b = getattr(one, figure), getattr(other, figure)
                        difference = max(difference, abs(a - b) / b)
                        compared += 1
                assert ours.throughput == pytest.approx(theirs.throughput, abs=1)
                assert ours.pods == theirs.pods == {TARGETS[0]: 2}
    _log.info("%d figures compared, largest relative difference %.1e", compared, difference)
    assert compared == 2 * 2 * (PAGES - WINDOW - 4 * WINDOW)
    assert difference < 1e-9


async def test_live_scrapes_agree_within_a_bucket(tmp_path: Path) -> None:
    """Both read a live exporter at different instants, so their counts differ by less than a bucket."""
    period = Duration(S)
    with LiveExporter() as live, PrometheusServer(tmp_path, scrape=(live.address,)) as server:
        live.traffic(150)
        workloads = Workloads(metric_names(signal()), CRITICAL[:1], ())
        settings = Signal(
            period=period, window=Duration(WINDOW * S), timeout=Duration(10 * S), scrape=Scrape((live.url,))
        )
        with (
            closing(PrometheusSource(signal(server.url), workloads)) as asked,
            closing(ScrapeSource(settings, workloads)) as scraped_by_us,
        ):
            compared, deadline = 0, time.monotonic() + PATIENCE_S
            while compared < 3:
                end = (time.time_ns() // period + 1) * period
                await asyncio.sleep((end - time.time_ns()) / S)
                ours, theirs = await asyncio.gather(scraped_by_us.measure(end), asked.measure(end))
                one, other = ours.latency[CRITICAL[0]], theirs.latency[CRITICAL[0]]
                if one.missing is not None or other.missing is not None or other.observations < 150 * WINDOW // 2:
                    # Neither has a whole window yet.
                    assert time.monotonic() < deadline, (one.missing, other.missing)
                    continue
                compared += 1
                for figure in ("jitter", "p95"):
                    a, b = getattr(one, figure), getattr(other, figure)
                    width = next(high - low for low, high in pairwise([0.0, *BOUNDS]) if low < b <= high)
                    assert abs(a - b) <= width, (figure, a, b)
