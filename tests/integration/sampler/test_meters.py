"""Throughput from meters: real pages at addresses that come and go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest

from schemas.config import Scrape, Signal
from schemas.units import Duration
from services.sampler.scrape import meters
from services.sampler.scrape.meters import resolve_name
from services.sampler.scrape.source import ScrapeSource
from services.sampler.source import Measurements
from services.sampler.workloads import Workloads, metric_names
from tests.support.broken_server import BrokenServer
from tests.support.exporter_page import LiveExporter
from tests.support.waiting import until

S = 10**9
PERIOD = Duration(S // 4)
ROBOT = "factory/robot-control"
UPLOAD = "factory/telemetry-upload"
LABELS = 'namespace="factory",workload="%s",kind="Deployment",pod="%s",node="%s"'


def line(pod: str, sent: int, at: int, *, workload: str = "telemetry-upload", node: str = "n1") -> str:
    """A pod's counter, counted in period number ``at``."""
    labels = LABELS % (workload, pod, node)
    return f'container_network_transmit_bytes_total{{{labels},source="device"}} {sent} {10**12 + at * 250}\n'


def unmetered(pod: str, reason: str) -> str:
    """A pod that the meter cannot measure."""
    return f'sluice_meter_unmetered{{{LABELS % ("telemetry-upload", pod, "n1")},reason="{reason}"}} 1\n'


class Nodes:
    """Meters at addresses of the loopback, and the name that has them."""

    def __init__(self, source: ScrapeSource, live: LiveExporter, servers: dict[str, BrokenServer]) -> None:
        """See ``run_nodes``."""
        self._source = source
        self._live = live
        self._servers = servers
        self.listed = list(servers)
        self.at = 0

    async def resolve(self, host: str, port: int) -> list[str]:
        """The name's addresses now."""
        if not self.listed:
            raise OSError(-2, "Name or service not known")
        return self.listed

    @property
    def requests(self) -> list[bytes]:
        """What the first meter was asked."""
        return next(iter(self._servers.values())).requests

    async def until_only(self, count: int) -> None:
        """Wait until so many meters are known."""
        fleet = self._source._fleet
        assert fleet is not None
        await until(lambda: len(fleet._meters) == count)

    async def measure(self, *pages: str | None) -> Measurements:
        """Measure the next window; a meter without a page answers with status 503."""
        for server, page in zip(self._servers.values(), pages, strict=True):
            server.status = "503 No" if page is None else "200 OK"
            server.body = (page or "").encode()
        self._live.observe(0.001)
        self.at += 1
        return await self._source.measure(100 * S + self.at * PERIOD)


@asynccontextmanager
async def run_nodes(count: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Nodes]:
    """That many meters, all on one port, as on the nodes' own network."""
    monkeypatch.setattr(meters, "RESOLVE_S", 0.01)
    with ExitStack() as stack:
        live = stack.enter_context(LiveExporter())
        first = stack.enter_context(BrokenServer("body"))
        port = int(first.url.rpartition(":")[2].partition("/")[0])
        servers = {"127.0.0.1": first}
        for number in range(2, count + 1):
            servers[f"127.0.0.{number}"] = stack.enter_context(
                BrokenServer("body", host=f"127.0.0.{number}", port=port)
            )
        signal = Signal(
            period=PERIOD,
            window=Duration(S),
            timeout=Duration(10 * S),
            scrape=Scrape((live.url,), meters=(f"http://sluice-meter.sluice.svc:{port}/metrics",)),
        )
        source = ScrapeSource(signal, Workloads(metric_names(signal), (ROBOT,), (UPLOAD,)))
        nodes = Nodes(source, live, servers)
        assert source._fleet is not None
        source._fleet._resolve = nodes.resolve
        yield nodes
        source.close()
        await asyncio.sleep(0)


RATE = 10**6 * 8 // 250
"""kbit/s of a million bytes a period."""


def rise(at: int, pod: str = "a") -> str:
    """A pod that sends a million bytes a period."""
    return line(pod, 10**6 * at, at)


async def test_throughput_is_the_sum_over_all_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the counters' own times, not by when pages arrived; from the second page on."""
    async with run_nodes(2, monkeypatch) as nodes:
        for at in range(1, 9):
            found = await nodes.measure(rise(at), rise(at, "b"))
            if at == 1:
                assert "two" in found.throughput_missing[UPLOAD]
                assert UPLOAD not in found.throughput
            else:
                assert found.throughput[UPLOAD] == found.recent[UPLOAD] == 2 * RATE
                assert found.pods[UPLOAD] == 2
        assert found.throughput_missing == {ROBOT: "no page has a series of the throughput counter for it"}
        assert not found.notes
        assert b"GET /metrics?namespace=factory HTTP/1.1" in nodes.requests[-1]


async def test_a_meter_that_is_missing_makes_its_pods_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its reason, and never zero or a part; latency goes on, and so do workloads of other nodes."""
    async with run_nodes(2, monkeypatch) as nodes:
        robot = [line("robot-0", 10**6 * at, at, workload="robot-control") for at in range(20)]
        for at in (1, 2):
            await nodes.measure(rise(at) + robot[at], rise(at, "b"))
        for at in range(3, 10):
            found = await nodes.measure(rise(at) + robot[at], None)
            assert UPLOAD not in found.throughput
            assert UPLOAD not in found.recent
            assert found.throughput_missing[UPLOAD].endswith("/metrics: HTTP status 503")
            assert found.throughput[ROBOT] == RATE
            assert found.latency[ROBOT].missing is None
            assert "HTTP status 503" in found.notes["meters"]
        for at in (10, 11):
            found = await nodes.measure(rise(at) + robot[at], rise(at, "b"))
        assert found.throughput[UPLOAD] == 2 * RATE


async def test_a_meter_that_never_answered_may_hide_any_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is given up; then the others' figures stand, and a note names it."""
    async with run_nodes(2, monkeypatch) as nodes:
        for at in (1, 2):
            found = await nodes.measure(rise(at), None)
            assert not found.throughput
            assert "has not answered yet" in found.throughput_missing[ROBOT]
        monkeypatch.setattr(meters, "FORGET_S", 0.0)
        found = await nodes.measure(rise(3), None)
        assert found.throughput[UPLOAD] == RATE
        assert "HTTP status 503" in found.notes["meters"]


async def test_a_node_that_leaves_is_missed_until_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A meter that is replaced leaves its name for some seconds, and its pods go on sending."""
    async with run_nodes(2, monkeypatch) as nodes:
        for at in (1, 2):
            await nodes.measure(rise(at), rise(at, "b"))
        nodes.listed.pop()
        await asyncio.sleep(0.05)
        found = await nodes.measure(rise(3), None)
        assert UPLOAD not in found.throughput
        monkeypatch.setattr(meters, "FORGET_S", 0.0)
        await nodes.until_only(1)
        found = await nodes.measure(rise(4), None)
        assert found.throughput[UPLOAD] == RATE
        assert not found.notes


async def test_a_node_that_joins_counts_from_its_second_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first page is no rate yet."""
    async with run_nodes(2, monkeypatch) as nodes:
        second = nodes.listed.pop()
        for at in (1, 2):
            found = await nodes.measure(rise(at), "")
        assert found.throughput[UPLOAD] == RATE
        nodes.listed.append(second)
        await nodes.until_only(2)
        found = await nodes.measure(rise(3), rise(3, "b"))
        assert "two" in found.throughput_missing[UPLOAD]
        found = await nodes.measure(rise(4), rise(4, "b"))
        assert found.recent[UPLOAD] == 2 * RATE


async def test_a_pod_that_cannot_be_measured_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A workload is all of its pods or none."""
    async with run_nodes(1, monkeypatch) as nodes:
        for at in (1, 2, 3):
            found = await nodes.measure(rise(at) + unmetered("b", "no route"))
            assert UPLOAD not in found.throughput
            assert found.throughput_missing[UPLOAD].endswith("no route")
        found = await nodes.measure(rise(4))
        assert found.throughput[UPLOAD] == RATE


async def test_pods_that_come_and_go_count_for_their_time_in_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pod takes the place of another: together they sent what one sends."""
    async with run_nodes(1, monkeypatch) as nodes:
        for at in range(1, 12):
            found = await nodes.measure(rise(at, "old" if at <= 8 else "new"))
        # Between the last page of the one and the first of the other nobody counts.
        assert found.throughput[UPLOAD] == pytest.approx(RATE * 3 / 4, rel=0.02)
        assert found.recent[UPLOAD] == RATE


async def test_a_restarted_meter_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counters are the devices': they do not begin anew with the meter."""
    async with run_nodes(1, monkeypatch) as nodes:
        for at in range(1, 12):
            found = await nodes.measure(None if at in (5, 6) else rise(at))
            assert (UPLOAD in found.throughput) is (at not in (1, 5, 6))
            if UPLOAD in found.throughput:
                assert found.throughput[UPLOAD] == RATE


async def test_a_device_that_was_made_anew_counts_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that fell is believed where one process can have counted it, and is missing otherwise."""
    async with run_nodes(1, monkeypatch) as nodes:
        found = [await nodes.measure(line("a", 10**6 * (at if at < 5 else at - 5), at)) for at in range(1, 8)]
        assert all(one.throughput.get(UPLOAD, RATE) <= RATE for one in found)
        assert found[-1].throughput[UPLOAD] == pytest.approx(RATE * 3 / 4, rel=0.02)


async def test_a_name_without_addresses_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """No meter at all."""
    async with run_nodes(1, monkeypatch) as nodes:
        nodes.listed.clear()
        found = await nodes.measure(rise(1))
        assert "name or service not known" in found.throughput_missing[UPLOAD]
        assert found.latency[ROBOT].missing is not None or found.latency[ROBOT].p95 is not None


async def test_a_name_is_resolved_in_one_family() -> None:
    """A dual-stack Service would give each meter twice."""
    assert await resolve_name("127.0.0.1", 80) == ["127.0.0.1"]
    assert len({":" in one for one in await resolve_name("localhost", 80)}) == 1
    with pytest.raises(OSError, match=r"\w"):
        await resolve_name("no.such.name.invalid", 80)
