"""What each source of signals costs: harm and goodput of ``learned`` on the simulated plant, source by source.

The same policy with the same setting, seeds and scenarios; only the loop's delays differ.  A direct
scrape also tells throughput and median of the last period alone; Prometheus only means over its window.
"""

from collections.abc import Sequence
from multiprocessing import Pool
from statistics import mean, median

from msgspec import Struct

from services.control import Controller
from services.plant.scenario import SCENARIOS
from services.plant.simulated.closed_loop import Delays, play

COURSES = ("steady", "step", "shift", "flapping")
SOURCES: dict[str, Delays] = {
    "scrape 250ms": Delays(period=0.25, window=1.5),
    "scrape 500ms": Delays(),
    "scrape 1s": Delays(period=1.0, window=4.0),
    "prometheus 1s": Delays(period=1.0, window=4.0, scrape=1.0),
    "prometheus 15s": Delays(period=1.0, window=60.0, scrape=15.0),
}
"""By the names that the measured lags have."""


class Cost(Struct, frozen=True):
    """Of one source; medians over seeds, means over scenarios, after learning."""

    violation: float
    """Share of the seconds, outside of unpredicted steps."""
    per_step: float
    """Bad seconds an unpredicted step."""
    goodput: float
    """Share of the oracle's."""


class _Figures(Struct, frozen=True):
    source: str
    course: str
    violation: float
    bad: int
    steps: int
    goodput: float


def costs(seeds: int, sources: Sequence[str] = tuple(SOURCES), courses: Sequence[str] = COURSES) -> dict[str, Cost]:
    """Play every source on every course."""
    jobs = [(source, course, seed) for source in sources for course in courses for seed in range(seeds)]
    with Pool(2) as pool:
        runs = pool.map(_played, jobs, chunksize=1)
    return {source: _summed([one for one in runs if one.source == source]) for source in sources}


def _played(job: tuple[str, str, int]) -> _Figures:
    source, course, seed = job
    scenario = SCENARIOS[course].shift(seed)
    domain = scenario.domain("learned")
    run = play(scenario, domain, Controller(domain), delays=SOURCES[source], seed=seed).score(scenario.learning)
    own = run.violation_seconds - run.step_violation_seconds
    return _Figures(
        source, course, own / max(run.seconds, 1), run.step_violation_seconds, run.steps, round(run.share, 6)
    )


def _summed(runs: Sequence[_Figures]) -> Cost:
    courses = [[one for one in runs if one.course == name] for name in dict.fromkeys(one.course for one in runs)]
    steps = sum(one.steps for one in runs)
    return Cost(
        mean(median(one.violation for one in seeds) for seeds in courses),
        sum(one.bad for one in runs) / steps if steps else 0.0,
        mean(median(one.goodput for one in seeds) for seeds in courses),
    )
