"""What each source of signals costs: harm and goodput of ``learned`` on the simulated plant, source by source.

Policy, settings, seeds and scenarios are the same; only the delays of the control loop differ.  A direct
scrape also gives throughput and median of the last period alone; Prometheus gives only means over its window.
"""

from collections.abc import Sequence
from multiprocessing import Pool

from msgspec.structs import replace

from services.bench.policies.results import SUBJECT, Cell, Outcome, Summary, summarize_contenders
from services.bench.policies.simulated import judge_played
from services.control import Controller
from services.plant.scenario import SCENARIOS
from services.plant.simulated.closed_loop import Delays, play
from services.plant.simulated.sampling import SignalTraits
from services.plant.simulated.signal_profiles import PROFILES, SHIPPED

COST_SCENARIOS = ("steady", "step", "shift", "flapping")
_SHIPPED = PROFILES[SHIPPED]
SOURCES: dict[str, SignalTraits] = {
    "scrape 250ms": replace(_SHIPPED, period=0.25, window=1.5),
    "scrape 500ms": _SHIPPED,
    "scrape 1s": replace(_SHIPPED, period=1.0, window=4.0),
    "prometheus 1s": replace(_SHIPPED, period=1.0, window=4.0, scrape=1.0),
    "prometheus 15s": PROFILES["prometheus-15s"],
    "no meter": PROFILES["no-meter"],
    "cadvisor": PROFILES["cadvisor"],
    "no probes": PROFILES["no-probes"],
}
"""By the same names as in ``lag.py``; the last three are the signals of a cluster that lacks something."""


def measure_costs(
    seeds: int, sources: Sequence[str] = tuple(SOURCES), scenarios: Sequence[str] = COST_SCENARIOS
) -> dict[str, Summary]:
    """Play every source on every scenario; gives the summary of each source's runs."""
    cells = [Cell(source, name, seed) for source in sources for name in scenarios for seed in range(seeds)]
    with Pool(2) as pool:
        outcomes = pool.map(play_source, cells, chunksize=1)
    return {one.contender: one for one in summarize_contenders(outcomes)}


def play_source(cell: Cell) -> Outcome:
    """Play ``learned`` with the source that the cell names as its contender."""
    scenario = SCENARIOS[cell.scenario].shift(cell.seed)
    domain = scenario.domain(SUBJECT)
    delays = Delays.of(SOURCES[cell.contender])
    return judge_played(cell, play(scenario, domain, Controller(domain), delays=delays, seed=cell.seed))
