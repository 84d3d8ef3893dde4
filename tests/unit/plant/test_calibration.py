"""Agreement of the simulated plant with the committed runs on real packets, in figures.

It was fitted to the run at 100 Mbit/s; the one at 50 Mbit/s is a bottleneck that it never saw.
"""

import pytest

from services.plant.commands.compare_plants import RUNS, load_reference_run, measure_simulated
from services.plant.commands.open_loop import OpenLoop


@pytest.fixture(scope="module", params=RUNS)
def both(request: pytest.FixtureRequest) -> tuple[OpenLoop, OpenLoop]:
    """Real and simulated, under the same conditions."""
    real = load_reference_run(request.param)
    return real, measure_simulated(real.conditions.apps, real.conditions.fifo)


def test_latency_and_goodput_over_the_limit(both: tuple[OpenLoop, OpenLoop]) -> None:
    """Below the knee P95 agrees within a factor of two; well above it the queue does within 15 %."""
    for real, model in zip(both[0].sweep, both[1].sweep, strict=True):
        assert model.goodput == pytest.approx(real.goodput, rel=0.08), real
        safe = both[0].conditions.apps.safe_budget()
        if real.limit is not None and real.limit <= safe:
            assert 0.5 < model.p95 / real.p95 < 2, (real, model)
            assert model.jitter < 0.0003
        elif real.limit is None or real.limit > 1.04 * safe:
            assert model.p50 == pytest.approx(real.p50, rel=0.15), (real, model)
            assert model.scanner < 0.99 * both[0].conditions.apps.critical[1].load


def test_answers_to_steps(both: tuple[OpenLoop, OpenLoop]) -> None:
    """A cut drains the queue in the same time within 0.15 s; a rise fills it to the same height half a second later."""
    for real, model in zip(both[0].steps, both[1].steps, strict=True):
        if real.name.startswith("cut"):
            assert real.drained is not None
            assert model.drained == pytest.approx(real.drained, abs=0.15), real.name
        if real.name == "rise from 60 to 80 %":
            assert model.trace[10] == pytest.approx(real.trace[10], rel=0.15)
        if real.name.startswith("scanner doubles"):
            # Real scanners double by a second connection, which takes longer to reach its rate.
            assert real.trace[10] is not None
            assert model.trace[10] is not None
            assert 0.6 < model.trace[10] / real.trace[10] < 2
