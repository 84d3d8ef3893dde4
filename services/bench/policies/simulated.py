"""``sluice bench policies``: every policy on every scenario of the simulated plant, judged by ground truth.

Hours of the plant in minutes, bit for bit the same for the same seeds.  Learning and steady state are
judged apart, and bad seconds right after an unpredicted step apart from all others: no loop can act
before it has seen something.
"""

from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from services.bench.bound.search import INFORMED, PROBING, SAFE, margins, play_setting, search
from services.bench.goals import goals_table
from services.bench.policies.candidates import CANDIDATES, Candidate, controller_of
from services.bench.policies.case import HELD_OUT
from services.bench.policies.case_tables import cases_table, traces_table
from services.bench.policies.catalogue import CASES, add_traces
from services.bench.policies.learned_goals import judge_simulated
from services.bench.policies.learned_step import measure_step
from services.bench.policies.results import (
    SUBJECT,
    Cell,
    Outcome,
    Summary,
    judge,
    summarize_contenders,
    summarize_scenarios,
)
from services.bench.policies.tables import encode_results, summaries_table
from services.control.policies import find_policy
from services.plant.simulated.closed_loop import Run, play
from services.plant.simulated.signal_profiles import PROFILES, SHIPPED
from services.plant.traces import TraceError
from services.runtime.option_types import FiniteRange, ResultFile

T = TypeVar("T")
R = TypeVar("R")

BY_NAME = {one.name: one for one in CANDIDATES}


def find_candidate(name: str) -> Candidate:
    """A contender of the bench, or any policy with its defaults.

    Raises:
        ValueError: there is neither.
    """
    if name not in BY_NAME:
        find_policy(name)
    return BY_NAME.get(name) or Candidate(name, name)


def run(cell: Cell, pace: float = 1.0, signals: str = SHIPPED) -> Outcome:
    """Play one run, ``pace`` times as fast as in the scenario, by signals of a profile."""
    contender = find_candidate(cell.contender)
    prepared = CASES[cell.scenario].prepare(cell.seed, pace)
    controller = controller_of(contender, prepared)
    played = play(
        prepared.scenario,
        controller.domain,
        controller,
        delays=contender.delays(prepared, signals),
        seed=cell.seed,
        parameters=prepared.parameters,
    )
    return judge_played(cell, played)


def judge_played(cell: Cell, played: Run) -> Outcome:
    """Judge a run on the simulated plant."""
    scenario = played.scenario
    edge = played.started + round(scenario.learning * 10**9)
    reactions = (one for one in played.reactions if one.crossed >= edge)
    pods = sum(target.replicas for target in scenario.apps.targets)
    return judge(cell, scenario, (played.score(), played.score(scenario.learning)), pods, reactions)


def find_bound(task: tuple[str, str, tuple[int, ...]], pace: float = 1.0, signals: str = SHIPPED) -> list[Outcome]:
    """One kind of bound on one case: its setting is searched for on the first seed, and played on all of them.

    Args:
        task: kind of bound, case and seeds.
        pace: of the scenario.
        signals: the profile, as the contenders have it, but without errors of measurement.
    """
    kind, name, seeds = task
    prepared = CASES[name].prepare(seeds[0], pace)
    delays = prepared.exact_delays(signals)
    outcomes: list[Outcome] = []
    for setting in margins(search(kind, prepared, delays)):
        outcome = judge_played(Cell(kind, name, seeds[0]), play_setting(kind, setting, prepared, delays, seeds[0]))
        outcomes.append(outcome)
        if outcome.steady is None or outcome.steady.own_violation <= SAFE:
            break
    for seed in seeds[1:]:
        prepared = CASES[name].prepare(seed, pace)
        outcome = judge_played(Cell(kind, name, seed), play_setting(kind, setting, prepared, delays, seed))
        outcomes.append(outcome)
    return outcomes[-len(seeds) :]


def find_bounds(cells: Sequence[Cell], pace: float, signals: str, traces: Path | None) -> list[Outcome]:
    """Both kinds of bound on every case that is played.  A scraped signal is too slow to probe by."""
    seeds: dict[str, dict[int, None]] = {}
    for cell in cells:
        seeds.setdefault(cell.scenario, {})[cell.seed] = None
    tasks = [
        (kind, name, tuple(each))
        for name, each in seeds.items()
        for kind in (INFORMED, PROBING)
        if kind == INFORMED or CASES[name].prepare(0).delays(signals).scrape is None
    ]
    found = track("bounds", partial(find_bound, pace=pace, signals=signals), tasks, traces)
    return [one for outcomes in found for one in outcomes]


def draw(summaries: Sequence[Summary], path: Path) -> None:
    """Draw violation against goodput, one point for each contender."""
    import matplotlib as mpl  # noqa: PLC0415 - of the extra `pictures`; the table needs none of it

    mpl.use("svg" if path.suffix == ".svg" else "agg")
    # The same figures give the same bytes.
    mpl.rcParams.update({"svg.hashsalt": "sluice", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(9, 5))
    shapes = "osD^v<>PXph8d"
    for number, one in enumerate(summaries):
        axes.scatter(
            100 * one.goodput,
            100 * one.violation,
            s=130 if one.contender == SUBJECT else 60,
            color="tab:green" if one.contender == SUBJECT else f"C{number % 10}",
            marker="*" if one.contender == SUBJECT else shapes[number % len(shapes)],
            label=one.contender,
            clip_on=False,
        )
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_ylim(bottom=0)
    axes.set_xlim(25, 100)
    axes.set_xlabel("best-effort goodput, % of the oracle")
    axes.set_ylabel("SLO violation outside unpredicted steps, % of the time")
    axes.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def plan(scenarios: Sequence[str], policies: Sequence[str], seeds: int | None, first: int) -> list[Cell]:
    """The runs of a bench: every contender on the shipped scenarios, rivals on all other cases.

    Args:
        scenarios: names of cases; empty: all of them.
        policies: names of contenders, each of which plays every case; empty: see above.
        seeds: runs of each; None: five on shipped scenarios, three on other cases, one on each trace.
        first: the first seed.
    """
    return [
        Cell(policy, name, seed)
        for policy in policies or BY_NAME
        for name in scenarios or CASES
        if policies or CASES[name].shipped or not BY_NAME[policy].reference
        for seed in range(first, first + (seeds or CASES[name].seeds))
    ]


def choose_cases(scenarios: Sequence[str], traces: Path | None, *, shipped: bool) -> list[str]:
    """The names of the cases that the options ask for; adds those of traces to ``CASES``.

    Raises:
        BadParameter: there is no such case, or a trace cannot be read.
    """
    try:
        recorded = add_traces(traces)
    except TraceError as error:
        raise click.BadParameter(str(error), param_hint="--traces") from None
    for name in scenarios:
        if name not in CASES:
            raise click.BadParameter(
                f"there is no case {name!r}; there are {', '.join(CASES)}", param_hint="--scenario"
            )
    if shipped:
        scenarios = [*scenarios, *(name for name, one in CASES.items() if one.shipped)]
    return [*scenarios, *recorded] or list(CASES)


def play_all(cells: Sequence[Cell], pace: float, signals: str, traces: Path | None = None) -> list[Outcome]:
    """Play runs, with the cases of a folder of traces."""
    return track("runs", partial(run, pace=pace, signals=signals), cells, traces)


def track(what: str, work: Callable[[T], R], items: Sequence[T], traces: Path | None) -> list[R]:
    """Do work on two processors; shows progress on a terminal."""
    text = TextColumn("{task.completed}/{task.total} " + what)
    with (
        Progress(text, BarColumn(), TimeRemainingColumn(), transient=True) as bar,
        Pool(2, add_traces, (traces,)) as pool,
    ):
        return list(bar.track(pool.imap(work, items, chunksize=1), total=len(items)))


@click.command()
@click.option(
    "--seeds",
    type=click.IntRange(1),
    help="Runs of each policy on each case; by default 5 if shipped, 1 on a trace, else 3.",
)
@click.option(
    "--first", type=click.IntRange(0), default=0, show_default=True, help="The first seed; the others follow."
)
@click.option("--held-out", is_flag=True, help=f"Play seeds from {HELD_OUT} on, each at a pace of its own.")
@click.option(
    "--pace",
    type=FiniteRange(0.1, 10),
    default=1.0,
    show_default=True,
    help="Play the scenarios so much faster, or slower below 1.",
)
@click.option(
    "--signals",
    type=click.Choice(list(PROFILES)),
    default=SHIPPED,
    show_default=True,
    help="What is measured; the default is what the shipped manifests give.",
)
@click.option(
    "--scenario", "scenarios", multiple=True, metavar="NAME", help="Only these cases; docs/control.md has them."
)
@click.option(
    "--traces",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Play the traces of links and loads in this folder, and only cases that --scenario names.",
)
@click.option("--shipped", is_flag=True, help="Only the eight scenarios that demo and factory play, too.")
@click.option(
    "--policy", "policies", multiple=True, metavar="NAME", help="Only these contenders or policies, or MODULE:CLASS."
)
@click.option("--bound/--no-bound", default=True, help="Also search for the best controller without foresight.")
@click.option("--speed/--no-speed", default=True, help="Also time a step on this machine.")
@click.option("--json", "json_path", type=ResultFile(), help="Write every run and the summary there.")
@click.option("--picture", type=ResultFile(), help="Draw violation against goodput there (svg, png).")
def command(  # noqa: PLR0913 - one for each option
    *,
    seeds: int | None,
    first: int,
    held_out: bool,
    pace: float,
    signals: str,
    scenarios: tuple[str, ...],
    traces: Path | None,
    shipped: bool,
    policies: tuple[str, ...],
    bound: bool,
    speed: bool,
    json_path: Path | None,
    picture: Path | None,
) -> None:
    """Compare all policies on the simulated plant.

    The same seeds give the same figures, bit for bit, but for those of speed: the last table, and `speed` in the
    JSON.  At another pace nothing
    falls where it usually does: a policy that was fitted to the scenarios fails there.
    """
    chosen = choose_cases(scenarios, traces, shipped=shipped)
    for name in policies:
        try:
            find_candidate(name)
        except ValueError as error:
            raise click.BadParameter(f"{error}; contenders are {', '.join(BY_NAME)}", param_hint="--policy") from None
    cells = plan(chosen, policies, seeds, HELD_OUT if held_out else first)
    runs = play_all(cells, pace, signals, traces)
    found = find_bounds(cells, pace, signals, traces) if bound else []
    bounds = summarize_scenarios(found)
    usual = [one for one in runs if CASES[one.cell.scenario].shipped]
    lines = summarize_scenarios(runs)
    summaries = summarize_contenders(usual or runs)
    goals = judge_simulated(usual, summaries)
    speeds = measure_step() if speed else []
    console = Console()
    console.print(cases_table(lines, bounds))
    if traces is not None:
        console.print(traces_table([one for one in lines if CASES[one.scenario].trace], bounds))
    usual_bounds = [one for one in found if CASES[one.cell.scenario].shipped]
    console.print(summaries_table([*summaries, *summarize_contenders(usual_bounds if usual else found)]))
    if goals:
        console.print(goals_table(f"Goals of {SUBJECT}", goals))
    if speeds:
        console.print(goals_table("A step on this machine", speeds))
    if json_path is not None:
        json_path.write_bytes(encode_results(runs, summaries, goals, cases=[*lines, *bounds], speeds=speeds))
    if picture is not None:
        draw(summaries, picture)
