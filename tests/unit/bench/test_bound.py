"""The causal bound: what can be known, what the fluid model says of limits, and that the plant agrees."""

import numpy as np
import pytest

from services.bench.bound.fluid import judge
from services.bench.bound.forecast import Forecast, find_season
from services.bench.bound.search import INFORMED, PROBING
from services.bench.bound.timeline import TICK, Knowledge, Timeline
from services.bench.policies.catalogue import CASES
from services.bench.policies.simulated import find_bound
from services.plant.simulated.closed_loop import Delays

DELAYS = Delays(probe_hz=100)


def test_knowledge_is_as_late_as_a_sample() -> None:
    """A step of the load shows in the first sample after it, and only in part before a whole period has passed."""
    truth = Timeline.of(CASES["step"].prepare(0).scenario)
    known = Knowledge.of(truth, DELAYS)
    rise = int(np.flatnonzero(np.diff(truth.load))[0]) * TICK
    before, after = int(rise / DELAYS.period), int(rise / DELAYS.period) + 2
    assert known.load[before] == pytest.approx(truth.load[0])
    assert known.load[after] == pytest.approx(truth.load[round(rise / TICK) + 2])
    index = known.index_of(truth.load.size)
    assert index[0] == -1
    assert index[round((known.delay + DELAYS.period) / TICK) + 1] == 1


def test_a_safe_limit_has_no_bad_second_and_one_above_the_room_has_many() -> None:
    """Side by side, as two settings."""
    truth = Timeline.of(CASES["steady"].prepare(0).scenario)
    room = float(truth.capacity[0] - truth.load[0])
    limits = np.tile([0.99 * room, 1.02 * room], (truth.load.size, 1))
    figures = judge(truth, limits)
    assert figures.violation.tolist() == [0.0, 1.0]
    assert figures.goodput == pytest.approx([0.99 * room, room])


def test_a_season_is_found_and_foreseen() -> None:
    """The load swings in 20 s; walks have no season."""
    truth = Timeline.of(CASES["sine-20s"].prepare(0).scenario)
    known = Knowledge.of(truth, DELAYS)
    assert find_season(known) == pytest.approx(20, abs=0.5)
    foreseen = Forecast(season=20.0).load(known)[200:-10]
    ahead = known.load[201:-9]
    assert np.mean(foreseen >= ahead - 200) > 0.95
    assert find_season(Knowledge.of(Timeline.of(CASES["walk-gentle"].prepare(0).scenario), DELAYS)) == 0.0


@pytest.mark.parametrize(("kind", "least"), [(INFORMED, 0.99), (PROBING, 0.96)])
def test_the_bound_of_a_steady_link_is_the_oracle(kind: str, least: float) -> None:
    """Nobody can do much better, and nothing is violated; the same seeds give the same figures."""
    (outcome,) = find_bound((kind, "demo", (1,)))
    assert outcome.cell.contender == kind
    (outcome,) = find_bound((kind, "steady", (1,)))
    assert outcome.steady is not None
    assert outcome.steady.own_violation == 0
    assert outcome.steady.goodput > least
