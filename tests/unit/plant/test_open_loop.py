"""The open-loop experiments, on the simulated plant; and the committed runs on real packets."""

from pathlib import Path

import msgspec
import pytest

from services.plant.commands import open_loop
from services.plant.commands.open_loop import OpenLoop, OpenLoopConditions, TimedPlant, measure_steps, measure_sweep
from services.plant.simulated.plant import Parameters, SimulatedPlant
from services.plant.workloads import Apps

CALIBRATION = sorted((Path(open_loop.__file__).parents[1] / "calibration").glob("real-*.json"))
APPS = Apps()


def build_timed_plant() -> TimedPlant:
    """Build a simulated plant with its own clock."""
    model = SimulatedPlant(Parameters(apps=APPS), seed=3)
    return TimedPlant(model, lambda seconds: model.advance(round(seconds * 1e9)), lambda: model.now)


def test_a_sweep_finds_the_cliff() -> None:
    """Below the safe limit P95 is below 2 ms, above it far beyond; every point has the seconds asked for."""
    safe = APPS.safe_budget()
    below, above, free = measure_sweep(build_timed_plant(), [safe * 95 // 100, safe * 105 // 100, None], hold=3)
    assert below.p95 < 0.002
    assert below.goodput == pytest.approx(safe * 0.95 * 0.955, rel=0.03)
    assert min(above.p95, free.p95) > 0.02
    assert [point.seconds for point in (below, above, free)] == [3, 3, 3]


def test_steps_measure_how_long_a_queue_takes_to_drain() -> None:
    """A deeper cut drains it sooner; a raise over the cliff never does."""
    done = {step.name: step for step in measure_steps(build_timed_plant(), APPS)}
    shallow, deep = done["cut to 60 %"].drained, done["cut to 20 %"].drained
    assert shallow is not None
    assert deep is not None
    assert 0 < deep < shallow < 1.5
    assert done["rise from 60 to 80 %"].drained is None
    assert done["scanner doubles at 60 %"].trace[-1] > 0.05  # type: ignore[operator]


@pytest.mark.parametrize("path", CALIBRATION, ids=lambda path: path.stem)
def test_runs_on_real_packets_show_the_analytic_cliff(path: Path) -> None:
    """The committed runs can be read, and their cliff lies where capacity minus loads puts it."""
    run = msgspec.json.decode(path.read_bytes(), type=OpenLoop)
    safe = run.conditions.apps.safe_budget()
    assert run.conditions.plant == "real"
    for point in run.sweep:
        if point.limit is not None and point.limit <= safe * 0.99:
            assert point.p95 < 0.002, point
        if point.limit is None or point.limit > safe * 1.02:
            assert point.p95 > 0.02, point


def test_conditions_are_written_with_the_run() -> None:
    """A run that is read back has its conditions."""
    run = OpenLoop(OpenLoopConditions("simulated", APPS, 0.1), (), ())
    assert msgspec.json.decode(msgspec.json.encode(run), type=OpenLoop) == run
