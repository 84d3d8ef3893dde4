"""Real packets to the histogram: flows captured at the testbed's devices, probes through its bottleneck."""

import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from math import sqrt
from operator import add
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from services.common.histogram import BOUNDS, HistogramSummary, increase, summarize
from services.plant.real.ground_truth import STEAL, quantile, read_processor
from services.plant.real.plant import PEERS
from services.plant.topology import ERP, ROBOT, SCANNER, TELEMETRY
from services.plant.workloads import Apps, CriticalApp, TargetApp
from tests.support.hubble.harness import Factory, running, until, value
from tests.support.hubble.wiretap import Wire

APPS = Apps(
    # Slow enough that the queue on the link is large compared with the delays of programs.
    capacity=10_000,
    critical=(
        # No rate is a multiple of another, nor of iperf3's tick of a millisecond.  Packets in lockstep would
        # meet always or never, which an independent observer does not see.
        CriticalApp(ROBOT, "udp", 500, packet=200, probe_hz=307),
        CriticalApp(SCANNER, "tcp", 2_500, probe_hz=97),
    ),
    # Its pages fill and empty a queue of some milliseconds.  With paced streams alone, the queue would be
    # empty most of the time, and all latencies would be in the narrowest buckets.
    targets=(TargetApp(TELEMETRY), TargetApp(ERP, load=2_000, limit=5_000)),
    # As small as a SYN, because on a slow link a larger packet takes longer.
    probe=32,
)
FINE = (
    *(bound for bound in BOUNDS if bound < 0.05),
    *(round(0.05 + 0.0025 * step, 4) for step in range(41)),
    *(bound for bound in BOUNDS if bound > 0.15),
)
"""The exporter's buckets in this test: the default ones would have the whole congested queue in one."""
EDGES = {"handshake": FINE, "probe": FINE, "plant": BOUNDS}
"""The bounds for reading each histogram."""
HANDSHAKES = 150
"""Connections opened a second."""
BESIDES = 2_100 + (HANDSHAKES * (74 + 3 * 66) + 100 * 106) * 8 // 1000
"""The load of pages, handshakes and the exporter's probes on the bottleneck, kbit/s on the wire."""

CONNECT = f"""
import asyncio, random, sys

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
            await asyncio.sleep(random.uniform(0, 2) / {HANDSHAKES})

asyncio.run(main())
"""
"""Opens connections irregularly, and does not wait for a slow one before the next."""

STRETCH_S = 2.0
STRETCHES = 4
"""Number of intervals in a phase."""
MOST = 20
"""Maximum number of intervals that may be excluded because other programs used the machine."""


class Phase(NamedTuple):
    """Measurements of wire, plant and exporter over the same intervals."""

    wire: list[float]
    """Round trip of each of the plant's probes on the wire, ascending."""
    plant: HistogramSummary
    """The same, as measured by the plant's probe, including the wake-ups of two programs."""
    handshake: HistogramSummary
    probe: HistogramSummary
    stolen: int
    """Excluded intervals."""


def count(factory: Factory) -> dict[str, list[float]]:
    """The current cumulative counts of both sources and of the plant's probe."""
    page = factory.get("exporter", "/metrics")
    name = "hubble_flow_latency_seconds_bucket"
    bounds = [*map(repr, FINE), "+Inf"]
    found = {one: [value(page, name, source=one, le=le) or 0.0 for le in bounds] for one in ("handshake", "probe")}
    return {**found, "plant": list(factory.plant.read_counters().latency[ROBOT].counts)}


def phase(factory: Factory, wire: Wire) -> Phase:
    """Measure several intervals from now on, and exclude disturbed ones."""
    trips: list[float] = []
    before, ticks = count(factory), read_processor()
    gained = {name: [0.0] * len(counts) for name, counts in before.items()}
    measured_intervals = stolen = 0
    wire.trips()
    while measured_intervals < STRETCHES:
        time.sleep(STRETCH_S)  # The measured interval ends only here.
        seen, after, now = wire.trips(), count(factory), read_processor()
        if now[0] - ticks[0] > STEAL * (now[1] - ticks[1]):
            stolen += 1
            assert stolen < MOST, f"the machine was taken away in {stolen} stretches"
        else:
            measured_intervals += 1
            trips += seen
            for name, total in gained.items():
                gained[name] = list(map(add, total, increase(before[name], after[name])))
        before, ticks = after, now
    return Phase(
        sorted(trips), **{name: summarize(EDGES[name], total) for name, total in gained.items()}, stolen=stolen
    )


def width(at: float, bounds: Sequence[float] = FINE) -> float:
    """The width of the bucket that holds a latency."""
    edges = (0.0, *bounds)
    place = min(bisect_left(bounds, at), len(bounds) - 1)
    return edges[place + 1] - edges[place]


def band(trips: list[float], q: float, sample: float) -> tuple[float, float]:
    """The interval that contains the true quantile of a sample of this size, 19 times out of 20."""
    off = 2 * sqrt(q * (1 - q) / sample)
    return quantile(trips, max(q - off, 0.0)), quantile(trips, min(q + off, 1.0))


def agree(name: str, measured: HistogramSummary, trips: list[float]) -> None:
    """P95 and IQR agree with the ground truth within a bucket's width."""
    assert measured.p95 is not None, f"{name}: nothing was measured"
    assert measured.jitter is not None
    low, high = band(trips, 0.95, measured.observations)
    summary = f"{name}: P95 {measured.p95:.6f}, true {quantile(trips, 0.95):.6f} ({low:.6f} to {high:.6f})"
    print(summary)
    assert low - width(low) <= measured.p95 <= high + width(high), summary
    (first, second), (third, fourth) = (band(trips, q, measured.observations) for q in (0.25, 0.75))
    low, high = max(third - second, 0.0), fourth - first
    summary = f"{name}: IQR {measured.jitter:.6f}, true {low:.6f} to {high:.6f}"
    print(summary)
    assert low - width(fourth) <= measured.jitter <= high + width(fourth), summary


def wait_for_p95(factory: Factory, holds: Callable[[float], bool], what: str) -> None:
    """Wait until the plant's own P95 has met the condition for two seconds in a row."""
    row = 0

    def looked() -> bool:
        nonlocal row
        for second in factory.plant.take_seconds():
            p95 = second.critical[ROBOT].p95
            row = row + 1 if second.invalid is None and p95 is not None and holds(p95) else 0
        return row >= 2

    until(looked, what, 60)


@pytest.mark.parametrize("wrong", [{"p95": 0.0}, {"p95": 0.09}, {"p95": 0.24}, {"jitter": 0.0}, {"jitter": 0.025}])
def test_a_wrong_reading_does_not_agree(wrong: dict[str, float]) -> None:
    """A full queue of 98 ms that reads as none, as another one, or with a wrong jitter."""
    chance = Random(1)
    trips = sorted(chance.gauss(0.092, 0.004) for _ in range(2400))
    right = HistogramSummary(quantile(trips, 0.75) - quantile(trips, 0.25), quantile(trips, 0.95), 800)
    agree("right", right, trips)
    with pytest.raises(AssertionError):
        agree("wrong", right._replace(**wrong), trips)


@pytest.mark.root
@pytest.mark.realtime
def test_flows_and_probes_agree_with_the_ground_truth(tmp_path: Path) -> None:
    """P95 and IQR of handshakes and probes, throttled and congested, match the round trips of all packets."""
    with running(tmp_path, APPS, BESIDES) as factory:
        factory.sidecar(ROBOT, "--udp", "7007", "--tcp", "7007")
        factory.sidecar(PEERS[ROBOT], "--tcp", "7009")
        robot, cell = factory.bed.pod(ROBOT), factory.bed.pod(PEERS[ROBOT])
        factory.bed.start(robot.name, sys.executable, "-c", CONNECT, cell.address)
        factory.configure(probe=True, more=f"  buckets: [{', '.join(f'{bound:f}' for bound in FINE)}]\n")
        factory.start("exporter")
        until(lambda: '"ready": true' in factory.get("exporter", "/readyz"), "the exporter is ready")

        wire = Wire(factory.bed, ROBOT, 7007)
        wait_for_p95(factory, lambda p95: p95 < 0.01, "the queue has drained")
        throttled = phase(factory, wire)
        factory.unleash()
        wait_for_p95(factory, lambda p95: p95 > 0.05, "the queue has filled")
        congested = phase(factory, wire)
        text = factory.get("exporter", "/metrics")
    for name, one in (("throttled", throttled), ("congested", congested)):
        print(f"{name}: {one.stolen} stretches left out; as felt by the plant: {one.plant}")
        agree(f"{name}, probes", one.probe, one.wire)
        agree(f"{name}, handshakes", one.handshake, one.wire)
    assert quantile(congested.wire, 0.95) > 10 * quantile(throttled.wire, 0.95)
    assert congested.plant.p95 is not None
    assert abs(quantile(congested.wire, 0.95) - congested.plant.p95) < width(congested.plant.p95, BOUNDS)
    assert value(text, "sluice_exporter_unpaired_total", reason="negative") in (None, 0)
    assert TELEMETRY not in text
