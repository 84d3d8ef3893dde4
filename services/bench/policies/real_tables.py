"""The tables of ``sluice bench factory``."""

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from services.bench.policies.real_results import USUAL, Goal, Line

_HEADINGS = ("policy", "scenario", "runs", "bad", "goodput", "s/step", "learn", "patch", "react", "out")
_WIDTHS = {"policy": 12, "scenario": 8}


def table(lines: Sequence[Line]) -> Table:
    """One row for each contender, scenario and signal."""
    shown = Table(title="Real packets: medians over runs, and from worst to best", title_justify="left", box=SIMPLE)
    shown.padding, shown.pad_edge = (0, 1, 0, 0), False
    for heading in _HEADINGS:
        names = heading in ("policy", "scenario")
        shown.add_column(
            heading, justify="left" if names else "right", no_wrap=not names, min_width=_WIDTHS.get(heading)
        )
    for one in lines:
        several = one.runs > 1
        shown.add_row(
            one.contender,
            one.scenario + ("" if one.period == USUAL else f", {one.period:g} s"),
            f"{one.runs}" + (f" (-{one.left_out})" if one.left_out else ""),
            f"{one.violation:.2%}" + (f"\nto {one.worst_violation:.2%}" if several else ""),
            f"{one.goodput:.1%}" + (f"\n{one.goodput_from:.0%}-{one.goodput_to:.0%}" if several else ""),
            "-" if one.per_step is None else f"{one.per_step:.2f}",
            "-" if one.learning_violation is None else f"{one.learning_violation:.1%}",
            f"{one.patches:.1f}",
            "-" if one.reaction is None else f"{one.reaction:.2f}",
            f"{one.invalid}",
        )
    shown.caption = (
        "After the learning time, but for learn; bad: share of the seconds; patch: patches a minute and pod; "
        "react: P95, seconds; out: seconds left out"
    )
    shown.caption_justify = "left"
    return shown


def goals_table(goals: Sequence[Goal]) -> Table:
    """One row a goal."""
    shown = Table(title="Goals of learned", title_justify="left", box=SIMPLE)
    for heading in ("goal", "bound", "seen", "runs", "met"):
        shown.add_column(heading, justify="left" if heading == "goal" else "right")
    for goal in goals:
        sign = ">=" if goal.at_least else "<="
        bound = f"{sign} {_figure(goal.bound, goal.unit)}" if goal.runs else "-"
        seen = "not played" if not goal.runs else "-" if goal.seen is None else _figure(goal.seen, goal.unit)
        shown.add_row(goal.name, bound, seen, str(goal.runs), {None: "-", True: "yes", False: "NO"}[goal.met])
    return shown


def _figure(value: float, unit: str) -> str:
    if unit == "%":
        return f"{value:.2%}" if value < 0.1 else f"{value:.1%}"
    return f"{value:.2f} {unit}".rstrip()
