"""``sluice bench exporter``: how many flows the exporter processes, and at what cost.

Rates are per second of this process' own CPU time, that is per core: other programs on the machine,
the sending server among them, do not count.
"""

import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
from prometheus_client import CollectorRegistry

from schemas.exporter import Relay
from services.bench.goals import show
from services.bench.resident import read_peak, read_resident
from services.bench.speed.flow_server import messages
from services.common.histogram import BOUNDS, quantile
from services.exporter.flow_follower import FlowFollower
from services.exporter.flow_reader import FlowReader
from services.exporter.metrics import LATENCY, LatencyMetrics
from services.exporter.observer_pb2 import GetFlowsResponse
from services.exporter.pairing import PairingTable
from services.exporter.relay_client import open_stream
from services.runtime.option_types import FiguresFile

_CRITICAL = ["factory/robot-control"]
_S = 1_000_000_000
_PENDING = 100_000
_PROBES = 1000
_CONFIG = """
domains:
  - name: floor
    critical: [{workload: robot-control, namespace: factory}]
    targets: [{deployment: telemetry-upload, namespace: factory, min: 1M, max: 100M, fail_safe: 10M}]
exporter:
  relay: {address: "127.0.0.1:RELAY", silence: 10m}
  pairing: {handshake: 10m, request: 10m BOUNDS}
  buckets: [BUCKETS]
  probes: [PROBES]
listen: {host: 127.0.0.1, exporter: LISTEN}
log: error
"""
_PROBE = "{workload: robot-control, namespace: factory, address: 127.0.0.1, udp: PORT, tcp: null, rate: 200}"
_ROOMY = ", entries: 400000, bytes: 104857600"
"""All flows of a bench fit."""
_FINE = [number / 100_000 for number in range(1, 100)]
"""Bounds fine enough for loopback, seconds."""


@click.command()
@click.option(
    "--flows", type=click.IntRange(1), default=60_000, show_default=True, help="How many flows each measurement takes."
)
@click.option("--json", "path", type=FiguresFile(), help="Add the figures to this file.")
def command(flows: int, path: Path | None) -> None:
    """Flows and pairs a second, memory with many pending pairs."""
    figures = {**measure_pairing(flows), **measure_stages(flows), **measure_grpc(flows), **measure_pending()}
    figures |= measure_probes(flows)
    show("exporter", figures, _GOALS, path)


_GOALS = {
    "pairing alone, flows/s a core": ">= 100,000",
    "pairing alone, p99 us a flow": "< 50",
    "message to histogram, flows/s a core": "",
    "message to histogram, p99 us a flow": "",
    "through gRPC, flows/s a core": ">= 7,000",
    "through gRPC, flows/s on this machine": "",
    "resident with 100,000 pending, MiB": "<= 80",
    "resident before, MiB": "",
    "probes on loopback, P95 us": "",
    "probes while flows come, P95 us": "",
    "flows/s meanwhile": "",
    "sidecar resident, MiB": "",
}


def _follower(address: str) -> tuple[FlowFollower, LatencyMetrics]:
    latencies = LatencyMetrics(_CRITICAL, BOUNDS, 50, CollectorRegistry())
    follower = FlowFollower(
        partial(open_stream, Relay(address=address)),
        FlowReader(_CRITICAL, [], ()),
        PairingTable(5 * _S, _S, 100_000, 48 * 1024 * 1024),
        latencies,
        600 * _S,
    )
    return follower, latencies


def measure_pairing(flows: int) -> dict[str, float]:
    """Measure the pairing alone, on flows that are already decoded."""
    reader = FlowReader(_CRITICAL, [], ())
    read = [reader.read(one).flow for one in messages(flows, answered=True, start=time.time_ns())]
    pairing = PairingTable(5 * _S, _S, 100_000, 48 * 1024 * 1024)
    now, step = time.monotonic_ns(), pairing.step
    began = time.process_time()
    pairs = sum(step(flow, now) is not None for flow in read)
    took = time.process_time() - began
    assert pairs == flows // 2, "every handshake is a pair"
    single = PairingTable(5 * _S, _S, 100_000, 48 * 1024 * 1024)
    return {
        "pairing alone, flows/s a core": flows / took,
        "pairing alone, p99 us a flow": _p99(lambda flow: single.step(flow, now), read),
    }


def measure_stages(flows: int) -> dict[str, float]:
    """Measure all stages from an encoded message to the histogram, without a network."""
    bodies = [one.SerializeToString() for one in messages(flows, answered=True, start=time.time_ns())]
    follower, latencies = _follower("")
    now, process, read = time.monotonic_ns(), follower.process, GetFlowsResponse.FromString
    began = time.process_time()
    for body in bodies:
        process(read(body), now)
    took = time.process_time() - began
    assert latencies.observations[_CRITICAL[0]] == flows // 2, "every handshake is observed"
    single, _ = _follower("")
    return {
        "message to histogram, flows/s a core": flows / took,
        "message to histogram, p99 us a flow": _p99(lambda body: single.process(read(body), now), bodies),
    }


def _p99(work: Any, items: list[Any]) -> float:
    times = []
    for item in items:
        began = time.perf_counter_ns()
        work(item)
        times.append(time.perf_counter_ns() - began)
    return sorted(times)[int(len(times) * 0.99)] / 1000


def measure_grpc(flows: int) -> dict[str, float]:
    """Measure a whole follower on a server in another process."""
    with _serve_flows(flows, "handshakes") as port:
        follower, latencies = _follower(f"127.0.0.1:{port}")
        thread = threading.Thread(target=follower.run)
        began, used = time.monotonic(), time.process_time()
        thread.start()
        _wait(lambda: latencies.observations[_CRITICAL[0]] >= flows // 2, "all handshakes")
        took, used = time.monotonic() - began, time.process_time() - used
        follower.stop()
        thread.join()
    return {"through gRPC, flows/s a core": flows / used, "through gRPC, flows/s on this machine": flows / took}


def measure_pending() -> dict[str, float]:
    """Measure the service's memory on a stream of SYNs without answers."""
    with tempfile.TemporaryDirectory() as home, _serve_flows(_PENDING, "syns") as port:
        before = _resident_of_service(Path(home), 0, wanted=0)
        after = _resident_of_service(Path(home), port, wanted=_PENDING)
    return {"resident before, MiB": before, "resident with 100,000 pending, MiB": after}


def measure_full_table() -> float:
    """The service's memory at most, MiB, with its usual bounds on pending requests, and of the longest names."""
    count = 2 * _PENDING
    with (
        tempfile.TemporaryDirectory() as home,
        _serve_flows(count, "longest") as port,
        _service(Path(home), port, bounds="") as (process, listen),
    ):
        _wait(lambda: (_metric(listen, "sluice_exporter_flows_total") or 0) >= count, "all flows")
        return read_peak(process.pid)


def _resident_of_service(home: Path, relay: int, *, wanted: int) -> float:
    with _service(home, relay) as (process, listen):
        _wait(lambda: _metric(listen, "sluice_exporter_pending") == wanted, f"{wanted} pending")
        return read_resident(process.pid)


def measure_probes(flows: int) -> dict[str, float]:
    """Measure the service's own probes, alone and while it reads flows as fast as it can."""
    with tempfile.TemporaryDirectory() as home, echo_server() as (echo, port):
        with _service(Path(home), 0, probed=port) as (_, listen):
            _wait(lambda: (_metric(listen, f"{LATENCY}_count") or 0) >= _PROBES, "probes")
            alone = _p95(listen)
        with _serve_flows(flows, "handshakes") as relay, _service(Path(home), relay, probed=port) as (_, listen):
            _wait(lambda: _metric(listen, "sluice_exporter_flows_total"), "the first flows")
            began = time.monotonic()
            _wait(lambda: (_metric(listen, "sluice_exporter_flows_total") or 0) >= flows, "all flows")
            took, beside = time.monotonic() - began, _p95(listen)
        sidecar = read_resident(echo.pid)
    return {
        "probes on loopback, P95 us": alone * 1e6,
        "probes while flows come, P95 us": beside * 1e6,
        "flows/s meanwhile": flows / took,
        "sidecar resident, MiB": sidecar,
    }


@contextmanager
def _service(
    home: Path, relay: int, probed: int | None = None, bounds: str = _ROOMY
) -> Iterator["tuple[subprocess.Popen[bytes], int]"]:
    """Run the exporter as a process; gives it and its port."""
    config, listen = home / "sluice.yaml", _free_port()
    text = _CONFIG.replace("RELAY", str(relay or _free_port())).replace("LISTEN", str(listen))
    text = text.replace(" BOUNDS", bounds)
    text = text.replace("BUCKETS", ", ".join(f"{bound:f}" for bound in (_FINE if probed else BOUNDS)))
    config.write_text(text.replace("PROBES", _PROBE.replace("PORT", str(probed)) if probed else ""), encoding="utf-8")
    service = subprocess.Popen([Path(sys.executable).parent / "sluice", "exporter", "--config", config])  # noqa: S603
    try:
        yield service, listen
    finally:
        service.terminate()
        service.wait(10)


@contextmanager
def echo_server() -> Iterator["tuple[subprocess.Popen[bytes], int]"]:
    """Run the echo sidecar as a process; gives it and its port."""
    port = _free_port()
    command_line = [str(Path(sys.executable).parent / "sluice"), "echo", "--host", "127.0.0.1"]
    command_line += ["--udp", str(port), "--tcp", str(port)]
    with subprocess.Popen(command_line, stdout=subprocess.PIPE) as echo:  # noqa: S603
        assert echo.stdout is not None
        echo.stdout.readline()
        try:
            yield echo, port
        finally:
            echo.terminate()


def _page(listen: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{listen}/metrics", timeout=5) as page:
            return str(page.read().decode())
    except OSError:
        return ""


def _metric(listen: int, name: str) -> float | None:
    """The sum over a metric's series; None where there is none."""
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", _page(listen), re.MULTILINE)
    return sum(map(float, found)) if found else None


def _p95(listen: int) -> float:
    """P95 of all probes so far, seconds."""
    found = re.findall(rf'^{LATENCY}_bucket{{.*source="probe".*}} (\S+)$', _page(listen), re.MULTILINE)
    return quantile(0.95, _FINE, list(map(float, found))) or 0.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _serve_flows(count: int, kind: str) -> Iterator[int]:
    command_line = [sys.executable, "-m", "services.bench.speed.flow_server", str(count), kind]
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.kill()


def _wait(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        if time.monotonic() > deadline:
            raise click.ClickException(f"never happened: {what}")
        time.sleep(0.05)
