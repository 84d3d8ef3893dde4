"""The bench of the policies: its figures repeat, and its claims hold on a short run."""

import json
from pathlib import Path

from click.testing import CliRunner

from services.bench.policies.candidates import CONTENDERS
from services.bench.policies.simulated import command, draw, run
from services.bench.policies.simulated_goals import dominating
from services.bench.policies.simulated_results import Summary, summed_up
from services.control.policies import POLICIES


def test_every_policy_takes_part() -> None:
    """None is left out of the comparison."""
    assert {one.policy for one in CONTENDERS} >= set(POLICIES)


def test_the_same_seed_gives_the_same_figures() -> None:
    """Bit for bit."""
    job = ("learned", "demo", 3)
    assert run(job) == run(job)


def test_learned_is_safe_and_uses_the_bandwidth() -> None:
    """On the steady and the stepping factory: hardly a bad second, and more goodput than any baseline."""
    learned = summed_up([run(("learned", name, 0)) for name in ("steady", "step")])[0]
    other = summed_up([run(("proportional", name, 0)) for name in ("steady", "step")])[0]
    assert learned.violation <= 0.005
    assert learned.goodput > 0.9 > other.goodput
    assert learned.patches_per_minute <= 4
    assert (learned.per_step or 0) <= 2.0


def test_a_learner_that_wants_everything_does_no_more_harm_than_rising_at_the_bound() -> None:
    """The shield bounds the harm, whatever is proposed."""
    greedy, riser = (run((name, "steady", 0)) for name in ("greedy", "riser"))
    assert greedy.violation_seconds <= riser.violation_seconds + 2


def summary(contender: str, violation: float, goodput: float) -> Summary:
    """One contender's line."""
    return Summary(contender, violation, violation, violation, goodput, None, "step", 0.0, 0.0, "step", 0.0, 0.0, 0.0)


def test_the_command_writes_the_same_file_for_the_same_seeds(tmp_path: Path) -> None:
    """Every run, a summary for each contender and the goals: bit for bit."""
    files = [tmp_path / "one.json", tmp_path / "other.json"]
    chosen = ["--policy", "learned", "--policy", "static 20 %", "--scenario", "demo", "--seeds", "2", "--no-speed"]
    for path in files:
        result = CliRunner().invoke(command, [*chosen, "--json", str(path)])
        assert result.exit_code == 0, result.output
    assert "goals of learned" in result.output
    assert files[0].read_bytes() == files[1].read_bytes()
    told = json.loads(files[0].read_text(encoding="utf-8"))
    assert [one["contender"] for one in told["summary"]] == ["learned", "static 20 %"]
    assert len(told["runs"]) == 4
    assert {goal["name"]: goal["met"] for goal in told["goals"]}["nobody is as safe and delivers more"]


def test_other_seeds_give_other_figures() -> None:
    """So that the same figures do not come from a plant without chance."""
    assert run(("learned", "demo", 3)).goodput != run(("learned", "demo", 4)).goodput


def test_another_pace_is_another_course() -> None:
    """Of another length, with everything at other moments."""
    usual, faster = run(("static 20 %", "demo", 0)), run(("static 20 %", "demo", 0), pace=1.5)
    assert (usual.seconds, faster.seconds) == (74, 49)


def test_who_dominates() -> None:
    """At least as safe and as much, and better in one; to trade one for the other is not to dominate."""
    mine = summary("learned", 0.001, 0.9)
    others = [
        summary("safer", 0.0, 0.5), summary("greedier", 0.02, 0.95), summary("same", 0.001, 0.9),
        summary("better", 0.001, 0.91),
    ]  # fmt: skip
    assert dominating(mine, [mine, *others]) == ["better"]


def test_the_picture_is_the_same_for_the_same_figures(tmp_path: Path) -> None:
    """Byte for byte, so that it can be kept beside the text."""
    lines = [summary("learned", 0.001, 0.9), summary("aimd", 0.02, 0.7)]
    for name in ("one.svg", "other.svg"):
        draw(lines, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    assert "learned" in (tmp_path / "one.svg").read_text(encoding="utf-8")


def test_speed_is_told() -> None:
    """Three figures, whatever this machine makes of them."""
    result = CliRunner().invoke(command, ["--policy", "static 20 %", "--scenario", "demo", "--seeds", "1"])
    assert result.exit_code == 0, result.output
    assert "time of a proposal" in result.output
