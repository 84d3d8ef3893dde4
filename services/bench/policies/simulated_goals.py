"""What ``sluice bench policies`` holds ``learned`` to: each goal, what was seen, and whether it was met."""

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from msgspec import Struct
from rich import box
from rich.table import Table

from services.bench.policies.simulated_results import Result, Summary

JUDGED = "learned"
_PERIOD = 0.5
"""Seconds from one sample to the next in this bench."""
_DRAIN = 0.27
"""Seconds in which 100 ms of queue are gone after a halving cut: 0.1 C / (C - offered), 63 % of C offered."""


class Goal(Struct, frozen=True):
    """One line of the table."""

    name: str
    goal: str
    seen: str
    met: bool


def judged(results: Sequence[Result], summaries: Sequence[Summary]) -> list[Goal]:
    """Every goal that these runs say something about."""
    own = [one for one in results if one.contender == JUDGED]
    mine = next((one for one in summaries if one.contender == JUDGED), None)
    if mine is None:
        return []
    return [*_of_scenarios(own), *_of_suite(mine), *_of_others(mine, summaries)]


def dominating(mine: Summary, summaries: Sequence[Summary]) -> list[str]:
    """Who is at least as safe and delivers at least as much over all scenarios, and is better in one of the two."""
    return [
        one.contender
        for one in summaries
        if one.contender != mine.contender
        and one.violation <= mine.violation
        and one.goodput >= mine.goodput
        and (one.violation, one.goodput) != (mine.violation, mine.goodput)
    ]


def table(goals: Sequence[Goal]) -> Table:
    """The goals for people."""
    lines = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=f"goals of {JUDGED}")
    for heading in ("what", "goal", "seen", "met"):
        lines.add_column(heading)
    for one in goals:
        lines.add_row(one.name, one.goal, one.seen, "yes" if one.met else "NO")
    return lines


def _of_scenarios(own: Sequence[Result]) -> Iterator[Goal]:
    for name in ("steady", "demo"):
        runs = [one for one in own if one.scenario == name]
        if runs and name == "steady":
            bad, patches = _middle(runs, _violation), _middle(runs, lambda one: one.patches_per_minute)
            yield Goal("steady: SLO violation", "<= 0.5%", f"{bad:.2%}", bad <= 0.005)
            yield _goodput("steady: goodput of the oracle", runs, 0.95)
            yield Goal("steady: patches a minute and pod", "<= 4", f"{patches:.1f}", patches <= 4)
        elif runs:
            yield _goodput("demo: goodput of the switching oracle", runs, 0.88)
    steps = _worst([one for one in own if one.steps], lambda one: one.step_violation_seconds / one.steps)
    if steps is not None:
        name, seconds = steps
        yield Goal("bad seconds an unpredicted step", "<= 2", f"{seconds:.1f} ({name})", seconds <= 2)
    slowest = _worst([one for one in own if one.reaction is not None], lambda one: one.reaction or 0.0)
    if slowest is not None:
        name, seconds = slowest
        most = 2 * _PERIOD + _DRAIN
        yield Goal("crossing to safe limit, P95", f"<= {most:.2f} s", f"{seconds:.2f} s ({name})", seconds <= most)


def _goodput(name: str, runs: Sequence[Result], least: float) -> Goal:
    seen = _middle(runs, lambda one: one.goodput)
    return Goal(name, f">= {least:.0%}", f"{seen:.1%}", seen >= least)


def _of_suite(mine: Summary) -> Iterator[Goal]:
    where = f"{mine.worst} {mine.worst_violation:.2%}, " if mine.worst_violation else ""
    seen = f"{mine.violation:.2%} ({where}mean of seeds {mine.violation_mean:.2%})"
    yield Goal("all: violation outside steps", "<= 0.1%", seen, mine.violation <= 0.001)
    least = f"{mine.least} {mine.least_goodput:.0%}"
    yield Goal("all: goodput of the oracle", ">= 75%", f"{mine.goodput:.1%} ({least})", mine.goodput >= 0.75)


def _of_others(mine: Summary, summaries: Sequence[Summary]) -> Iterator[Goal]:
    if len(summaries) > 1:
        better = dominating(mine, summaries)
        yield Goal("nobody is as safe and delivers more", "nobody", ", ".join(better) or "nobody", not better)
    by_name = {one.contender: one.violation for one in summaries}
    if {"greedy", "riser"} <= by_name.keys():
        greedy, riser = by_name["greedy"], by_name["riser"]
        yield Goal("greedy: no worse than rising at the bound", f"<= {riser:.2%}", f"{greedy:.2%}", greedy <= riser)


def _violation(one: Result) -> float:
    return one.violation_seconds / max(one.seconds, 1)


def _middle(runs: Sequence[Result], figure: Callable[[Result], float]) -> float:
    return median(figure(one) for one in runs)


def _worst(runs: Sequence[Result], figure: Callable[[Result], float]) -> tuple[str, float] | None:
    """The scenario with the largest median."""
    names = dict.fromkeys(one.scenario for one in runs)
    found = [(name, _middle([one for one in runs if one.scenario == name], figure)) for name in names]
    return max(found, key=lambda pair: pair[1], default=None)
