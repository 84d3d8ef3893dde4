"""The cost of a source's lag on the simulated plant."""

import json
from pathlib import Path

from click.testing import CliRunner

from services.bench.signals.cost import SOURCES, measure_costs
from services.bench.signals.lag import command


def test_a_scrape_every_fifteen_seconds_costs_more_than_one_every_half() -> None:
    """It costs goodput and violations, on the stepping factory."""
    paid = measure_costs(1, ("scrape 500ms", "prometheus 15s"), ("step",))
    assert paid["scrape 500ms"].goodput > paid["prometheus 15s"].goodput
    assert paid["scrape 500ms"].violation <= paid["prometheus 15s"].violation


def test_the_command_plays_every_source(tmp_path: Path) -> None:
    """Without the steps in real time, it prints only the costs, as a table and as JSON."""
    path = tmp_path / "out.json"
    result = CliRunner().invoke(command, ["--steps", "0", "--seeds", "1", "--scenario", "demo", "--json", str(path)])
    assert result.exit_code == 0, result.output
    costs = json.loads(path.read_text(encoding="utf-8"))["signals"]
    assert set(costs) == set(SOURCES)
    assert all(0 <= one["violation"] <= 1 and one["goodput"] > 0 for one in costs.values())
