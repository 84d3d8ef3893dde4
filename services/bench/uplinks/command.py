"""``sluice bench uplinks``: what a limit per node is worth where uplinks differ."""

import sys
import tempfile
from pathlib import Path

import click
import msgspec

from services.bench.goals import show
from services.bench.uplinks.real import EVEN, PER_NODE, RealOptions
from services.bench.uplinks.setting import LEARNING_S, build_uplinks
from services.bench.uplinks.simulated import play_even, play_per_node
from services.plant.commands.factory import run_in_namespaces
from services.plant.real.namespaces import find_missing
from services.plant.real.plant import TRAFFIC
from services.plant.score import Score
from services.runtime.exit_codes import ExitCode
from services.runtime.option_types import FiguresFile, FiniteRange
from services.runtime.policy_option import PolicyName

Results = dict[str, dict[str, Score]]
"""Scores by way and node."""


def play_simulated(policy: str, seconds: float, *, surprise: bool, since: float = LEARNING_S) -> Results:
    """Play both ways on the model."""
    uplinks = build_uplinks(seconds, surprise=surprise)
    per_node, _ = play_per_node(uplinks, policy, since)
    return {PER_NODE: per_node, EVEN: play_even(uplinks, policy, since)}


def play_real(options: RealOptions) -> Results:
    """Play both ways on real packets, in namespaces of their own.

    Raises:
        ClickException: a part did not start, or ended early.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        words = [sys.executable, "-m", "services.bench.uplinks.real", msgspec.json.encode(options).decode(), file.name]
        code = run_in_namespaces(words)
        if code:
            raise click.ClickException(f"the run on real packets ended with exit code {code}")
        return msgspec.json.decode(Path(file.name).read_bytes(), type=Results)


def collect_figures(results: Results) -> tuple[dict[str, float], dict[str, str]]:
    """Each node's goodput beside its own oracle's, and its bad seconds that no surprise explains; and their bounds."""
    figures: dict[str, float] = {}
    bounds: dict[str, str] = {}
    for way, scores in results.items():
        for node, score in scores.items():
            own = score.violation_seconds - score.step_violation_seconds
            share, violation = f"{way}, {node}: share of its oracle", f"{way}, {node}: violation"
            figures |= {
                share: score.share,
                violation: own / score.seconds if score.seconds else 1.0,
                f"{way}, {node}: bad seconds right after a surprise": float(score.step_violation_seconds),
                f"{way}, {node}: goodput, Mbit/s": score.goodput / 1000,
                f"{way}, {node}: seconds judged": float(score.seconds),
            }
            # An even share is there to compare with; its shares are shown in per cent, too.
            bounds |= {share: ">= 93 %", violation: "<= 0.5 %"} if way == PER_NODE else {share: ">= 0 %"}
    return figures, bounds


@click.command()
@click.option("--real", is_flag=True, help="On real packets, with the whole pipeline (needs root).")
@click.option("--policy", type=PolicyName(), default="learned", show_default=True, help="In control.")
@click.option("--seconds", type=FiniteRange(70, 3600), default=240.0, show_default=True, help="Of the scenario.")
@click.option("--surprise", is_flag=True, help="Both scanners' loads double without warning at half of the time.")
@click.option("--json", "path", type=FiguresFile(), help="Add the figures to this file.")
def command(path: Path | None, policy: str, seconds: float, *, real: bool, surprise: bool) -> None:
    """Control two nodes with different uplinks: a limit per node, and an even share beside it.

    Exit code 1: a part on real packets did not start.
    """
    if real:
        missing = find_missing(TRAFFIC)
        if missing:
            click.echo(f"sluice bench uplinks --real cannot run here: it needs {', '.join(missing)}", err=True)
            sys.exit(ExitCode.USAGE)
        results = play_real(RealOptions(policy=policy, seconds=seconds, surprise=surprise))
    else:
        results = play_simulated(policy, seconds, surprise=surprise)
    plant = "on real packets" if real else "simulated"
    show(f"uplinks {plant}", *collect_figures(results), path)
