"""The goals that ``learned`` is held to, on the simulated plant and on real packets."""

from collections.abc import Callable, Sequence
from statistics import median

from services.bench.goals import Goal
from services.bench.policies.real_cases import EXTRA
from services.bench.policies.results import (
    SUBJECT,
    USUAL_PERIOD,
    Outcome,
    ScenarioSummary,
    Summary,
    summarize_scenarios,
)
from services.plant.score import spread

_FAST_PERIOD = 0.5
"""Under a signal with a longer period, seconds, a step may cost one more bad second."""
_SIMULATED_DRAIN = 0.27
"""Seconds in which 100 ms of queue are gone after a halving cut: 0.1 C / (C - offered), 63 % of C offered."""


def judge_real(lines: Sequence[ScenarioSummary]) -> list[Goal]:
    """Judge runs on real packets, steps by each signal's period.

    The goals of the default plan are included where they were not played; those of further scenarios are not.
    """
    mine = {(one.scenario, one.period): one for one in lines if one.contender == SUBJECT}
    steps = {period: line for (scenario, period), line in mine.items() if scenario == "step"}
    goals = _scenario_goals(mine.get(("steady", USUAL_PERIOD)), mine.get(("demo", USUAL_PERIOD)))
    for period in sorted({*steps, USUAL_PERIOD, 1.0}):
        step, signal = steps.get(period), f"{period * 1000:g} ms signal"
        bad = 2 if period <= _FAST_PERIOD else 3
        # Two periods, and the time in which the queue drains under a safe limit.
        late = 2 * period + (step.drain or 0.0 if step else 0.0)
        goals += [
            _goal(f"step, {signal}: bad seconds each", step, lambda line: line.per_step, f"<= {bad} s"),
            _goal(f"step, {signal}: reaction, P95", step, lambda line: line.reaction, f"<= {late:.2f} s"),
        ]
    for name in EXTRA:
        if (line := mine.get((name, USUAL_PERIOD))) is not None:
            goals += [
                _goal(f"{name}: SLO violation", line, lambda line: line.violation, "<= 0.5 %"),
                _goal(f"{name}: goodput of the oracle's", line, lambda line: line.goodput, ">= 92 %"),
            ]
    return goals


def judge_simulated(outcomes: Sequence[Outcome], summaries: Sequence[Summary]) -> list[Goal]:
    """Judge runs on the simulated plant; goals that were not played are left out."""
    own = [one for one in outcomes if one.cell.contender == SUBJECT]
    mine = next((one for one in summaries if one.contender == SUBJECT), None)
    if mine is None:
        return []
    lines = {one.scenario: one for one in summarize_scenarios(own)}
    goals = [one for one in _scenario_goals(lines.get("steady"), lines.get("demo")) if one.seen is not None]
    per_step = [(line.per_step, name) for name, line in lines.items() if line.per_step is not None]
    if per_step:
        goals.append(Goal("an unpredicted step: bad seconds", max(per_step)[0], "<= 2 s", max(per_step)[1]))
    late: dict[str, list[float]] = {}
    for one in own:
        if (reaction := spread(one.reactions)) is not None:
            late.setdefault(one.cell.scenario, []).append(reaction.p95)
    if late:
        seconds, name = max((median(each), name) for name, each in late.items())
        goals.append(Goal("reaction, P95", seconds, f"<= {2 * USUAL_PERIOD + _SIMULATED_DRAIN:.2f} s", name))
    where = f"{mine.worst} {mine.worst_violation:.2%}, " if mine.worst_violation else ""
    seeds = f"{where}mean of seeds {mine.violation_mean:.2%}"
    least = f"{mine.least} {mine.least_goodput:.0%}"
    goals += [
        Goal("all: SLO violation outside of steps", mine.violation, "<= 0.1 %", seeds),
        Goal("all: goodput of the oracle's", mine.goodput, ">= 75 %", least),
    ]
    if len(summaries) > 1:
        better = dominating_contenders(mine, summaries)
        goals.append(Goal("policies as safe that deliver more", len(better), "<= 0", ", ".join(better)))
    by_name = {one.contender: one.violation for one in summaries}
    if {"greedy", "riser"} <= by_name.keys():
        greedy, riser = by_name["greedy"], by_name["riser"]
        note = f"{greedy:.2%} and {riser:.2%}"
        goals.append(Goal("greedy: violation beyond that of rising at the bound", greedy - riser, "<= 0 %", note))
    return goals


def dominating_contenders(mine: Summary, summaries: Sequence[Summary]) -> list[str]:
    """Who is at least as safe and delivers at least as much over all scenarios, and is better in one of the two."""
    return [
        one.contender
        for one in summaries
        if one.contender != mine.contender
        and one.violation <= mine.violation
        and one.goodput >= mine.goodput
        and (one.violation, one.goodput) != (mine.violation, mine.goodput)
    ]


def _scenario_goals(steady: ScenarioSummary | None, demo: ScenarioSummary | None) -> list[Goal]:
    return [
        _goal("steady: SLO violation", steady, lambda line: line.violation, "<= 0.5 %"),
        _goal("steady: goodput of the oracle's", steady, lambda line: line.goodput, ">= 95 %"),
        _goal("steady: patches a minute and pod", steady, lambda line: line.patches, "<= 4"),
        _goal("demo: goodput of the switching oracle's", demo, lambda line: line.goodput, ">= 88 %"),
    ]


def _goal(name: str, line: ScenarioSummary | None, seen: Callable[[ScenarioSummary], float | None], bound: str) -> Goal:
    if line is None:
        return Goal(name, None, bound)
    return Goal(name, seen(line), bound, f"{line.runs} runs" if line.runs > 1 else "")
