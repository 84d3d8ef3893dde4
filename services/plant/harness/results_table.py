"""What the runs of a scenario came to: a table for people, JSON for programs.

The last station of demo and factory.  In the JSON, rates are kbit/s and durations seconds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from rich import box
from rich.table import Table

from services.plant.scenario import Scenario
from services.plant.score import Score, Spread


class Report(Struct, frozen=True):
    """All runs of one scenario."""

    scenario: str
    plant: str
    """``simulated`` or ``real``."""
    seconds: float
    """How long the scenario is."""
    runs: dict[str, Score]
    """By what controlled them."""

    def as_json(self) -> dict[str, Any]:
        """Named keys; ``violation`` and ``share`` are added to each run's own."""
        tree: dict[str, Any] = msgspec.to_builtins(self)
        for title, run in self.runs.items():
            tree["runs"][title] |= {"violation": round(run.violation, 4), "share": round(run.share, 4)}
        return tree

    def write(self, path: Path) -> None:
        """Write the JSON.

        Raises:
            OSError: the file cannot be written.
        """
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self.as_json()), indent=2) + b"\n")


def table(report: Report, scenario: Scenario) -> Table:
    """One column a run; with three of them it fits a terminal of 80 columns."""
    title = f"{scenario.name}: {scenario.text}"
    shown = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("", no_wrap=True)
    for title in report.runs:
        shown.add_column(title, justify="right", overflow="fold")
    for name, row in _rows(report.runs).items():
        shown.add_row(name, *row)
    return shown


def _rows(runs: Mapping[str, Score]) -> dict[str, list[str]]:
    scores = list(runs.values())
    rows = {
        "seconds with an SLO broken": [f"{one.violation_seconds} of {one.seconds}" for one in scores],
        "  of all": [f"{one.violation:.1%}" for one in scores],
    }
    if any(one.steps for one in scores):
        rows["  right after a surprise"] = [f"{one.step_violation_seconds}" for one in scores]
    rows["best-effort goodput, Mbit/s"] = [f"{one.goodput / 1000:.1f}" for one in scores]
    rows["  with the best safe limits"] = [f"{one.oracle / 1000:.1f}" for one in scores]
    rows["  as a share of that"] = [f"{one.share:.0%}" for one in scores]
    for workload in scores[0].critical_throughput if scores else ():
        name = workload.partition("/")[2]
        got = [_named(one.critical_throughput, name) for one in scores]
        rows[f"{name} got"] = [f"{share:.0%}" for share in got]
    rows["reaction, s: median/worst"] = [
        "-" if one.reaction is None else f"{one.reaction.p50:.2f}/{one.reaction.max:.2f}" for one in scores
    ]
    for part in ("sense", "decide", "act"):
        spreads: list[Spread | None] = [getattr(one, part) for one in scores]
        rows[f"  {part}, median"] = ["-" if spread is None else f"{spread.p50:.2f}" for spread in spreads]
    rows["patches of a pod"] = [str(one.patches) for one in scores]
    rows["pod restarts"] = [str(one.restarts) for one in scores]
    rows["seconds left out (disturbed)"] = [str(one.invalid_windows) for one in scores]
    return rows


def _named(shares: Mapping[str, float], name: str) -> float:
    """A workload's share, in whichever namespace the run has it."""
    return next(share for workload, share in shares.items() if workload.partition("/")[2] == name)
