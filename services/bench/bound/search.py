"""The causal bound of a case: the best of two families of controllers, with the loop's delays and without foresight.

*Informed* controllers know capacity and critical load as late as a sample.  *Probing* ones know the capacity only
while a queue shows it: what no configuration gives can be learned no other way.  The settings of both are chosen in
hindsight for the case, on a fluid model, and the best ones are then played on the simulated plant, under the shield, as
every policy is.  A bound is therefore what was reached, and a better controller than those of the families may lie
above it.
"""

from itertools import product

import numpy as np
from msgspec.structs import replace

from services.bench.bound.controllers import Informed, Prober, Setting
from services.bench.bound.fluid import Figures, ProbeGrid, judge, probe
from services.bench.bound.forecast import forecasts
from services.bench.bound.timeline import Knowledge, Timeline
from services.bench.policies.case import Prepared
from services.control import Controller
from services.plant.simulated.closed_loop import Delays, Run, play

INFORMED, PROBING = "bound, informed", "bound, probing"
"""The contenders' names."""
SAFE = 0.01
"""A bound has at most this share of bad seconds outside of unpredicted steps, where that is possible."""
_SAFE_MODEL = 0.007
_PER_STEP = 2.0
_MARGINS = np.array([0.0, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08, 0.12, 0.16, 0.2, 0.27, 0.35])
_HOLDS = (0.0, 8.0)
"""Of probing settings, seconds."""
_PLAYED = (0.0, 0.01, 0.03)
"""What is added to the margin, until the plant agrees that a setting is safe."""


def search_informed(truth: Timeline, known: Knowledge) -> Setting:
    """The best informed setting by the fluid model."""
    best: tuple[tuple[bool, float], Setting] | None = None
    index = known.index_of(truth.load.size)
    for forecast in forecasts(known):
        base = forecast.capacity(known) - forecast.load(known)
        # Before the first sample the fail-safe limit holds; it is outside of what is judged.
        limits = np.clip(base[np.maximum(index, 0), None] - _MARGINS * truth.nameplate, 0.01 * truth.nameplate, None)
        rank, place = _best(judge(truth, np.minimum(limits, truth.nameplate)))
        if best is None or rank > best[0]:
            best = rank, Setting(forecast, float(_MARGINS[place]))
    assert best is not None
    return best[1]


def search_probing(truth: Timeline, known: Knowledge) -> Setting:
    """The best probing setting by the fluid model."""
    family = [one for one in forecasts(known) if one.slope != 1 and not one.capacity_hold and one.hold in _HOLDS]
    loads = np.array([one.load(known) for one in family])
    rows = np.array(
        list(
            product(
                (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02),
                (0.005, 0.01, 0.02, 0.04, 0.08),
                (0.0, 5.0, 20.0),
                (1.0, 1.05, 1.2),
                (0.0, 0.01, 0.04, 0.13),
                range(len(family)),
            )
        )
    )
    rise, back, wait, faster, margin = (rows[:, column].copy() for column in range(5))
    grid = ProbeGrid(rise, back, wait, faster, margin, rows[:, 5].astype(np.int64))
    _, place = _best(probe(truth, known.capacity, loads, grid, known.period, known.delay))
    return Setting(
        forecast=family[int(grid.hold[place])],
        margin=float(margin[place]),
        rise=float(rise[place]),
        back=float(back[place]),
        wait=float(wait[place]),
        faster=float(faster[place]),
    )


def _best(figures: Figures) -> tuple[tuple[bool, float], int]:
    """The rank of the best setting, and which it is: the most goodput of the safe ones, else the safest."""
    safe = (figures.violation <= _SAFE_MODEL) & (figures.per_step <= _PER_STEP)
    if safe.any():
        place = int(np.where(safe, figures.goodput, -1.0).argmax())
        return (True, float(figures.goodput[place])), place
    place = int((figures.violation + 1e-3 * figures.per_step).argmin())
    return (False, -float(figures.violation[place])), place


def search(kind: str, prepared: Prepared, delays: Delays) -> Setting:
    """The best setting of one family on a case."""
    truth = Timeline.of(prepared.scenario, delays.probe_hz)
    known = Knowledge.of(truth, delays)
    return search_informed(truth, known) if kind == INFORMED else search_probing(truth, known)


def margins(setting: Setting) -> list[Setting]:
    """The setting, and more careful ones, in the order in which the plant is to judge them."""
    return [replace(setting, margin=setting.margin + more) for more in _PLAYED]


def play_setting(kind: str, setting: Setting, prepared: Prepared, delays: Delays, seed: int) -> Run:
    """Play one setting on the simulated plant; what it knows has no error."""
    truth = Timeline.of(prepared.scenario, delays.probe_hz)
    known = Knowledge.of(truth, delays)
    family = Informed if kind == INFORMED else Prober
    # It is configured with the true capacity: its own estimate is what may be wrong.
    domain = prepared.scenario.domain("static")
    controller = Controller(domain, family(setting, known, truth.nameplate))
    return play(prepared.scenario, domain, controller, delays=delays, seed=seed, parameters=prepared.parameters)
