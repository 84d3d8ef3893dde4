"""Figures beside their goals: the table and the JSON file of a bench."""

import json
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_COMPARED: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
}


def met(seen: float, goal: str) -> bool | None:
    """Whether a figure meets a goal such as ``>= 2,000 a core``; None without a goal."""
    if not goal:
        return None
    how, number, *_ = goal.split()
    return _COMPARED[how](seen, float(number.replace(",", "")))


def show(bench: str, figures: Mapping[str, float], goals: Mapping[str, str], path: Path | None) -> None:
    """Print a bench's figures, goals and whether they are met, and add them to a JSON file.

    Args:
        bench: its name, under which the file holds its figures beside those of other benches.
        figures: by name.
        goals: by the same names, for those that have one.
        path: of the file; None for none.
    """
    rows = {name: (seen, goals.get(name, "")) for name, seen in figures.items()}
    table = Table("figure", "seen", "goal", "met", title=bench, title_justify="left")
    for name, (seen, goal) in rows.items():
        verdict = {None: "", True: "yes", False: "[bold red]no"}[met(seen, goal)]
        table.add_row(name, f"{seen:,.2f}" if abs(seen) < 1000 else f"{seen:,.0f}", goal, verdict)
    Console().print(table)
    if path is not None:
        whole: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        whole[bench] = {
            name: {"seen": seen, "goal": goal, "met": met(seen, goal)} for name, (seen, goal) in rows.items()
        }
        path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
