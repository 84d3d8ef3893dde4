"""Real packets to the histogram: flows captured at the bed's devices, probes through its bottleneck."""

import sys
import time
from math import sqrt
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
import asyncio, sys

async def connect():
    try:
        _, writer = await asyncio.open_connection(sys.argv[1], 7009)
        writer.close()
    except OSError:
        pass

async def main():
    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(connect())
            await asyncio.sleep(0.006)

asyncio.run(main())
"""
"""Opens more than a hundred connections a second, and does not wait for a slow one before the next."""


def counts(page: str, source: str) -> list[float]:
    """The histogram's cumulative counts of one source, over all its series."""
    name = "hubble_flow_latency_seconds_bucket"
    bounds = [repr(bound) for bound in BOUNDS]
    return [value(page, name, source=source, le=bound) or 0.0 for bound in (*bounds, "+Inf")]


PLAYS = 2


class Phase(NamedTuple):
    """What the wire, the plant and the exporter say of the same stretch of time."""

    wire: list[float]
    """Each of the plant's probes, its round trip on the wire, ascending."""
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
    return Phase(trips, latency(BOUNDS, increase(felt_before, felt_after)), *measured)


def width(at: float) -> float:
    """The width of the widest bucket at or beside a latency."""
    edges = (0.0, *BOUNDS)
    place = next((index for index, bound in enumerate(BOUNDS) if at <= bound), len(BOUNDS) - 1)
    near = range(max(place - 1, 0), min(place + 2, len(BOUNDS)))
    return max(edges[index + 1] - edges[index] for index in near)


def band(trips: list[float], q: float, sample: float) -> tuple[float, float]:
    """Between which true quantiles that of so large a sample lies, 19 times out of 20."""
    off = 2 * sqrt(q * (1 - q) / sample)
    return quantile(trips, max(q - off, 0.0)), quantile(trips, min(q + off, 1.0))


def agree(name: str, measured: Latency, trips: list[float]) -> None:
    """P95 and IQR are those of the ground truth, within a bucket's width."""
    assert measured.p95 is not None, f"{name}: nothing was measured"
    assert measured.jitter is not None
    low, high = band(trips, 0.95, measured.observations)
    said = f"{name}: P95 {measured.p95:.6f}, true {quantile(trips, 0.95):.6f} ({low:.6f} to {high:.6f})"
    print(said)
    assert low - width(low) <= measured.p95 <= high + width(high), said
    (first, second), (third, fourth) = (band(trips, q, measured.observations) for q in (0.25, 0.75))
    low, high = max(third - second, 0.0), fourth - first
    said = f"{name}: IQR {measured.jitter:.6f}, true {low:.6f} to {high:.6f}"
    print(said)
    assert low - width(fourth) <= measured.jitter <= high + width(fourth), said


def played(home: Path) -> tuple[Phase, Phase, str]:
    """The throttled and the congested phase, and the exporter's page at the end."""
    home.mkdir()
    # Slow enough for a packet's own time on the link to be large beside what programs add.
    with running(home, capacity=6_000) as factory:
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
    return throttled, congested, page


def judged(throttled: Phase, congested: Phase) -> None:
    """Probes and handshakes say what was on the wire, in both phases.

    Raises:
        AssertionError: they do not.
    """
    for name, one in (("throttled", throttled), ("congested", congested)):
        agree(f"{name}, probes", one.probe, one.wire)
        agree(f"{name}, handshakes", one.handshake, one.wire)
        print(f"{name}, as felt by the plant: {one.plant}")
    assert quantile(congested.wire, 0.95) > 10 * quantile(throttled.wire, 0.95)
    assert congested.plant.p95 is not None
    assert abs(quantile(congested.wire, 0.95) - congested.plant.p95) < width(congested.plant.p95)


@pytest.mark.xfail(strict=False, reason="the throttled phase is not always calm at 6 Mbit/s: to be made so")
def test_flows_and_probes_agree_with_the_ground_truth(tmp_path: Path) -> None:
    """P95 and IQR, by handshakes and by probes, throttled and congested, as every packet's own round trip says.

    Played again where it does not agree, twice at most: a machine that is busy with something else
    for a moment delays packets, and some more than others.
    """
    for attempt in range(1, PLAYS + 1):
        throttled, congested, page = played(tmp_path / str(attempt))
        assert value(page, "sluice_exporter_unpaired_total", reason="negative") in (None, 0)
        assert TELEMETRY not in page
        try:
            judged(throttled, congested)
        except AssertionError as error:
            print(f"play {attempt}: {error}")
            if attempt == PLAYS:
                raise
        else:
            return
