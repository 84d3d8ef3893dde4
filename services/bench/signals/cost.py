"""What each source of signals costs: harm and goodput of ``learned`` on the simulated plant, source by source.

Policy, settings, seeds and scenarios are the same; only the delays of the control loop differ.  A direct
scrape also gives throughput and median of the last period alone; Prometheus gives only means over its window.
"""

from collections.abc import Sequence
from multiprocessing import Pool

from services.bench.policies.results import SUBJECT, Cell, Outcome, Summary, summarize_contenders
from services.bench.policies.simulated import judge_played
from services.control import Controller
from services.plant.scenario import SCENARIOS
from services.plant.simulated.closed_loop import Delays, play

COST_SCENARIOS = ("steady", "step", "shift", "flapping")
SOURCES: dict[str, Delays] = {
    "scrape 250ms": Delays(period=0.25, window=1.5),
    "scrape 500ms": Delays(),
    "scrape 1s": Delays(period=1.0, window=4.0),
    "prometheus 1s": Delays(period=1.0, window=4.0, scrape=1.0),
    "prometheus 15s": Delays(period=1.0, window=60.0, scrape=15.0),
}
"""By the same names as in ``lag.py``."""


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
    delays = SOURCES[cell.contender]
    return judge_played(cell, play(scenario, domain, Controller(domain), delays=delays, seed=cell.seed))
