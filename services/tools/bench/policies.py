"""``sluice bench policies``: every policy on every scenario of the simulated plant, judged by ground truth.

Hours of the plant in minutes, bit for bit the same for the same seeds.  Learning and steady state are
judged apart, and bad seconds right after an unpredicted step apart from all others: no loop can act
before it has seen something.
"""

import json
from collections.abc import Sequence
from multiprocessing import Pool
from pathlib import Path
from statistics import mean, median

import click
import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from services.control import Controller
from services.factory.closedloop import play
from services.factory.scenario import SCENARIOS
from services.tools.bench.contenders import CONTENDERS, policy_of

BY_NAME = {one.name: one for one in CONTENDERS}


class Result(Struct, frozen=True):
    """One run."""

    contender: str
    scenario: str
    seed: int
    seconds: int
    """Judged: after the learning time."""
    violation_seconds: int
    """Bad seconds among them, but for those right after unpredicted steps."""
    steps: int
    step_violation_seconds: int
    goodput: float
    """Share of the oracle's."""
    learning_seconds: int
    learning_violation_seconds: int
    patches_per_minute: float
    reaction: float | None
    """From a true crossing to a safe limit in force: P95, seconds."""


class Summary(Struct, frozen=True):
    """One contender over all runs; medians over seeds, means over scenarios."""

    contender: str
    violation: float
    """Share of the judged seconds."""
    goodput: float
    per_step: float | None
    """Bad seconds for each unpredicted step."""
    worst: str
    """The scenario with the most violations, or else the least goodput."""
    worst_violation: float
    worst_goodput: float
    learning_violation: float
    patches_per_minute: float
    """In the steady scenario."""


def run(job: tuple[str, str, int]) -> Result:
    """Play one contender on one scenario with one seed."""
    name, scenario_name, seed = job
    contender, scenario = BY_NAME[name], SCENARIOS[scenario_name]
    domain = scenario.domain()
    controller = Controller(domain, policy_of(contender, scenario))
    played = play(scenario, domain, controller, delays=contender.delays, seed=seed)
    whole, steady = played.score(), played.score(scenario.learning)
    return Result(
        name, scenario_name, seed, steady.seconds, steady.violation_seconds - steady.step_violation_seconds,
        steady.steps, steady.step_violation_seconds, round(steady.share, 6), whole.seconds - steady.seconds,
        whole.violation_seconds - steady.violation_seconds, round(60 * steady.patches / max(steady.seconds, 1), 3),
        None if steady.reaction is None else round(steady.reaction.p95, 6),
    )  # fmt: skip


def summed_up(results: Sequence[Result]) -> list[Summary]:
    """One line for each contender, in the order of the results."""
    return [
        _summary([one for one in results if one.contender == name])
        for name in dict.fromkeys(one.contender for one in results)
    ]


def _summary(runs: Sequence[Result]) -> Summary:
    violation, goodput = {}, {}
    for name in dict.fromkeys(one.scenario for one in runs):
        seeds = [one for one in runs if one.scenario == name]
        violation[name] = median(one.violation_seconds / max(one.seconds, 1) for one in seeds)
        goodput[name] = median(one.goodput for one in seeds)
    worst = max(violation, key=lambda name: (violation[name], -goodput[name]))
    steps, learning = sum(one.steps for one in runs), sum(one.learning_seconds for one in runs)
    steady = [one.patches_per_minute for one in runs if one.scenario == "steady"]
    return Summary(
        runs[0].contender, mean(violation.values()), mean(goodput.values()),
        sum(one.step_violation_seconds for one in runs) / steps if steps else None,
        worst, violation[worst], goodput[worst],
        sum(one.learning_violation_seconds for one in runs) / learning if learning else 0.0,
        median(steady) if steady else 0.0,
    )  # fmt: skip


def table(summaries: Sequence[Summary]) -> Table:
    """The result for people."""
    lines = Table(title="Policies on the simulated plant: steady state; medians over seeds, means over scenarios")
    for heading in ("policy", "violation", "goodput", "bad s a step", "worst scenario", "learning", "patches/min"):
        lines.add_column(heading, justify="left" if heading in ("policy", "worst scenario") else "right")
    for one in summaries:
        lines.add_row(
            one.contender,
            f"{one.violation:.2%}",
            f"{one.goodput:.1%}",
            "-" if one.per_step is None else f"{one.per_step:.1f}",
            f"{one.worst} ({one.worst_violation:.2%}, {one.worst_goodput:.0%})",
            f"{one.learning_violation:.2%}",
            f"{one.patches_per_minute:.1f}",
        )
    return lines


def draw(summaries: Sequence[Summary], path: Path) -> None:
    """The frontier: violation against goodput, one point for each contender."""
    import matplotlib as mpl  # noqa: PLC0415 - of the extra `report`; the table needs none of it

    mpl.use("svg" if path.suffix == ".svg" else "agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(8, 5))
    for one in summaries:
        learned = one.contender == "learned"
        axes.scatter(100 * one.goodput, 100 * one.violation, s=60, color="tab:green" if learned else "tab:gray")
        axes.annotate(one.contender, (100 * one.goodput, 100 * one.violation), (5, 5), textcoords="offset points")
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_xlabel("best-effort goodput, % of the oracle")
    axes.set_ylabel("SLO violation outside unpredicted steps, % of the time")
    axes.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


@click.command()
@click.option("--seeds", default=3, show_default=True, help="Runs of each policy on each scenario.")
@click.option("--scenario", "scenarios", multiple=True, type=click.Choice(list(SCENARIOS)), help="Only these.")
@click.option("--policy", "policies", multiple=True, type=click.Choice(list(BY_NAME)), help="Only these.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write every run and the summary there.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw violation against goodput there (svg, png).")
def command(
    seeds: int, scenarios: tuple[str, ...], policies: tuple[str, ...], json_path: Path | None, picture: Path | None
) -> None:
    """Compare all policies on the simulated plant."""
    jobs = [
        (policy, scenario, seed)
        for policy in policies or BY_NAME
        for scenario in scenarios or SCENARIOS
        for seed in range(seeds)
    ]
    with Pool(2) as pool:
        results = pool.map(run, jobs, chunksize=1)
    summaries = summed_up(results)
    Console().print(table(summaries))
    if json_path is not None:
        told = {"summary": msgspec.to_builtins(summaries), "runs": msgspec.to_builtins(results)}
        json_path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if picture is not None:
        draw(summaries, picture)
