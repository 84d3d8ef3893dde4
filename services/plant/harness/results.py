"""The results of a scenario's runs: a table for people, and JSON for programs.

In the JSON, rates are kbit/s and durations seconds.
"""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from rich import box
from rich.table import Table

from services.plant.scenario import Scenario
from services.plant.score import Score, Spread


class ScenarioResults(Struct, frozen=True):
    """The scores of all runs of one scenario."""

    scenario: str
    plant: str
    """``simulated`` or ``real``."""
    seconds: float
    """The scenario's length."""
    runs: dict[str, Score]
    """By the runs' titles."""

    def as_json(self) -> dict[str, Any]:
        """Return builtin types; each run also has its ``violation`` and ``share``."""
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


def build_table(results: ScenarioResults, scenario: Scenario) -> Table:
    """Build a table with a column for each run; three of them fit a terminal of 80 columns."""
    title = f"{scenario.name}: {scenario.text}"
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for title in results.runs:
        table.add_column(title, justify="right", overflow="fold")
    scores = list(results.runs.values())
    rows = {
        "seconds with an SLO broken": [f"{one.violation_seconds} of {one.seconds}" for one in scores],
        "  of all": [f"{one.violation:.1%}" for one in scores],
    }
    if any(one.steps for one in scores):
        rows["  right after a surprise"] = [f"{one.step_violation_seconds}" for one in scores]
    rows["best-effort goodput, Mbit/s"] = [f"{one.goodput / 1000:.1f}" for one in scores]
    rows["  with the best safe limits"] = [f"{one.oracle / 1000:.1f}" for one in scores]
    rows["  as a share of that"] = [f"{one.share:.0%}" for one in scores]
    # Each run has the same workloads, in the same order, in a namespace of its own.
    for number, workload in enumerate(scores[0].critical_throughput if scores else ()):
        name = workload.partition("/")[2]
        rows[f"{name} got"] = [f"{list(one.critical_throughput.values())[number]:.0%}" for one in scores]
    rows["reaction, s: median/worst"] = [
        "-" if one.reaction is None else f"{one.reaction.p50:.2f}/{one.reaction.max:.2f}" for one in scores
    ]
    for part in ("sense", "decide", "act"):
        spreads: list[Spread | None] = [getattr(one, part) for one in scores]
        rows[f"  {part}, median"] = ["-" if spread is None else f"{spread.p50:.2f}" for spread in spreads]
    rows["patches of a pod"] = [str(one.patches) for one in scores]
    rows["pod restarts"] = [str(one.restarts) for one in scores]
    rows["seconds left out (disturbed)"] = [str(one.invalid_windows) for one in scores]
    for name, row in rows.items():
        table.add_row(name, *row)
    return table
