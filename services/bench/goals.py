"""The figures of a bench beside their goals: one table and one JSON form for all benches."""

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table

from services.runtime.exit_codes import CommandFailure, ExitCode

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge, "<": operator.lt}


class Goal(Struct, frozen=True):
    """A figure, and the bound that it is held to."""

    name: str
    seen: float | None
    """A share of one where the bound is in per cent; None: not measured."""
    bound: str = ""
    """Such as ``>= 2,000 a core`` or ``<= 0.5 %``; empty: none."""
    note: str = ""
    """Where or how often it was seen."""

    @property
    def met(self) -> bool | None:
        """Whether the figure is within the bound; None where one of the two is missing."""
        if self.seen is None or not self.bound:
            return None
        comparison, number, *unit = self.bound.split()
        value = float(number.replace(",", ""))
        return _COMPARISONS[comparison](self.seen, value / 100 if unit[:1] == ["%"] else value)

    @property
    def text(self) -> str:
        """The figure as the table shows it."""
        if self.seen is None:
            return "not measured"
        if "%" in self.bound:
            return f"{self.seen:.2%}" if self.seen < 0.1 else f"{self.seen:.1%}"
        return f"{self.seen:,.2f}" if abs(self.seen) < 1000 else f"{self.seen:,.0f}"


def goals_table(title: str, goals: Sequence[Goal]) -> Table:
    """One row a goal."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("figure", "seen", "goal", "met"):
        table.add_column(heading, justify="right" if heading == "seen" else "left")
    for goal in goals:
        seen = f"{goal.text} ({goal.note})" if goal.note else goal.text
        table.add_row(goal.name, seen, goal.bound, {None: "", True: "yes", False: "[bold red]NO[/]"}[goal.met])
    return table


def goals_as_json(goals: Sequence[Goal]) -> dict[str, dict[str, object]]:
    """The goals by name, for a JSON file."""
    return {
        goal.name: {"seen": goal.seen, "goal": goal.bound, "met": goal.met, "note": goal.note or None} for goal in goals
    }


def show(bench: str, figures: Mapping[str, float], bounds: Mapping[str, str], path: Path | None) -> None:
    """Print a bench's figures, goals and whether they are met, and add them to a JSON file.

    Args:
        bench: its name, under which the file holds its figures beside those of other benches.
        figures: by name.
        bounds: by the same names, for those that have one.
        path: of the file; None for none.
    """
    goals = [Goal(name, seen, bounds.get(name, "")) for name, seen in figures.items()]
    Console().print(goals_table(bench, goals))
    if path is not None:
        add_to_file(bench, goals, path)


def add_to_file(bench: str, goals: Sequence[Goal], path: Path) -> None:
    """Add a bench's figures to a JSON file with those of others.

    Raises:
        CommandFailure: the file holds something else.
    """
    try:
        benches = json.loads(path.read_bytes() or b"{}") if path.exists() else {}
    except ValueError:
        benches = None
    if not isinstance(benches, dict):
        raise CommandFailure(f"{path}: not a file of figures; it is left as it is", ExitCode.UNREADABLE)
    benches[bench] = goals_as_json(goals)
    path.write_text(json.dumps(benches, indent=2) + "\n", encoding="utf-8")
