"""Samplers as processes on a real bus: they deduplicate, survive crashes, and lose no acknowledged sample."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.messages import Sample
from services.bus.bus import Bus, Received
from services.common.failpoints import VARIABLE
from tests.support.commands import SLUICE, sluice
from tests.support.decision_services import join, read_stream
from tests.support.exporter_page import LiveExporter
from tests.support.fault_tally import Broken, Tally
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.prometheus_server import PrometheusServer
from tests.support.waiting import PATIENCE_S

_log = logging.getLogger(__name__)

S = 10**9
PERIOD = S // 4
POINTS = ("sampler.measured", "sampler.publishing", "sampler.acknowledged")


class SamplerProcess:
    """``sluice sampler`` as a process of its own; killed at the end of the context."""

    def __init__(
        self,
        home: Path,
        bus: NatsServer,
        exporter: LiveExporter,
        domains: int = 1,
        signal: str = "period: 250ms, window: 1s",
    ) -> None:
        """Write its configuration below ``home``."""
        home.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log = home / "sampler.log"
        self._config = home / "config.yaml"
        self._config.write_text(
            f"bus: {{servers: ['{bus.url}']}}\n"
            f"listen: {{host: 127.0.0.1, sampler: {self.port}}}\n"
            f"signal: {{{signal}, scrape: {{urls: ['{exporter.url}']}}}}\n"
            "domains:\n"
            + "".join(
                f"- name: cell-{number}\n"
                "  critical: [{workload: robot-control, namespace: factory}]\n"
                f"  targets: [{{deployment: upload-{number}, min: 1M, max: 10M, fail_safe: 2M}}]\n"
                for number in range(domains)
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, crash_at: str | None = None) -> None:
        """Start it, with one crash point armed."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SLUICE_")}
        if crash_at is not None:
            environment[VARIABLE] = crash_at
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [SLUICE, "sampler", "--config", self._config], env=environment, stdout=log, stderr=log
            )

    @property
    def resident_mib(self) -> float:
        """Memory in use."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def get(self, path: str) -> tuple[int, str]:
        """Request a page of its health server."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def wrong(self) -> dict[str, str] | None:
        """The answer of /readyz; None while it does not listen."""
        try:
            found: dict[str, str] = json.loads(self.get("/readyz")[1])["wrong"]
        except (urllib.error.URLError, ConnectionError):
            return None
        return found

    def metric(self, name: str) -> float:
        """One row of its metrics."""
        rows = self.get("/metrics")[1].splitlines()
        return next(float(row.split()[-1]) for row in rows if row.startswith(name))

    def wait_for_crash(self) -> bool:
        """Wait until it ends; return whether SIGKILL ended it."""
        assert self._process is not None
        return self._process.wait(PATIENCE_S) == -signal.SIGKILL

    def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(PATIENCE_S)

    def __enter__(self) -> "SamplerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def exporter() -> Iterator[LiveExporter]:
    """An exporter with 500 round trips a second."""
    with LiveExporter() as live:
        live.traffic(500)
        yield live


async def wait_for_samples(bus: Bus, count: int) -> list[Received[Sample]]:
    """Wait for so many samples on the bus."""
    found: list[Received[Sample]] = []
    async with asyncio.timeout(PATIENCE_S), aclosing(bus.consume(Sample, None, "test")) as messages:
        async for one in messages:
            found.append(one)
            if len(found) >= count:
                return found
    return found


async def until(true: Any) -> None:
    """Poll a process until the condition is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_two_samplers_publish_each_window_once(nats: NatsServer, tmp_path: Path) -> None:
    """Same windows, same ids: the bus stores one sample for each, and control sees it once."""
    with (
        exporter() as live,
        SamplerProcess(tmp_path / "one", nats, live) as one,
        SamplerProcess(tmp_path / "two", nats, live) as two,
    ):
        async with join(nats.url, "sluice") as bus:
            one.start()
            two.start()
            await until(lambda: two.wrong() == {} and one.wrong() == {})
            for sampler in (one, two):
                await until(lambda: sampler.metric("sluice_sampler_delay_seconds_count") >= 12)  # noqa: B023
            assert (one.stop(), two.stop()) == (0, 0)
            samples = [received.message for received in await read_stream(bus, Sample)]
    windows = Counter(sample.end for sample in samples)
    assert set(windows.values()) == {1}
    assert [sample.end for sample in samples] == sorted(windows)
    assert all(sample.end % PERIOD == 0 for sample in samples)
    assert any(measure.p95 for sample in samples for measure in sample.critical)


async def test_a_blind_sampler_does_not_displace_good_samples(nats: NatsServer, tmp_path: Path) -> None:
    """The second sampler's address refuses connections, which is faster than reading a page."""
    signal = "period: 500ms, window: 1s"
    with (
        exporter() as live,
        SamplerProcess(tmp_path / "seeing", nats, live, signal=signal) as seeing,
        SamplerProcess(tmp_path / "blind", nats, LiveExporter(), signal=signal) as blind,
    ):
        async with join(nats.url, "sluice") as bus:
            blind.start()
            seeing.start()
            await until(lambda: seeing.wrong() == {} and "source" in (blind.wrong() or {}))
            began = time.time_ns()
            for sampler in (seeing, blind):
                await until(lambda: sampler.metric("sluice_sampler_window_end_seconds") * 1e9 > began + 3 * S)  # noqa: B023
            samples = [one.message for one in await read_stream(bus, Sample) if one.message.end > began + S]
    reasons = [sample.no_data for sample in samples]
    # A sampler that the machine stalls may be overtaken.
    assert reasons.count(None) > len(reasons) / 2, reasons


@pytest.mark.parametrize("point", POINTS)
async def test_a_killed_sampler_loses_no_acknowledged_sample(
    nats: NatsServer, tmp_path: Path, tally: Tally, point: str
) -> None:
    """Killed between any two steps and restarted: the bus has each window at most once, in order.

    Acknowledged samples are still stored after the kill, and the next process continues.
    """
    with exporter() as live, SamplerProcess(tmp_path, nats, live, domains=3) as sampler:
        async with join(nats.url, "sluice") as bus:
            stored: set[str] = set()
            for count in (1, 2, 7):
                sampler.start(crash_at=f"{point}:{count}")
                assert await asyncio.to_thread(sampler.wait_for_crash), sampler.log.read_text()
                now = {one.message.id for one in await read_stream(bus, Sample)}
                assert stored <= now
                assert point != "sampler.acknowledged" or len(now - stored) >= count
                stored = now
            sampler.start()
            await wait_for_samples(bus, len(stored) + 9)
            assert sampler.stop() == 0
            samples = [one.message for one in await read_stream(bus, Sample)]
    lost = stored - {sample.id for sample in samples}
    for name in ("cell-0", "cell-1", "cell-2"):
        ends = [sample.end for sample in samples if sample.domain == name]
        assert ends == sorted(set(ends))
    tally.add("kill -9 at injected points", f"3 kills, {len(samples)} samples", Broken(lost=len(lost)))


async def test_the_bus_may_go_and_come_back(nats: NatsServer, tmp_path: Path) -> None:
    """Measuring continues meanwhile; afterwards only the newest samples are published, not a backlog."""
    with exporter() as live, SamplerProcess(tmp_path, nats, live) as sampler:
        sampler.start()
        await until(lambda: sampler.wrong() == {})
        nats.stop()
        await until(lambda: "bus" in (sampler.wrong() or {}))
        measured = sampler.metric("sluice_sampler_measure_seconds_count")
        await until(lambda: sampler.metric("sluice_sampler_dropped_total") >= 3)
        assert sampler.metric("sluice_sampler_measure_seconds_count") >= measured + 3
        away = time.time_ns()
        nats.start()
        await until(lambda: sampler.wrong() == {})
        async with join(nats.url, "sluice") as bus:
            back = time.time_ns()
            await until(lambda: sampler.metric("sluice_sampler_window_end_seconds") * 1e9 > back)
            samples = [one.message for one in await read_stream(bus, Sample)]
        assert sampler.stop() == 0
    assert len({sample.id for sample in samples}) == len(samples)
    # The outage was longer than a window; only the outbox's samples of that time were published.
    assert [sample.end for sample in samples] == sorted(sample.end for sample in samples)
    assert len([sample for sample in samples if away - 10 * PERIOD < sample.end < away]) <= 10


async def test_an_exporter_that_dies_shows_on_readyz_and_on_the_bus(nats: NatsServer, tmp_path: Path) -> None:
    """Samples report missing data with its reason, and continue; so does /readyz."""
    with exporter() as live, SamplerProcess(tmp_path, nats, live) as sampler:
        sampler.start()
        await until(lambda: sampler.wrong() == {})
        live.stop()
        await until(lambda: "connection refused" in (sampler.wrong() or {}).get("source", ""))
        async with join(nats.url, "sluice") as bus:
            await until(lambda: sampler.metric('sluice_sampler_samples_total{domain="cell-0",outcome="blind"}') >= 5)
            last = await bus.get_last(Sample, bus.subjects.sample("cell-0"))
        assert last is not None
        assert "connection refused" in str(last.message.no_data)
        assert sampler.stop() == 0


async def resident(sampler: SamplerProcess) -> tuple[float, float]:
    """MiB in use after 200 samples, and after 1000."""
    sampler.start()
    await until(lambda: sampler.wrong() is not None)
    await until(lambda: sampler.metric("sluice_sampler_delay_seconds_count") >= 200)
    early = sampler.resident_mib
    await until(lambda: sampler.metric("sluice_sampler_delay_seconds_count") >= 1000)
    late = sampler.resident_mib
    assert sampler.stop() == 0
    _log.info("resident %.1f MiB after 200 samples, %.1f MiB after 1000", early, late)
    return early, late


async def test_memory_of_the_scrape_stays_small(nats: NatsServer, tmp_path: Path) -> None:
    """At most 64 MiB, the pod's limit, with twenty domains and fifty pages in the window."""
    with (
        exporter() as live,
        SamplerProcess(tmp_path, nats, live, domains=20, signal="period: 20ms, window: 1s") as sampler,
    ):
        early, late = await resident(sampler)
    assert late <= 64
    assert late - early < 4


@pytest.mark.prometheus
async def test_memory_of_the_prometheus_client_stays_small(nats: NatsServer, tmp_path: Path) -> None:
    """At most 64 MiB, the pod's limit: the client library is installed without pandas."""
    with exporter() as live, PrometheusServer(tmp_path / "prometheus", scrape=(live.address,)) as prometheus:
        signal = f"source: prometheus, period: 100ms, window: 4s, prometheus: {{url: '{prometheus.url}'}}"
        with SamplerProcess(tmp_path, nats, live, domains=20, signal=signal) as sampler:
            early, late = await resident(sampler)
    assert late <= 64
    assert late - early < 4


def test_an_inconsistent_configuration_is_refused_at_the_start(tmp_path: Path) -> None:
    """Exit code 1 and one line with the place, instead of a service that waits for a bus."""
    config = tmp_path / "config.yaml"
    config.write_text(
        "domains: [{name: a, critical: [{workload: x}],"
        " targets: [{deployment: t, min: 1M, max: 2M, fail_safe: 1M}]}]\n"
        "signal: {source: prometheus, window: 5s, prometheus: {queries: {p95: 'rate(x[$windw])'}}}\n"
    )
    ended = sluice("sampler", "--config", config)
    assert ended.returncode == 3
    assert ended.stderr.startswith(f"Error: {config}: query 'p95': unknown placeholder: 'windw'")
