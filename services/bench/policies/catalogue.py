"""The cases of ``sluice bench policies``, by name.

The eight shipped scenarios come first: the published figures rest on them.  The others are what users reported and what
no policy was written for.  Each seed draws its own bursts, walks and fades.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random

from services.bench.policies.case import BenchCase
from services.plant.courses import burst, draw_times, fade, follow, sine, walk
from services.plant.scenario import NOMINAL, SCENARIOS, Event, Scenario
from services.plant.simulated.probes import Pause
from services.plant.topology import ERP, NAMESPACE, ROBOT, SCANNER, TELEMETRY
from services.plant.traces import read_traces
from services.plant.workloads import Apps, TargetApp

_SECONDS = 300.0
_CAPACITY = 100_000
_BACKUP = f"{NAMESPACE}/log-backup"
_NEIGHBOURS = Apps(targets=(TargetApp(TELEMETRY), TargetApp(ERP), TargetApp(_BACKUP, flows=16)))

Draw = Callable[[Random], tuple[Event, ...]]


def _shipped(name: str) -> Callable[[Random], Scenario]:
    return lambda _: SCENARIOS[name]


def _steady(share: float) -> Callable[[Random], Scenario]:
    return lambda _: SCENARIOS["steady"].scale(share)


def _eventful(text: str, draw: Draw, apps: Apps = Apps(), learning: float = 60.0) -> Callable[[Random], Scenario]:  # noqa: B008 - frozen
    def make(random: Random) -> Scenario:
        return Scenario(name="case", text=text, seconds=_SECONDS, events=draw(random), apps=apps, learning=learning)

    return make


def _case(name: str, text: str, draw: Draw, apps: Apps = Apps()) -> BenchCase:  # noqa: B008 - frozen
    return BenchCase(name=name, text=text, scenario=_eventful(text, draw, apps))


def _pauses(every: float, seconds: float, extra: float, workload: str = "") -> Callable[[Random, float], list[Pause]]:
    """Pauses every ``every`` seconds, each up to a tenth of that early or late."""

    def draw(random: Random, until: float) -> list[Pause]:
        starts = [step * every + random.uniform(-0.1, 0.1) * every for step in range(1, int(until / every))]
        return [Pause(start, seconds, extra, workload) for start in starts]

    return draw


def _own_queue(random: Random, until: float) -> list[Pause]:
    return [Pause(until * part + random.uniform(0, 10), 45.0, 0.004, ROBOT) for part in (0.3, 0.65)]


def _sine(period: float) -> Draw:
    return lambda _: follow(sine(NOMINAL, NOMINAL / 2, period), _SECONDS, 0.25, workload=SCANNER)


def _bursts(high: float, mean: float, least: float | None = None) -> Draw:
    """Bursts of 200 ms, every ``mean`` seconds or, with ``least``, at random."""

    def draw(random: Random) -> tuple[Event, ...]:
        # Each a little early or late, so that no two meet the same phase of signal and truth.
        times = [step * mean + random.uniform(-0.1, 0.1) for step in range(1, int(_SECONDS / mean))]
        if least is not None:
            times = draw_times(random, mean, least, _SECONDS - 1)
        return burst(times, 0.2, SCANNER, NOMINAL, round(NOMINAL * high))

    return draw


def _stairs(seconds: float) -> Draw:
    """Stairs up and down again, every minute."""

    def draw(random: Random) -> tuple[Event, ...]:
        heights = [NOMINAL + 5_000 * min(step, 10 - step) for step in range(1, 11)]
        starts = [minute * 60 + random.uniform(0, 10) for minute in range(int(_SECONDS / 60))]
        return tuple(
            Event(at=start + seconds * step, loads={SCANNER: load})
            for start in starts
            for step, load in enumerate(heights)
        )

    return draw


def _walk(share: float) -> Draw:
    return lambda random: walk(random, _CAPACITY, share, _SECONDS)


def _neighbours(random: Random) -> tuple[Event, ...]:
    """Three greedy targets; the second comes and goes."""
    moments = draw_times(random, 50, 20, _SECONDS)
    return tuple(Event(at=at, loads={ERP: 0 if number % 2 == 0 else None}) for number, at in enumerate(moments))


def _day(random: Random) -> Scenario:
    """A day in 24 minutes: nights, two shifts and a lunch break, with noise of a tenth."""
    hours = (6, 6, 6, 6, 8, 14, 26, 38, 42, 44, 40, 30, 26, 38, 44, 46, 42, 36, 38, 34, 24, 14, 8, 6)

    def course(at: float) -> float:
        hour, part = divmod(at / 60, 1.0)
        here, after = hours[int(hour) % 24], hours[int(hour + 1) % 24]
        return 1000 * (here + (after - here) * part) * random.uniform(0.95, 1.05)

    events = follow(course, 1440, 2.0, workload=SCANNER)
    return Scenario(name="case", text="A day in 24 minutes.", seconds=1440, events=events, learning=60)


_STEP = _shipped("step")
_STEADY = _shipped("steady")

_CASES: tuple[BenchCase, ...] = (
    *(BenchCase(name=name, text=one.text, scenario=_shipped(name), shipped=True) for name, one in SCENARIOS.items()),
    # What best effort does not cause.
    BenchCase(
        name="stalls-20s",
        text="All hosts stall for 0.3 s, by 5 ms, every 20 s.",
        scenario=_STEADY,
        pauses=_pauses(20, 0.3, 0.005),
        without="steady",
    ),
    BenchCase(
        name="stalls-5s",
        text="All hosts stall for 0.3 s, by 5 ms, every 5 s.",
        scenario=_STEADY,
        pauses=_pauses(5, 0.3, 0.005),
        without="steady",
    ),
    BenchCase(
        name="stalls-one-host",
        text="One workload's host stalls for 0.3 s, by 5 ms, every 5 s.",
        scenario=_STEADY,
        pauses=_pauses(5, 0.3, 0.005, ROBOT),
        without="steady",
    ),
    BenchCase(
        name="own-queue",
        text="One workload's round trips take 4 ms longer for 45 s, twice.",
        scenario=_STEADY,
        pauses=_own_queue,
        without="steady",
    ),
    BenchCase(
        name="outliers-1",
        text="1 % of latencies are outliers, mean 10 ms.",
        scenario=_STEADY,
        outliers=0.01,
        without="steady",
    ),
    BenchCase(
        name="outliers-4",
        text="4 % of latencies are outliers, mean 10 ms.",
        scenario=_STEADY,
        outliers=0.04,
        without="steady",
    ),
    # Critical load.
    _case("bursts", "Bursts of 200 ms, half as much again, every 3 s.", _bursts(1.5, 3.0)),
    _case("bursts-irregular", "The same bursts at random, every 3 s on average.", _bursts(1.5, 3.0, 0.6)),
    _case("bursts-double", "Bursts of 200 ms, twice the load, every 3 s.", _bursts(2.0, 3.0)),
    _case("stairs", "Stairs of 2 s, up to twice the load and down again.", _stairs(2.0)),
    _case("sine-20s", "The critical load swings by half in 20 s.", _sine(20)),
    _case("sine-60s", "The critical load swings by half in 60 s.", _sine(60)),
    BenchCase(name="day", text="A day of 24 h in 24 minutes.", scenario=_day),
    # The link.
    BenchCase(name="link-60M", text="Nothing changes on 60 Mbit/s.", scenario=_steady(0.6)),
    BenchCase(name="link-400M", text="Nothing changes on 400 Mbit/s.", scenario=_steady(4.0)),
    BenchCase(
        name="unconfigured-steady", text="The capacity is not configured; nothing changes.", scenario=_STEADY, maximum=4
    ),
    BenchCase(
        name="unconfigured-step", text="The capacity is not configured; the load doubles.", scenario=_STEP, maximum=4
    ),
    BenchCase(
        name="unconfigured-capacity",
        text="The capacity is not configured, halves and drifts.",
        scenario=_shipped("capacity"),
        maximum=4,
    ),
    _case("walk-gentle", "The capacity walks at random, 1 % in a second.", _walk(0.01)),
    _case("walk-middle", "The capacity walks at random, 2 % in a second.", _walk(0.02)),
    _case("walk-wild", "The capacity walks at random, 5 % in a second.", _walk(0.05)),
    _case("radio", "The capacity varies as a radio link's.", lambda random: fade(random, 62_500, _SECONDS)),
    _case("neighbours", "Three noisy neighbours, one of which comes and goes.", _neighbours, _NEIGHBOURS),
    # What is measured.
    BenchCase(
        name="throughput-low",
        text="Throughput is measured 20 % too low.",
        scenario=_STEP,
        meters={"target_gain": 0.8, "critical_gain": 0.8},
    ),
    BenchCase(
        name="critical-high",
        text="Critical throughput is measured 20 % too high.",
        scenario=_STEP,
        meters={"critical_gain": 1.2},
    ),
    BenchCase(
        name="throughput-noisy",
        text="Throughput is measured with 10 % of noise.",
        scenario=_STEP,
        meters={"throughput_noise": 0.1},
    ),
    BenchCase(
        name="unmeasured-step", text="Throughput is not measured; the load doubles.", scenario=_STEP, signals="no-meter"
    ),
    BenchCase(
        name="unmeasured-sine",
        text="Throughput is not measured; the load swings.",
        scenario=_eventful("Swings.", _sine(60)),
        signals="no-meter",
    ),
    BenchCase(name="missing-20", text="A fifth of the samples is missing.", scenario=_STEP, meters={"gaps": 0.2}),
    BenchCase(
        name="prometheus-step", text="Prometheus at 15 s; the load doubles.", scenario=_STEP, signals="prometheus-15s"
    ),
    BenchCase(name="prometheus-day", text="Prometheus at 15 s; a day.", scenario=_day, signals="prometheus-15s"),
)

CASES: dict[str, BenchCase] = {one.name: one for one in _CASES}
"""By name, in the order in which they are listed."""


def add_traces(folder: Path | None) -> list[str]:
    """Add a case for each trace in a folder, and give their names.

    Raises:
        TraceError: there are none, or a line of one is not in the file's format.
    """
    if folder is None:
        return []
    cases = [
        BenchCase(name=one.name, text="A trace.", scenario=one.scenario, trace=True) for one in read_traces(folder)
    ]
    CASES.update({one.name: one for one in cases})
    return [one.name for one in cases]
