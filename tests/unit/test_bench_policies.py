"""The bench of the policies: its figures repeat, and its claims hold on a short run."""

import json
from pathlib import Path

from click.testing import CliRunner

from services.control.policies import POLICIES
from services.tools.bench.contenders import CONTENDERS
from services.tools.bench.policies import command, run, summed_up


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


def test_the_command_writes_table_and_json(tmp_path: Path) -> None:
    """Every run and a summary line for each contender."""
    path = tmp_path / "out.json"
    chosen = ["--policy", "learned", "--scenario", "demo", "--seeds", "1", "--json", str(path)]
    result = CliRunner().invoke(command, chosen)
    assert result.exit_code == 0, result.output
    assert "learned" in result.output
    told = json.loads(path.read_text(encoding="utf-8"))
    assert [one["contender"] for one in told["summary"]] == ["learned"]
    assert len(told["runs"]) == 1
