"""Open loop: what the plant does when nobody controls it, on real packets or simulated, in one form.

Two experiments.  A *sweep* holds one limit on telemetry-upload after another and sums up the ground
truth of each.  *Steps* change a limit or a load at once and follow the mean round trip every 50 ms.
``services/plant/calibration`` keeps runs on real packets, one ``OpenLoop`` a file; the simulated plant
was fitted to one and is compared with them.
"""

from collections.abc import Callable, Sequence
from statistics import median

from msgspec import Struct
from msgspec.structs import replace

from services.plant.interface import Plant, Second
from services.plant.topology import ROBOT, SCANNER, TELEMETRY
from services.plant.workloads import Apps

LIMITS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.67, 0.68, 0.69, 0.70, 0.71, 0.72, 0.74, 0.78, 0.85, None)
"""Limits of a sweep, as shares of the bottleneck's capacity; None is no limit."""
SETTLE = 2.0
"""Seconds for a limit to take effect before it is judged."""
EMPTY = 0.7
"""Seconds at the lowest limit, in which every queue drains before the next limit."""
INTERVAL = 0.05
"""Seconds from one point of a step's trace to the next."""
DRAINED = 0.002
"""Mean round trip, seconds, below which no queue stands."""


class Stand(Struct, frozen=True):
    """A plant, and how time passes for it."""

    plant: Plant
    wait: Callable[[float], None]
    """Lets so many seconds pass."""
    now: Callable[[], int]
    """UTC ns."""


class Point(Struct, frozen=True):
    """The ground truth under one limit: medians over its seconds; latencies in seconds, rates in kbit/s."""

    limit: int | None
    p50: float
    p95: float
    jitter: float
    lost: int
    """Packets of robot-control, in all seconds together."""
    scanner: int
    """Payload of safety-scanner that arrived."""
    goodput: int
    """Payload of telemetry-upload that arrived."""
    seconds: int
    """How many seconds the figures rest on."""
    invalid: int
    """How many were left out."""


class Step(Struct, frozen=True):
    """The answer to one change.  Limits and loads are kbit/s."""

    name: str
    before: int | None
    """Limit of telemetry-upload until the change."""
    after: int | None
    scanner: tuple[int, int]
    """Load of safety-scanner before and after."""
    trace: tuple[float | None, ...]
    """Mean round trip of robot-control's probes in each 50 ms, from the change on, seconds; None: none came back."""
    drained: float | None
    """Seconds from the change until the mean round trip fell below 2 ms; None where it did not, or was not above."""


class Conditions(Struct, frozen=True):
    """What a run was made with."""

    plant: str
    """``real`` or ``simulated``."""
    apps: Apps
    fifo: float
    """Depth of the bottleneck's queue, seconds."""
    machine: str = ""
    """Processors and kernel of a run on real packets."""


class OpenLoop(Struct, frozen=True):
    """A whole run."""

    conditions: Conditions
    sweep: tuple[Point, ...]
    steps: tuple[Step, ...]


def measure(stand: Stand, conditions: Conditions, hold: int = 4) -> OpenLoop:
    """Run both experiments on a plant that runs under these conditions: about two and a half minutes of its time."""
    limits = [None if share is None else int(share * conditions.apps.capacity) for share in LIMITS]
    points = sweep(stand, limits, hold)
    return OpenLoop(conditions, tuple(points), tuple(steps(stand, conditions.apps)))


def sweep(stand: Stand, limits: Sequence[int | None], hold: int = 4) -> list[Point]:
    """Hold each limit (kbit/s) until ``hold`` whole seconds of it are known, in the order given."""
    lowest = min(limit for limit in limits if limit is not None)
    stays = []
    truth: list[Second] = []
    for limit in limits:
        _limit(stand.plant, lowest)
        stand.wait(EMPTY)
        _limit(stand.plant, limit)
        stand.wait(SETTLE)
        start = stand.now()
        # Whole seconds fit into a stay wherever they begin.
        stand.wait(hold + 1)
        stays.append((limit, start, stand.now()))
        truth += stand.plant.take_seconds()
    # A second is known one second after its end.
    stand.wait(2.5)
    truth += stand.plant.take_seconds()
    return [
        _point(limit, [second for second in truth if start <= second.start and second.start + 10**9 <= end])
        for limit, start, end in stays
    ]


def _point(limit: int | None, seconds: list[Second]) -> Point:
    good = [second for second in seconds if second.invalid is None]
    robot = [second.critical[ROBOT] for second in good]
    return Point(
        limit=limit,
        p50=round(_median([one.p50 for one in robot]), 6),
        p95=round(_median([one.p95 for one in robot]), 6),
        jitter=round(_median([one.jitter for one in robot]), 6),
        lost=sum(one.lost for one in robot),
        scanner=int(_median([second.critical[SCANNER].throughput for second in good])),
        goodput=int(_median([second.goodput[TELEMETRY] for second in good])),
        seconds=len(good),
        invalid=len(seconds) - len(good),
    )


def _median(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return median(known) if known else float("nan")


def steps(stand: Stand, apps: Apps) -> list[Step]:
    """Cuts that drain a full queue, rises that fill one, and a step of critical load."""
    capacity = apps.capacity
    scanner = next(one.load for one in apps.critical if one.workload == SCANNER)
    plan: list[tuple[str, float | None, float | None, int, float]] = [
        ("cut to 60 %", None, 0.6, 1, 2.0),
        ("cut to 20 %", None, 0.2, 1, 1.0),
        ("rise from 60 to 72 %", 0.6, 0.72, 1, 8.0),
        ("rise from 60 to 80 %", 0.6, 0.8, 1, 3.0),
        ("scanner doubles at 60 %", 0.6, 0.6, 2, 3.0),
    ]
    done = []
    for name, before, after, times, seconds in plan:
        limits = [None if share is None else int(share * capacity) for share in (before, after)]
        _limit(stand.plant, capacity // 5)
        stand.wait(EMPTY)
        step = Step(name, limits[0], limits[1], (scanner, scanner * times), (), None)
        done.append(_step(stand, step, seconds))
    return done


def _step(stand: Stand, step: Step, seconds: float) -> Step:
    plant = stand.plant
    _limit(plant, step.before)
    stand.wait(SETTLE)
    if step.scanner[0] != step.scanner[1]:
        plant.set_load(SCANNER, step.scanner[1])
    if step.after != step.before:
        _limit(plant, step.after)
    trace = _trace(stand, seconds)
    plant.set_load(SCANNER, step.scanner[0])
    low = [number for number, value in enumerate(trace) if value is not None and value < DRAINED]
    stood = trace[0] is not None and trace[0] >= DRAINED
    drained = round(low[0] * INTERVAL, 3) if stood and low else None
    return replace(step, trace=tuple(trace), drained=drained)


def _trace(stand: Stand, seconds: float) -> list[float | None]:
    trace: list[float | None] = []
    before = stand.plant.read_counters().latency[ROBOT]
    due = stand.now()
    for _ in range(int(seconds / INTERVAL)):
        due += int(INTERVAL * 1e9)
        stand.wait(max(due - stand.now(), 0) / 1e9)
        after = stand.plant.read_counters().latency[ROBOT]
        count = after.counts[-1] - before.counts[-1]
        trace.append(round((after.sum - before.sum) / count, 6) if count else None)
        before = after
    return trace


def _limit(plant: Plant, kbit: int | None) -> None:
    """The limit of telemetry-upload in all, split over its replicas."""
    mine = [pod.name for pod in plant.pods if pod.target == TELEMETRY]
    for pod in mine:
        plant.set_limit(pod, None if kbit is None else kbit // len(mine))
