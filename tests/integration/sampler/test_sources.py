"""Both sources against real servers that fail in many ways: no data, with the reason."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Literal

import pytest

from schemas.config import Prometheus, Scrape, Signal
from schemas.units import Duration
from services.common.histogram import BOUNDS
from services.sampler.prometheus.source import PrometheusSource
from services.sampler.scrape.source import ScrapeSource
from services.sampler.source import LatencyStats, NoData, Source
from services.sampler.workloads import Workloads, metric_names
from tests.support.broken_server import BrokenServer
from tests.support.exporter_page import LiveExporter
from tests.support.ports import free_port
from tests.support.prometheus_server import PrometheusServer
from tests.support.waiting import PATIENCE_S

S = 10**9
ROBOT = "factory/robot-control"
UPLOAD = "factory/telemetry-upload"
PERIOD = Duration(S // 4)

Name = Literal["scrape", "prometheus"]


def settings(source: Name, *urls: str, timeout_s: float = 10) -> Signal:
    """A signal from these servers."""
    return Signal(
        source=source,
        period=PERIOD,
        window=Duration(4 * S),
        timeout=Duration(int(timeout_s * S)),
        scrape=Scrape(urls),
        prometheus=Prometheus(url=urls[0]),
    )


@contextmanager
def source_for(signal: Signal, *critical: str) -> Iterator[Source]:
    """The source of this signal."""
    workloads = Workloads(metric_names(signal), critical or (ROBOT,), (UPLOAD,))
    kind = ScrapeSource if signal.source == "scrape" else PrometheusSource
    with closing(kind(signal, workloads)) as source:
        yield source


def now() -> int:
    """An aligned instant, as the sampler passes it."""
    return time.time_ns() // PERIOD * PERIOD


async def robot(source: Source, end: int) -> LatencyStats:
    """The source's measurement of the robot."""
    return (await source.measure(end)).latency[ROBOT]


async def until(source: Source, true: Callable[[LatencyStats], bool]) -> LatencyStats:
    """Measure until the condition is true."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await robot(source, time.time_ns())
            if true(found):
                return found
            await asyncio.sleep(0.1)


async def until_answered(source: Source, end: int) -> None:
    """Measure until the server answers in time: the robot's latency is there."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(NoData):
                assert (await robot(source, end)).missing is None
                return
            await asyncio.sleep(0.05)


FAULTS = {
    "stall": (0.3, "no answer within 0.3 s"),
    "dribble": (0.3, "no answer within 0.3 s"),
    "reset": (10, "reset by peer|[Aa]borted|RemoteDisconnected|ProtocolError"),
    "garbage": (10, "BadStatusLine"),
}
"""The timeout for the server, and the expected reason."""


@pytest.mark.parametrize("name", ["scrape", "prometheus"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_server_that_breaks_off_is_no_data(name: Name, fault: str) -> None:
    """Whatever a server does to its connections, the window has no data, with the reason."""
    patience, why = FAULTS[fault]
    with (
        BrokenServer(fault) as server,
        source_for(settings(name, server.url, timeout_s=patience)) as source,
        pytest.raises(NoData, match=why) as reason,
    ):
        await source.measure(now())
    assert server.url in str(reason.value)


@pytest.mark.parametrize("name", ["scrape", "prometheus"])
async def test_requests_do_not_pile_up_behind_a_stuck_one(name: Name) -> None:
    """While the first answer arrives byte by byte, the next windows fail at once; threads do not pile up."""
    with BrokenServer("dribble") as server, source_for(settings(name, server.url, timeout_s=0.3)) as source:
        with pytest.raises(NoData, match="no answer within"):
            await source.measure(now())
        with pytest.raises(NoData, match="the previous request is still running"):
            await source.measure(now() + PERIOD)


@pytest.mark.parametrize("name", ["scrape", "prometheus"])
async def test_a_closed_port_is_no_data(name: Name) -> None:
    """The reason names the error."""
    unreachable = f"http://127.0.0.1:{free_port()}"
    with source_for(settings(name, unreachable)) as source, pytest.raises(NoData, match="connection refused"):
        await source.measure(now())


@pytest.mark.parametrize("name", ["scrape", "prometheus"])
@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Busy", "404 Not Found", "401 Unauthorized"])
async def test_an_error_status_is_no_data(name: Name, status: str) -> None:
    """The reason names the status."""
    with (
        BrokenServer("body", b"sorry\n", status) as server,
        source_for(settings(name, server.url)) as source,
        pytest.raises(NoData, match=f"(?i)HTTP status (code )?{status[:3]}"),
    ):
        await source.measure(now())


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'hubble_flow_latency_seconds_bucket{namespace="factory",workload="robot-control"', "cut off"),
        (b'hubble_flow_lost_total{namespace="factory",workload="robot-control"} many\n', "not in the text format"),
        (b"hubble_flow_latency_seconds_bucket{{}} 1\n", "not in the text format"),
        (b"x" * 9_000_000, "a line of more than"),
    ],
)
async def test_a_page_that_is_malformed_is_no_data(body: bytes, why: str) -> None:
    """The whole page is rejected."""
    with (
        BrokenServer("body", body) as server,
        source_for(settings("scrape", server.url)) as source,
        pytest.raises(NoData, match=why),
    ):
        await source.measure(now())


async def test_a_page_that_is_cut_short_is_no_data() -> None:
    """The page is shorter than announced."""
    with (
        BrokenServer("cut", b"a_metric 1\n") as server,
        source_for(settings("scrape", server.url)) as source,
        pytest.raises(NoData, match="IncompleteRead"),
    ):
        await source.measure(now())


@pytest.mark.parametrize("body", [b"", b"up 1\n"])
async def test_a_page_of_something_else_leaves_the_workload_missing(body: bytes) -> None:
    """An address of another program answers well, but without the histogram."""
    with BrokenServer("body", body) as server, source_for(settings("scrape", server.url)) as source:
        assert "no series of hubble_flow_latency_seconds" in str((await robot(source, now())).missing)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<html>a login page</html>", "not a Prometheus answer: no content type"),
        (b'{"status":"success"}', "not a Prometheus answer: no content type"),
        (b'{"data":{"result":[1,2]}}', "not an instant vector"),
        (b'{"data":{"result":[{"metric":{},"value":[0,"many"]}]}}', "not an instant vector"),
        (b'{"data":{"result":[{"metric":{},"values":[]}]}}', "not an instant vector"),
        (b'{"data":{"result":{}}}', "not a Prometheus answer"),
        (b"\xff\xfe", "not a Prometheus answer: no content type"),
    ],
)
async def test_an_answer_that_is_not_prometheus_is_no_data(body: bytes, why: str) -> None:
    """A gateway's login page, another API, a range instead of an instant."""
    with (
        BrokenServer("body", body) as server,
        source_for(settings("prometheus", server.url)) as source,
        pytest.raises(NoData, match=why),
    ):
        await source.measure(now())


@asynccontextmanager
async def warm(exporter: LiveExporter, *others: str) -> AsyncIterator[tuple[Source, int]]:
    """A scraping source that has seen one page, and the end of that page's window."""
    with source_for(settings("scrape", exporter.url, *others)) as source:
        end = now()
        await source.measure(end)
        yield source, end


async def test_scrape_of_a_live_exporter() -> None:
    """A hundred round trips, two losses and a megabyte between two pages."""
    with LiveExporter() as exporter:
        exporter.observe(0.5)
        exporter.lose(7)
        exporter.send(100)
        async with warm(exporter) as (source, end):
            exporter.observe(*[0.0009] * 100)
            exporter.lose(2)
            exporter.send(1_000_000)
            measured = await source.measure(end + PERIOD)
        found = measured.latency[ROBOT]
        assert (found.missing, found.observations, found.lost, found.bounds) == (None, 100, 2.0, BOUNDS)
        assert found.p95 == pytest.approx(0.00099)
        assert found.jitter == pytest.approx(0.0001)
        assert measured.throughput[UPLOAD] > 0
        assert measured.start == end


async def test_first_page_alone_is_missing() -> None:
    """A counter needs an earlier page to compare with."""
    with LiveExporter() as exporter, source_for(settings("scrape", exporter.url)) as source:
        exporter.observe(0.001)
        found = await robot(source, now())
        assert found.missing == "seen on one page so far; a window needs two"


async def test_an_idle_workload_is_missing() -> None:
    """Zero observations are not zero latency."""
    with LiveExporter() as exporter:
        exporter.observe(0.001)
        async with warm(exporter) as (source, end):
            found = await robot(source, end + PERIOD)
            assert (found.missing, found.observations) == ("no observations in the window", 0)


async def test_an_exporter_that_restarts_counts_from_zero() -> None:
    """The window contains the new process's counts; no increase is negative."""
    with LiveExporter() as first:
        first.observe(*[0.001] * 500)
        async with warm(first) as (source, end):
            first.stop()
            with LiveExporter(port=first.port) as second:
                second.observe(*[0.0015] * 40)
                found = await robot(source, end + PERIOD)
                assert (found.missing, found.observations) == (None, 40)


async def test_an_exporter_that_dies_is_no_data_at_once_and_recovers() -> None:
    """Its counters from before it stopped do not count as new."""
    with LiveExporter() as exporter:
        exporter.observe(*[0.001] * 200)
        async with warm(exporter) as (source, end):
            exporter.observe(*[0.001] * 200)
            assert (await robot(source, end + PERIOD)).missing is None
            exporter.stop()
            with pytest.raises(NoData, match="connection refused"):
                await source.measure(end + 2 * PERIOD)
            exporter.start()
            exporter.observe(*[0.001] * 200)
            assert (await robot(source, end + 3 * PERIOD)).observations == 400


async def test_one_of_two_exporters_gone_silences_only_its_workloads() -> None:
    """A workload whose exporter has just failed is missing; the other one is measured."""
    with LiveExporter() as one, BrokenServer("body", b"") as other:
        page = "".join(
            f'hubble_flow_latency_seconds_bucket{{namespace="factory",workload="scanner",le="{le}"}} 1\n'
            for le in ("0.001", "+Inf")
        )
        other.body = page.encode()
        one.observe(0.001)
        signal = settings("scrape", one.url, other.url)
        with source_for(signal, ROBOT, "factory/scanner") as source:
            end = now()
            await source.measure(end)
            one.observe(*[0.001] * 100)
            other.status = "500 Oh No"
            found = (await source.measure(end + PERIOD)).latency
            assert found[ROBOT].missing is None
            assert found["factory/scanner"].missing == f"{other.url}: HTTP status 500"
            after = (await source.measure(end + 40 * PERIOD)).latency["factory/scanner"]
            assert after.missing == f"{other.url}: HTTP status 500"


BUCKET = 'hubble_flow_latency_seconds_bucket{namespace="factory",workload="robot-control",le="%s"} %d\n'


def robots(count: int, bounds: tuple[str, ...] = ("0.001", "+Inf")) -> bytes:
    """A page with so many fast round trips of the robot."""
    return "".join(BUCKET % (bound, count) for bound in bounds).encode()


@pytest.mark.parametrize("faulty", [False, True])
async def test_a_dead_exporter_is_not_forgotten(faulty: bool) -> None:
    """Two exporters see a workload and one fails: the other sees half, however long that lasts."""
    with BrokenServer("body") as one, BrokenServer("body") as other:
        with source_for(settings("scrape", one.url, other.url)) as source:
            end = now()
            found = []
            for at in range(40):
                one.body = robots(200 * at)
                other.body = robots(200 * at, ("0.001",) if faulty and at == 1 else ("0.001", "+Inf"))
                other.status = "500 Oh No" if 2 <= at < 38 else "200 OK"
                found.append((await robot(source, end + at * PERIOD)).missing)
        assert found[2:38] == [f"{other.url}: HTTP status 500"] * 36
        assert found[38:] == ["seen on one page so far; a window needs two", None]


async def test_what_left_the_last_page_of_a_dead_exporter_is_judged_without_it() -> None:
    """A Pod moved, and its former node was removed: once no count of that node is in the window, all is well."""
    with BrokenServer("body") as one, BrokenServer("body") as other:
        with source_for(settings("scrape", one.url, other.url)) as source:
            end = now()
            found = []
            for at in range(40):
                one.body, other.body = robots(200 * at), robots(200 * at) if at < 2 else b""
                other.status = "500 Oh No" if at >= 3 else "200 OK"
                found.append((await robot(source, end + at * PERIOD)).missing)
        assert found[3] == f"{other.url}: HTTP status 500"
        assert found[39] is None


async def test_throughput_of_a_workload_is_all_of_its_pods_or_none() -> None:
    """A part of the pods would look like a part of the load: with one page missing there is no figure."""
    counter = 'container_network_transmit_bytes_total{namespace="factory",pod="telemetry-upload-5d4-%s"} %d\n'
    with LiveExporter() as live, BrokenServer("body") as one, BrokenServer("body") as other:
        signal = settings("scrape", live.url, one.url, other.url)
        with source_for(signal) as source:
            end = now()
            rates, pods = [], []
            for at, status in enumerate(("200 OK", "200 OK", *("503 Busy",) * 30, "200 OK", "200 OK")):
                live.observe(0.001)
                one.body = (counter % ("abcde", 10**6 * at)).encode()
                other.body, other.status = (counter % ("fghij", 10**6 * at)).encode(), status
                measured = await source.measure(end + at * PERIOD)
                rates.append(measured.throughput.get(UPLOAD))
                pods.append(measured.pods.get(UPLOAD))
        assert rates[0] is None
        assert rates[1] is not None
        assert set(rates[2:33]) == {None}
        assert rates[33] is not None
        assert pods == [None if rate is None else 2 for rate in rates]


async def test_a_workload_that_leaves_the_page_is_missing() -> None:
    """Its counts in the window are outdated."""
    with BrokenServer("body") as server, source_for(settings("scrape", server.url)) as source:
        labels = 'namespace="factory",workload="robot-control"'
        page = 'hubble_flow_latency_seconds_bucket{%s,le="%s"} %d\n'
        end = now()
        for at in range(3):
            server.body = "".join(page % (labels, le, 100 * at) for le in ("0.001", "+Inf")).encode()
            await source.measure(end + at * PERIOD)
        server.body = b""
        assert "no series" in str((await robot(source, end + 3 * PERIOD)).missing)


async def test_missing_buckets_are_a_reason() -> None:
    """Without +Inf the number of observations is unknown."""
    with BrokenServer("body") as server, source_for(settings("scrape", server.url)) as source:
        server.body = b'hubble_flow_latency_seconds_bucket{namespace="factory",workload="robot-control",le="0.001"} 1\n'
        assert (await robot(source, now())).missing == "histogram without a +Inf bucket"


EPOCH = 1_795_400_000


def history(seconds: int, bounds: tuple[str, ...] = ("0.001", "0.002", "+Inf"), per_second: int = 50) -> str:
    """Round trips of the robot between 1 and 2 ms, a page a second."""
    labels = 'namespace="factory",workload="robot-control"'
    name = "hubble_flow_latency_seconds"
    lines = [f"# TYPE {name} histogram"]
    for bound in bounds:
        share = 0 if bound == "0.001" else per_second
        lines += [f'{name}_bucket{{{labels},le="{bound}"}} {1000 + at * share} {EPOCH + at}' for at in range(seconds)]
    lines += [f"{name}_count{{{labels}}} {1000 + at * per_second} {EPOCH + at}" for at in range(seconds)]
    return "\n".join([*lines, "# EOF", ""])


@pytest.mark.prometheus
async def test_unanswered_queries_are_missing_with_their_reason(tmp_path: Path) -> None:
    """A real Prometheus is queried at times with an empty, NaN or stale answer, or too few scrapes."""
    with (
        PrometheusServer(tmp_path, history=history(60)) as server,
        source_for(settings("prometheus", server.url), ROBOT, "factory/nobody") as source,
    ):
        good = await source.measure((EPOCH + 30) * S)
        found = good.latency[ROBOT]
        assert (found.missing, found.observations, found.bounds) == (None, 200, (0.001, 0.002))
        assert found.p95 == pytest.approx(0.00195)
        assert found.jitter == pytest.approx(0.0005)
        assert found.lost is None
        assert good.latency["factory/nobody"].missing == "not measured: no series for it is being scraped"
        late = await robot(source, (EPOCH + 62) * S + S // 2)
        assert late.missing == "stale: last scraped 3.5 s before the window's end, with an interval of 1 s"
        first = await robot(source, EPOCH * S)
        assert first.missing == "no rate: scraped less than twice within the window"
        before = await robot(source, (EPOCH - 1000) * S)
        assert before.missing == "not measured: no series for it is being scraped"


@pytest.mark.prometheus
async def test_prometheus_without_observations_or_buckets(tmp_path: Path) -> None:
    """NaN satisfies no SLO, and gives a reason."""
    with (
        PrometheusServer(tmp_path / "idle", history=history(60, per_second=0)) as idle,
        source_for(settings("prometheus", idle.url)) as source,
    ):
        assert (await robot(source, (EPOCH + 30) * S)).missing == "no observations in the window"
    with (
        PrometheusServer(tmp_path / "cut", history=history(60, bounds=("0.001", "0.002"))) as cut,
        source_for(settings("prometheus", cut.url)) as source,
    ):
        missing = (await robot(source, (EPOCH + 30) * S)).missing
        assert missing == "200 observations but no quantile: buckets, or the +Inf bucket, are missing"


@pytest.mark.prometheus
async def test_a_query_that_prometheus_refuses_is_no_data(tmp_path: Path) -> None:
    """A mistake in a custom query shows Prometheus's own error."""
    with PrometheusServer(tmp_path, history=history(10)) as server:
        signal = Signal(
            source="prometheus",
            window=Duration(4 * S),
            timeout=Duration(10 * S),
            prometheus=Prometheus(url=server.url, queries={"p95": "histogram_quantile(0.95, sum by ($by"}),
        )
        with (
            source_for(signal) as source,
            pytest.raises(NoData, match=r"p95: HTTP status 400: bad_data: .*parse error"),
        ):
            await source.measure(EPOCH * S)


@pytest.mark.prometheus
async def test_a_prometheus_that_hangs_is_no_data_and_recovers(tmp_path: Path) -> None:
    """No call hangs for ever: once Prometheus answers again, so does the source."""
    with (
        PrometheusServer(tmp_path, history=history(60)) as server,
        source_for(settings("prometheus", server.url, timeout_s=2)) as source,
    ):
        end = (EPOCH + 30) * S
        await until_answered(source, end)
        server.freeze()
        for _ in range(3):
            with pytest.raises(NoData, match=r"no answer within 2 s|is still running"):
                await source.measure(end)
        server.thaw()
        await until_answered(source, end)


@pytest.mark.prometheus
async def test_an_exporter_that_dies_under_prometheus_is_missing_at_once(tmp_path: Path) -> None:
    """The range still holds earlier rates; the failed scrape shows that they are outdated."""
    with LiveExporter() as exporter, PrometheusServer(tmp_path, scrape=(exporter.address,)) as server:
        exporter.traffic(500)
        with source_for(settings("prometheus", server.url)) as source:
            await until(source, lambda found: found.missing is None)
            exporter.stop()
            found = await until(source, lambda found: found.missing is not None)
            assert found.missing == "not measured: no series for it is being scraped"


@pytest.mark.parametrize("turns", ["ABABAB", "BABABA", "AABBAABB", "AAAAAABBBBBBAAAAAA", "BBBBBBAAAAAABBBBBB"])
async def test_several_processes_behind_one_address_are_no_data(turns: str) -> None:
    """Two replicas answer in turn: what one has counted in hours is never taken for what happened just now."""
    lost = 'hubble_flow_lost_total{namespace="factory",workload="robot-control"} %d\n'
    with BrokenServer("body") as server, source_for(settings("scrape", server.url)) as source:
        end, found = now(), []
        for at, turn in enumerate(turns):
            fast, slow, gone = (1_000_000, 60_000, 50) if turn == "A" else (0, 0, 0)
            fast += 10 * at
            server.body = (BUCKET % ("0.001", fast) + BUCKET % ("+Inf", fast + slow) + lost % (gone + at)).encode()
            found.append(await robot(source, end + at * PERIOD))
    for stats in found:
        assert stats.observations <= 10 * 17 + 100
        assert (stats.lost or 0) <= 17
    reasons = [stats.missing or "" for stats in found]
    change = next(at for at in range(1, len(turns)) if turns[at] != turns[0])
    assert any("several processes answer at one address" in reason for reason in reasons[change : change + 7])
    assert "several processes answer at one address" in reasons[-1]
