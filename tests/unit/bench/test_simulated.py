"""The bench of the policies: its figures repeat, and its claims hold on a short run."""

import json
import os
import subprocess
import sys
from pathlib import Path

from services.bench.policies.candidates import CANDIDATES
from services.bench.policies.learned_goals import dominating_contenders
from services.bench.policies.results import Cell, Summary, summarize_contenders
from services.bench.policies.simulated import draw, run
from services.control.policies import POLICIES


def test_every_policy_takes_part() -> None:
    """The comparison includes every policy."""
    lacking = set(POLICIES) - {one.policy for one in CANDIDATES}
    assert not lacking, "add a Candidate to CANDIDATES in services/bench/policies/candidates.py"


def test_the_same_seed_gives_the_same_figures() -> None:
    """Bit for bit."""
    cell = Cell("learned", "demo", 3)
    assert run(cell) == run(cell)


def test_learned_is_safe_and_uses_the_bandwidth() -> None:
    """On the steady and the stepping factory it has hardly a bad second, and more goodput than any baseline."""
    learned = summarize_contenders([run(Cell("learned", name)) for name in ("steady", "step")])[0]
    other = summarize_contenders([run(Cell("proportional", name)) for name in ("steady", "step")])[0]
    assert learned.violation <= 0.005
    assert learned.goodput > 0.9 > other.goodput
    assert learned.patches <= 4
    assert (learned.per_step or 0) <= 2.0


def test_a_greedy_policy_does_no_more_harm_than_rising_at_the_bound() -> None:
    """The shield bounds the harm, whatever is proposed."""
    greedy, riser = (run(Cell(name, "steady")).steady for name in ("greedy", "riser"))
    assert greedy is not None
    assert riser is not None
    assert greedy.violation_seconds <= riser.violation_seconds + 2


def summary(contender: str, violation: float, goodput: float) -> Summary:
    """The summary of one contender."""
    return Summary(
        contender=contender,
        violation=violation,
        violation_mean=violation,
        violation_most=violation,
        goodput=goodput,
        per_step=None,
        worst="step",
        worst_violation=0.0,
        worst_goodput=0.0,
        least="step",
        least_goodput=0.0,
        learning_violation=0.0,
        patches=0.0,
    )


def test_the_command_writes_the_same_file_for_the_same_seeds(tmp_path: Path) -> None:
    """Every run, bound, summary and goal: bit for bit, in processes that hash texts differently.  Times are apart."""
    printed = []
    for salt in ("1", "2"):
        chosen = [
            "bench",
            "policies",
            "--policy",
            "learned",
            "--policy",
            "static 20 %",
            "--scenario",
            "demo",
            "--seeds",
            "2",
        ]
        done = subprocess.run(
            [sys.executable, "-c", "from services.cli import main; main()", *chosen, "--json", str(tmp_path / salt)],
            env=os.environ | {"PYTHONHASHSEED": salt},
            capture_output=True,
            check=True,
            text=True,
        )
        printed.append(done.stdout.partition("A step on this machine"))
    assert "Goals of learned" in printed[0][0]
    assert printed[0][:2] == printed[1][:2]
    assert "time of a proposal" in printed[0][2]
    files = [(tmp_path / salt).read_text(encoding="utf-8") for salt in ("1", "2")]
    assert files[0].partition('"speed"')[:2] == files[1].partition('"speed"')[:2]
    results = json.loads(files[0])
    assert set(results["speed"]).isdisjoint(results["goals"])
    assert [one["contender"] for one in results["summary"]] == ["learned", "static 20 %"]
    assert len(results["runs"]) == 4
    assert results["goals"]["policies as safe that deliver more"]["met"]


def test_other_seeds_give_other_figures() -> None:
    """The figures depend on chance, not on the plant alone."""
    assert run(Cell("learned", "demo", 3)).steady != run(Cell("learned", "demo", 4)).steady


def test_another_pace_changes_all_times() -> None:
    """It has another length, and all events have other times."""
    cell = Cell("static 20 %", "demo")
    usual, faster = run(cell).steady, run(cell, pace=1.5).steady
    assert usual is not None
    assert faster is not None
    assert (usual.seconds, faster.seconds) == (74, 49)


def test_who_dominates() -> None:
    """A policy dominates if it is at least as safe and delivers at least as much, and is better in one of them."""
    mine = summary("learned", 0.001, 0.9)
    others = [
        summary("safer", 0.0, 0.5), summary("greedier", 0.02, 0.95), summary("same", 0.001, 0.9),
        summary("better", 0.001, 0.91),
    ]  # fmt: skip
    assert dominating_contenders(mine, [mine, *others]) == ["better"]


def test_the_picture_is_the_same_for_the_same_figures(tmp_path: Path) -> None:
    """It is the same byte for byte, so that it can be committed."""
    lines = [summary("learned", 0.001, 0.9), summary("aimd", 0.02, 0.7)]
    for name in ("one.svg", "other.svg"):
        draw(lines, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    assert "learned" in (tmp_path / "one.svg").read_text(encoding="utf-8")
