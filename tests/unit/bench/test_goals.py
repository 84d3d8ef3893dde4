"""Figures and their goals: the verdicts, and one JSON file for several benches."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.bench.goals import Goal, show
from services.bench.speed import control_step


@pytest.mark.parametrize(
    ("seen", "goal", "verdict"),
    [
        (2.0, "<= 2", True),
        (2.01, "<= 2", False),
        (1.0, "< 1", False),
        (2000, ">= 2,000", True),
        (1999, ">= 2,000 a core", False),
        (0.005, "<= 0.5 %", True),
        (0.949, ">= 95 %", False),
        (5, "", None),
    ],
)
def test_verdicts(seen: float, goal: str, verdict: bool | None) -> None:
    """Verdicts match the goals as printed."""
    assert Goal("figure", seen, goal).met is verdict


def test_the_file_collects_benches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bench adds its figures to those of the others, and replaces its own."""
    path = tmp_path / "figures.json"
    show("one", {"a": 1.0, "b": 12_345.6}, {"a": "<= 1"}, path)
    show("two", {"c": 3.0}, {"c": "<= 2"}, path)
    show("one", {"a": 0.5}, {"a": "<= 1"}, path)
    assert json.loads(path.read_text()) == {
        "one": {"a": {"seen": 0.5, "goal": "<= 1", "met": True, "note": None}},
        "two": {"c": {"seen": 3.0, "goal": "<= 2", "met": False, "note": None}},
    }
    shown = capsys.readouterr().out
    assert "12,346" in shown
    assert "NO" in shown


def test_the_core_is_measured(tmp_path: Path) -> None:
    """Every policy has a figure and a verdict."""
    path = tmp_path / "figures.json"
    done = CliRunner().invoke(control_step.command, ["--steps", "2000", "--json", str(path)])
    assert done.exit_code == 0, done.output
    figures = json.loads(path.read_text())["core"]
    assert set(figures) == {"proportional, steps/s a core", "learned, steps/s a core"}
    assert all(one["seen"] > 0 and one["met"] is not None for one in figures.values())
