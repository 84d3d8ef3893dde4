"""The comparison of the real and the simulated plant, printed and written."""

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from services.plant.commands.compare_plants import RUNS, PlantComparison, command, load_reference_run, measure_simulated


@pytest.mark.parametrize("capacity", RUNS)
def test_model_and_packets_agree_where_the_cliff_is(capacity: str) -> None:
    """At every limit both are within the SLO, or both are beyond it."""
    real = load_reference_run(capacity)
    simulated = measure_simulated(real.conditions.apps, real.conditions.fifo)
    for measured, modelled in zip(real.sweep, simulated.sweep, strict=True):
        assert (measured.p95 > 0.0025) == (modelled.p95 > 0.0025), (measured, modelled)


def test_the_command_writes_both_runs(tmp_path: Path) -> None:
    """It prints a table for each experiment, and writes both runs to the file."""
    path = tmp_path / "both.json"
    done = CliRunner().invoke(command, ["--capacity", "50M", "--json", str(path)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "safe limit 35.0" in done.output
    assert "…" not in done.output
    both = msgspec.json.decode(path.read_bytes(), type=PlantComparison)
    assert [one.conditions.plant for one in (both.real, both.simulated)] == ["real", "simulated"]
    assert [point.limit for point in both.real.sweep] == [point.limit for point in both.simulated.sweep]
