"""Real packets to the histogram: flows captured at the bed's devices, probes through its bottleneck."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from services.factory.apps import Apps
from services.factory.bed import Bed, Inside
from services.factory.real import RealPlant, parameters
from services.factory.topology import BOTTLENECK, FABRIC, ROBOT, SCANNER, TELEMETRY
from services.factory.truth import quantile
from services.sampler.quantile import BOUNDS, Latency, increase, latency
from tests.hubble.agents import report
from tests.hubble.server import HubbleServer
from tests.hubble.wiretap import Wire
from tests.integration.test_exporter_service import value

pytestmark = pytest.mark.root

SLUICE = str(Path(sys.executable).parent / "sluice")
PLACE = "office-0"
"""The exporter's pod: on the far side of the bottleneck, so that probes and their answers cross it."""
PORT = 9965
CONNECT = """
import socket, sys, time
while True:
    try:
        socket.create_connection((sys.argv[1], 7009), timeout=10).close()
    except OSError:
        pass
    time.sleep(0.008)
"""
"""Opens a connection about a hundred times a second, as many critical services do."""


class Factory(NamedTuple):
    """Everything that a test needs."""

    bed: Bed
    plant: RealPlant
    home: Path
    socket: Path


@pytest.fixture
def factory(tmp_path: Path) -> Iterator[Factory]:
    """The bed with its traffic, limited to a safe rate, and a Hubble-compatible server on a socket file."""
    apps = Apps(capacity=20_000).changed({SCANNER: 5_000})
    path = tmp_path / "hubble.sock"
    with Bed(parameters(apps)) as bed, HubbleServer(f"unix:{path}") as server, RealPlant(bed, apps) as plant:
        for pod in plant.pods:
            plant.limit(pod.name, 8_000)
        # As a real link of that rate: it sends one packet after the other, and never two at once.
        queue = f"tbf rate {apps.capacity}kbit burst 1600 limit {bed.parameters.fifo_bytes}"
        bed.run(FABRIC, "tc", "qdisc", "replace", "dev", BOTTLENECK, "root", "handle", "1:", *queue.split())
        report(bed, server)
        yield Factory(bed, plant, tmp_path, path)


def exporter(factory: Factory, *, probe: bool) -> Inside:
    """Start ``sluice exporter`` in its place, with or without the prober."""
    robot = factory.bed.pod(ROBOT)
    probes = f"[{{workload: robot-control, namespace: factory, address: {robot.address}}}]" if probe else "[]"
    config = factory.home / "sluice.yaml"
    config.write_text(
        "domains:\n"
        "  - name: floor\n"
        "    critical: [{workload: robot-control, namespace: factory}]\n"
        "    targets:\n"
        "      - {deployment: telemetry-upload, namespace: factory, min: 1M, max: 100M, fail_safe: 5M}\n"
        f"exporter:\n  relay: {{address: 'unix:{factory.socket}'}}\n  probes: {probes}\n"
        f"signal: {{scrape: {{urls: ['http://127.0.0.1:{PORT}/metrics']}}}}\n"
    )
    return factory.bed.start(PLACE, SLUICE, "exporter", "--config", str(config))


def get(factory: Factory, path: str) -> str:
    """A page of the exporter, whatever its status; empty while nobody listens."""
    script = (
        "import sys, urllib.request, urllib.error\n"
        "try: print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())\n"
        "except urllib.error.HTTPError as error: print(error.read().decode())\n"
        "except OSError: pass\n"
    )
    return factory.bed.run(PLACE, sys.executable, "-c", script, f"http://127.0.0.1:{PORT}{path}")


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds; twenty seconds at most."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.1)


def counts(page: str, source: str) -> list[float]:
    """The histogram's cumulative counts of one source, over all its series."""
    name = "hubble_flow_latency_seconds_bucket"
    bounds = [repr(bound) for bound in BOUNDS]
    return [value(page, name, source=source, le=bound) or 0.0 for bound in (*bounds, "+Inf")]


class Phase(NamedTuple):
    """What the exporter, the wire and the plant say of the same stretch of time."""

    wire: Latency
    """Each probe's round trip on the wire."""
    plant: Latency
    """The same as the plant's instrument felt it, wake-ups of two programs included."""
    handshake: Latency
    probe: Latency


def phase(factory: Factory, wire: Wire, seconds: float) -> Phase:
    """Look at a stretch from now on."""
    before, felt_before = get(factory, "/metrics"), factory.plant.counters().latency[ROBOT].counts
    wire.trips()
    time.sleep(seconds)  # The stretch that is measured: nothing else ends it.
    trips = sorted(wire.trips())
    after, felt_after = get(factory, "/metrics"), factory.plant.counters().latency[ROBOT].counts
    measured = [
        latency(BOUNDS, increase(counts(before, source), counts(after, source))) for source in ("handshake", "probe")
    ]
    true = Latency(quantile(trips, 0.75) - quantile(trips, 0.25), quantile(trips, 0.95), len(trips))
    return Phase(true, latency(BOUNDS, increase(felt_before, felt_after)), *measured)


def width(at: float) -> float:
    """The width of the widest bucket at or beside a latency."""
    edges = (0.0, *BOUNDS)
    place = next((index for index, bound in enumerate(BOUNDS) if at <= bound), len(BOUNDS) - 1)
    near = range(max(place - 1, 0), min(place + 2, len(BOUNDS)))
    return max(edges[index + 1] - edges[index] for index in near)


def agree(name: str, measured: Latency, truth: Latency) -> None:
    """P95 and jitter are those of the ground truth, within a bucket's width."""
    assert truth.p95 is not None
    assert truth.jitter is not None
    assert measured.p95 is not None, f"{name}: nothing was measured"
    assert measured.jitter is not None
    assert abs(measured.p95 - truth.p95) <= width(truth.p95), f"{name}: P95 {measured.p95}, true {truth.p95}"
    assert abs(measured.jitter - truth.jitter) <= width(truth.p95), f"{name}: {measured.jitter}, true {truth.jitter}"


def test_flows_and_probes_agree_with_the_ground_truth(factory: Factory) -> None:
    """P95 and IQR, by handshakes and by probes, throttled and congested, as every packet's own round trip says."""
    bed = factory.bed
    robot, cell = bed.pod(ROBOT), bed.pod("factory/robot-cell")
    for place, arguments in ((robot.name, ("--udp", "7007", "--tcp", "7007")), (cell.name, ("--tcp", "7009"))):
        echo = bed.start(place, "chrt", "-f", "20", SLUICE, "echo", *arguments, stdout=subprocess.PIPE)
        assert echo.stdout.readline().startswith(b"listening")
    bed.start(robot.name, sys.executable, "-c", CONNECT, cell.address)
    exporter(factory, probe=True)
    until(lambda: '"ready": true' in get(factory, "/readyz"), "the exporter is ready")

    wire = Wire(bed, ROBOT, 7007)
    throttled = phase(factory, wire, 8)
    for pod in factory.plant.pods:
        factory.plant.limit(pod.name, None)
    time.sleep(4)  # The queue fills.
    congested = phase(factory, wire, 8)

    print(throttled, congested, sep="\n")
    for name, one in (("throttled", throttled), ("congested", congested)):
        agree(f"{name}, probes", one.probe, one.wire)
        agree(f"{name}, handshakes", one.handshake, one.wire)
    agree("congested, as felt by the plant", congested.probe, congested.plant)
    assert throttled.wire.p95 is not None
    assert congested.wire.p95 is not None
    assert congested.wire.p95 > 10 * throttled.wire.p95
    page = get(factory, "/metrics")
    assert value(page, "sluice_exporter_unpaired_total", reason="negative") in (None, 0)
    assert TELEMETRY not in page
