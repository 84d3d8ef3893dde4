"""The tables of ``sluice bench policies`` and ``sluice bench factory``, and the JSON form that they share."""

from collections.abc import Sequence

import msgspec
from rich import box
from rich.table import Table

from services.bench.goals import Goal, goals_as_json
from services.bench.policies.results import USUAL_PERIOD, Outcome, ScenarioSummary, Summary

RIVALS = "rivals"
"""The column of ``cases_table`` for policies that are as safe as the subject and deliver more."""


def scenarios_table(lines: Sequence[ScenarioSummary]) -> Table:
    """One row for each contender, scenario and signal."""
    table = new_table(
        ("policy", "scenario", "runs", "bad", "goodput", "s/step", "learn", "patch", "react", "out"),
        "After the learning time, but for learn; bad: share of the seconds; patch: patches a minute and pod; "
        "react: P95, seconds; out: seconds left out",
    )
    table.title, table.title_justify = "Real packets: medians over runs, and from worst to best", "left"
    for one in lines:
        several = one.runs > 1
        table.add_row(
            one.contender,
            one.scenario + ("" if one.period == USUAL_PERIOD else f", {one.period:g} s"),
            f"{one.runs}" + (f" (-{one.left_out})" if one.left_out else ""),
            f"{one.violation:.2%}" + (f"\nto {one.worst_violation:.2%}" if several else ""),
            f"{one.goodput:.1%}" + (f"\n{one.goodput_from:.0%}-{one.goodput_to:.0%}" if several else ""),
            "-" if one.per_step is None else f"{one.per_step:.2f}",
            "-" if one.learning_violation is None else f"{one.learning_violation:.1%}",
            f"{one.patches:.1f}",
            "-" if one.reaction is None else f"{one.reaction:.2f}",
            f"{one.invalid}",
        )
    return table


def summaries_table(summaries: Sequence[Summary]) -> Table:
    """One row for each contender."""
    table = new_table(
        ("policy", "violated", "worst", "goodput", "s/step", "most violated", "learn"),
        "after learning; medians over seeds (worst: the worst seed), means over scenarios",
    )
    for one in summaries:
        table.add_row(
            one.contender,
            f"{one.violation:.2%}",
            f"{one.violation_most:.1%}",
            f"{one.goodput:.1%}",
            "-" if one.per_step is None else f"{one.per_step:.1f}",
            f"{one.worst} {one.worst_violation:.1%}" if one.worst_violation else "none",
            f"{one.learning_violation:.1%}",
        )
    return table


def new_table(headings: Sequence[str], caption: str) -> Table:
    """An empty table with these headings: names to the left, figures to the right."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=caption, caption_justify="left")
    for heading in headings:
        is_name = heading in ("policy", "scenario", "case", "most violated", RIVALS)
        # Names are what a narrow terminal wraps.
        table.add_column(heading, justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")
    return table


def encode_results(
    outcomes: Sequence[Outcome],
    summary: Sequence[ScenarioSummary | Summary],
    goals: Sequence[Goal],
    conditions: object = None,
    cases: Sequence[ScenarioSummary] = (),
    speeds: Sequence[Goal] = (),
) -> bytes:
    """The JSON of a bench of policies: conditions of the plant, every run, what they sum up to, and the goals.

    What depends on the machine's speed is apart from them, last and on its own.
    """
    file: dict[str, object] = {"conditions": conditions, "runs": outcomes, "summary": summary}
    if cases:
        file["cases"] = cases
    file["goals"] = goals_as_json(goals)
    if speeds:
        file["speed"] = goals_as_json(speeds)
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"
