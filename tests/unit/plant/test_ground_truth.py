"""The ground truth's bookkeeping, and the rule that excludes disturbed seconds."""

from msgspec.structs import replace

from services.plant.real.ground_truth import (
    OFFSET,
    SECOND,
    CounterMark,
    CrossingDetector,
    Delivered,
    SecondBuilder,
    bin_of,
    critical_second,
    find_disturbance,
    processor_ticks,
)
from services.plant.real.probe import LOST
from services.plant.real.traffic import parse_losses
from services.plant.topology import ROBOT, TELEMETRY
from services.plant.workloads import Apps, CriticalApp, TargetApp

MS = 1_000_000
START = 1_800_000_000 * SECOND + OFFSET
APPS = Apps(critical=(CriticalApp(ROBOT, "udp", 2_000, packet=200, probe_hz=10),), targets=(TargetApp(TELEMETRY),))


def _mark(
    second: int, robot: tuple[int, int] = (0, 0), telemetry: tuple[int, int] = (0, 0), lost: int = 0
) -> CounterMark:
    return CounterMark(
        time=START + second * SECOND,
        delivered={ROBOT: Delivered(*robot), TELEMETRY: Delivered(*telemetry)},
        datagrams_lost={ROBOT: lost},
        processor=(0, 200 * second),
        limits={"telemetry-upload-0": 60_000},
        loads={ROBOT: 2_000},
        capacity=100_000,
    )


def test_seconds_do_not_begin_where_samples_do() -> None:
    """Samples end at whole multiples of their period; the truth's seconds start at none of them."""
    for period in (SECOND // 4, SECOND // 2, SECOND):
        assert bin_of(START + 5) % period != 0
    assert bin_of(START) == START
    assert bin_of(START - 1) == START - SECOND


def test_a_second_holds_the_packets_that_were_sent_in_it() -> None:
    """Round trips count by send time; payload is the increase of the counters, without headers and probes."""
    ledger = SecondBuilder(APPS)
    for number in range(10):
        ledger.trip(ROBOT, START + number * SECOND // 10, LOST if number == 9 else (number + 1) * MS)
    ledger.trip(ROBOT, START + SECOND, 77 * MS)
    assert ledger.mark(_mark(0)) is None
    # 9 probes and 1000 datagrams of 242 bytes; 1000 segments of 1514.
    assert ledger.mark(_mark(1, robot=(1009 * 242, 1009), telemetry=(1_514_000, 1000), lost=3)) is None
    second = ledger.mark(_mark(2))
    assert second is not None
    truth = second.critical[ROBOT]
    assert (second.start, truth.observations, truth.lost) == (START, 9, 4)
    assert (truth.p50, truth.jitter) == (0.005, 0.004)
    assert (truth.load, truth.throughput) == (2_000, 1_600)
    assert second.goodput == {TELEMETRY: 11_584}
    assert second.limits == {"telemetry-upload-0": 60_000}
    assert second.invalid is None


def test_nothing_back_is_no_latency() -> None:
    """Without a single round trip there are no quantiles, and every packet is lost."""
    truth = critical_second([LOST, LOST], 1, load=2_000, throughput=0)
    assert (truth.p50, truth.p95, truth.jitter, truth.observations, truth.lost) == (None, None, None, 0, 3)


def test_a_second_without_the_processor_is_marked() -> None:
    """Above 5 % of steal, with a starved probe or late counters, a second has a reason for its exclusion."""
    full = {ROBOT: (250, 250)}
    calm = _mark(1)
    assert find_disturbance(START, _mark(0), calm, full) is None
    assert find_disturbance(START, _mark(0), replace(calm, processor=(10, 200)), full) is None
    stolen = find_disturbance(START, _mark(0), replace(calm, processor=(11, 200)), full)
    assert stolen == "6% of the processors' time was stolen"
    starved = find_disturbance(START, _mark(0), calm, {ROBOT: (224, 250)})
    assert starved == "the probe of factory/robot-control sent 224 of 250 packets"
    late = find_disturbance(START, _mark(0), replace(calm, time=calm.time + 101 * MS), full)
    assert late == "the counters were read 101 ms late"


def test_processor_ticks() -> None:
    """The eighth field of /proc/stat is steal; guest time is part of user time and is not counted twice."""
    stat = "cpu  100 1 20 500 5 0 3 40 9 9\ncpu0 1 2 3 4 5 6 7 8 9 10\n"
    assert processor_ticks(stat) == (40, 669)


def test_a_crossing_is_several_slow_packets_in_a_row() -> None:
    """One slow packet is noise; five in a row are a crossing, which began when the first of them returned."""
    crossings = CrossingDetector()
    for number in range(20):
        crossings.trip(number * 4 * MS, 3 * MS if number == 2 or number >= 8 else MS)
    assert crossings.found == [8 * 4 * MS + 3 * MS]
    assert crossings.calm == []
    for number in range(20, 40):
        crossings.trip(number * 4 * MS, MS if number == 22 or number >= 30 else 3 * MS)
    assert crossings.found == [8 * 4 * MS + 3 * MS]
    assert crossings.calm == [30 * 4 * MS + MS]


def test_losses_of_an_iperf3_server() -> None:
    """Interval lines count; headings, streams of TCP and the summary at the end do not."""
    assert parse_losses(b"[  5]   2.00-2.25   sec  67.0 KBytes  2195 Kbits/sec  0.060 ms  2/345 (0.58%)  \n") == 2
    assert (
        parse_losses(b"[  5]   0.00-3.00   sec   732 KBytes  1999 Kbits/sec  0.055 ms  3/3751 (0.08%)  receiver\n")
        is None
    )
    assert (
        parse_losses(b"[ ID] Interval           Transfer     Bitrate         Jitter    Lost/Total Datagrams\n") is None
    )
