"""Real packets to the histogram: flows captured at the bed's devices, probes through its bottleneck."""

import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from services.factory.real import PEERS
from services.factory.topology import ROBOT, TELEMETRY
from services.factory.truth import quantile
from services.sampler.quantile import BOUNDS, Latency, increase, latency
from tests.hubble.harness import Factory, running, until, value
from tests.hubble.wiretap import Wire

pytestmark = pytest.mark.root

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
    before, felt_before = factory.get("exporter", "/metrics"), factory.plant.counters().latency[ROBOT].counts
    wire.trips()
    time.sleep(seconds)  # The stretch that is measured: nothing else ends it.
    trips = sorted(wire.trips())
    after, felt_after = factory.get("exporter", "/metrics"), factory.plant.counters().latency[ROBOT].counts
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


def test_flows_and_probes_agree_with_the_ground_truth(tmp_path: Path) -> None:
    """P95 and IQR, by handshakes and by probes, throttled and congested, as every packet's own round trip says."""
    with running(tmp_path) as factory:
        factory.sidecar(ROBOT, "--udp", "7007", "--tcp", "7007")
        factory.sidecar(PEERS[ROBOT], "--tcp", "7009")
        robot, cell = factory.bed.pod(ROBOT), factory.bed.pod(PEERS[ROBOT])
        factory.bed.start(robot.name, sys.executable, "-c", CONNECT, cell.address)
        factory.configure(probe=True)
        factory.start("exporter")
        until(lambda: '"ready": true' in factory.get("exporter", "/readyz"), "the exporter is ready")

        wire = Wire(factory.bed, ROBOT, 7007)
        throttled = phase(factory, wire, 8)
        factory.unleash()
        time.sleep(4)  # The queue fills.
        congested = phase(factory, wire, 8)
        page = factory.get("exporter", "/metrics")

    print(throttled, congested, sep="\n")
    for name, one in (("throttled", throttled), ("congested", congested)):
        agree(f"{name}, probes", one.probe, one.wire)
        agree(f"{name}, handshakes", one.handshake, one.wire)
    agree("congested, as felt by the plant", congested.probe, congested.plant)
    assert throttled.wire.p95 is not None
    assert congested.wire.p95 is not None
    assert congested.wire.p95 > 10 * throttled.wire.p95
    assert value(page, "sluice_exporter_unpaired_total", reason="negative") in (None, 0)
    assert TELEMETRY not in page
