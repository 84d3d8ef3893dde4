"""Measures the plant in open loop, without control, in the same form for real and simulated packets.

There are two experiments.  A *sweep* holds one limit on telemetry-upload after another and summarizes
the ground truth under each.  *Steps* change a limit or a load at once and trace the mean round trip
every 50 ms.  ``services/plant/calibration`` keeps runs on real packets, one ``OpenLoop`` in each file.
The simulated plant was fitted to one of them and is compared with all.
"""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from msgspec import Struct

from services.plant.interface import Plant, Second
from services.plant.topology import ROBOT, SCANNER, TELEMETRY
from services.plant.workloads import Apps

LIMITS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.67, 0.68, 0.69, 0.70, 0.71, 0.72, 0.74, 0.78, 0.85, None)
"""Limits of a sweep, as shares of the bottleneck's capacity; None is no limit."""
SETTLE = 2.0
"""Seconds for a limit to take effect before it is measured."""
EMPTY = 0.7
"""Seconds at the lowest limit before the next one, so that every queue drains."""
INTERVAL = 0.05
"""Seconds between two points of a step's trace."""
DRAINED = 0.002
"""Mean round trip, seconds, below which there is no queue."""


class TimedPlant(Struct, frozen=True):
    """A plant and its clock."""

    plant: Plant
    wait: Callable[[float], None]
    """Lets this many seconds pass."""
    now: Callable[[], int]
    """UTC ns."""


class SweepPoint(Struct, frozen=True):
    """The ground truth under one limit: medians over its seconds; latencies in seconds, rates in kbit/s."""

    limit: int | None
    p50: float
    p95: float
    jitter: float
    lost: int
    """Packets of robot-control, in all seconds together."""
    scanner: int
    """Received payload of safety-scanner."""
    goodput: int
    """Received payload of telemetry-upload."""
    seconds: int
    """The number of seconds measured."""
    invalid: int
    """The number of seconds left out as disturbed."""


class StepResponse(Struct, frozen=True):
    """The response to one change.  Limits and loads are kbit/s."""

    name: str
    before: int | None
    """Limit of telemetry-upload before the change."""
    after: int | None
    scanner: tuple[int, int]
    """Load of safety-scanner before and after the change."""
    trace: tuple[float | None, ...]
    """Mean round trip of robot-control's probes in each 50 ms, from the change on, seconds; None: no reply."""
    drained: float | None
    """Seconds from the change until the mean round trip fell below 2 ms; None: it did not, or there was no queue."""


class OpenLoopConditions(Struct, frozen=True):
    """The conditions of a run."""

    plant: str
    """``real`` or ``simulated``."""
    apps: Apps
    fifo: float
    """Depth of the bottleneck's queue, seconds."""
    machine: str = ""
    """Processors and kernel of a run on real packets."""


class OpenLoop(Struct, frozen=True):
    """Both experiments of a run."""

    conditions: OpenLoopConditions
    sweep: tuple[SweepPoint, ...]
    steps: tuple[StepResponse, ...]


def measure(plant: TimedPlant, conditions: OpenLoopConditions, hold: int = 4) -> OpenLoop:
    """Run both experiments on a plant under these conditions: about two and a half minutes of its time."""
    limits = [None if share is None else int(share * conditions.apps.capacity) for share in LIMITS]
    points = measure_sweep(plant, limits, hold)
    return OpenLoop(conditions, tuple(points), tuple(measure_steps(plant, conditions.apps)))


def measure_sweep(timed: TimedPlant, limits: Sequence[int | None], hold: int = 4) -> list[SweepPoint]:
    """Hold each limit (kbit/s), in the order given, until ``hold`` whole seconds of it are known."""
    lowest = min(limit for limit in limits if limit is not None)
    stays = []
    truth: list[Second] = []
    for limit in limits:
        _set_limit(timed.plant, lowest)
        timed.wait(EMPTY)
        _set_limit(timed.plant, limit)
        timed.wait(SETTLE)
        start = timed.now()
        # One second more, because seconds do not begin when the stay does.
        timed.wait(hold + 1)
        stays.append((limit, start, timed.now()))
        truth += timed.plant.take_seconds()
    # The plant reports a second one second after its end.
    timed.wait(2.5)
    truth += timed.plant.take_seconds()
    return [
        summarize(limit, [second for second in truth if start <= second.start and second.start + 10**9 <= end])
        for limit, start, end in stays
    ]


def summarize(limit: int | None, seconds: list[Second]) -> SweepPoint:
    """Take the medians of the seconds under a limit, without the invalid ones."""
    valid = [second for second in seconds if second.invalid is None]
    robot = [second.critical[ROBOT] for second in valid]

    def middle(values: Iterable[float | None]) -> float:
        known = [value for value in values if value is not None]
        return median(known) if known else float("nan")

    return SweepPoint(
        limit=limit,
        p50=round(middle(one.p50 for one in robot), 6),
        p95=round(middle(one.p95 for one in robot), 6),
        jitter=round(middle(one.jitter for one in robot), 6),
        lost=sum(one.lost for one in robot),
        scanner=int(middle(second.critical[SCANNER].throughput for second in valid)),
        goodput=int(middle(second.goodput[TELEMETRY] for second in valid)),
        seconds=len(valid),
        invalid=len(seconds) - len(valid),
    )


def measure_steps(timed: TimedPlant, apps: Apps) -> list[StepResponse]:
    """Measure cuts that drain a full queue, raises that fill one, and a step of critical load."""
    plan: list[tuple[str, float | None, float | None, int, float]] = [
        ("cut to 60 %", None, 0.6, 1, 2.0),
        ("cut to 20 %", None, 0.2, 1, 1.0),
        ("rise from 60 to 72 %", 0.6, 0.72, 1, 8.0),
        ("rise from 60 to 80 %", 0.6, 0.8, 1, 3.0),
        ("scanner doubles at 60 %", 0.6, 0.6, 2, 3.0),
    ]
    plant = timed.plant
    load = next(one.load for one in apps.critical if one.workload == SCANNER)
    responses = []
    for name, share_before, share_after, factor, seconds in plan:
        before, after = (None if share is None else int(share * apps.capacity) for share in (share_before, share_after))
        _set_limit(plant, apps.capacity // 5)
        timed.wait(EMPTY)
        _set_limit(plant, before)
        timed.wait(SETTLE)
        if factor != 1:
            plant.set_load(SCANNER, factor * load)
        if after != before:
            _set_limit(plant, after)
        trace = trace_round_trips(timed, seconds)
        plant.set_load(SCANNER, load)
        queued = trace[0] is not None and trace[0] >= DRAINED
        low = (number for number, value in enumerate(trace) if value is not None and value < DRAINED)
        first = next(low, None) if queued else None
        drained = None if first is None else round(first * INTERVAL, 3)
        loads = (load, factor * load)
        responses.append(
            StepResponse(name=name, before=before, after=after, scanner=loads, trace=tuple(trace), drained=drained)
        )
    return responses


def trace_round_trips(timed: TimedPlant, seconds: float) -> list[float | None]:
    """Measure robot-control's mean round trip, seconds, every 50 ms; None where no probe came back."""
    trace: list[float | None] = []
    before = timed.plant.read_counters().latency[ROBOT]
    due = timed.now()
    for _ in range(int(seconds / INTERVAL)):
        due += int(INTERVAL * 1e9)
        timed.wait(max(due - timed.now(), 0) / 1e9)
        after = timed.plant.read_counters().latency[ROBOT]
        count = after.counts[-1] - before.counts[-1]
        trace.append(round((after.sum - before.sum) / count, 6) if count else None)
        before = after
    return trace


def _set_limit(plant: Plant, kbit: int | None) -> None:
    """Set the sum of telemetry-upload's limits, split over its replicas."""
    pods = [pod.name for pod in plant.pods if pod.target == TELEMETRY]
    for pod in pods:
        plant.set_limit(pod, None if kbit is None else kbit // len(pods))
