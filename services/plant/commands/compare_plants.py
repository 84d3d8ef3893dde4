"""Compares the simulated and the real plant on the same inputs: latency over limit, and step responses.

    sluice bench plant                  compare the model with the committed run on real packets
    sluice bench plant --real           measure both now (root, about two and a half minutes)

The model was fitted to the committed run at 100 Mbit/s.  The run at 50 Mbit/s tests it on data that it
was not fitted to.

Two observations in the bed shape the model.  A pod's own limit drops nothing, because TCP small queues
hold each connection to about four packets there (24 kB in all at 60 Mbit/s, windows of 16 packets).
When the limit is raised beyond the bottleneck, the windows grow within a second, and packets are lost
only once the FIFO is full.
"""

import os
import platform
import time
from collections.abc import Sequence
from importlib import resources
from itertools import zip_longest
from pathlib import Path

import click
import msgspec
from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table

from services.plant.commands.open_loop import (
    INTERVAL,
    OpenLoop,
    OpenLoopConditions,
    StepResponse,
    SweepPoint,
    TimedPlant,
    measure,
)
from services.plant.real.namespaces import find_missing
from services.plant.real.plant import TRAFFIC, RealPlant, parameters
from services.plant.real.testbed import Bed
from services.plant.simulated.plant import Parameters, SimulatedPlant
from services.plant.workloads import Apps
from services.runtime.option_types import ResultFile

RUNS = ("100M", "50M")
"""Capacities of the committed runs on real packets."""
_SHOWN = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
"""The table's times, seconds after a step."""


class PlantComparison(Struct, frozen=True):
    """Both plants, measured under the same conditions."""

    real: OpenLoop
    simulated: OpenLoop


def load_reference_run(capacity: str) -> OpenLoop:
    """Load a run on real packets that is committed with the code."""
    path = resources.files("services.plant") / "calibration" / f"real-{capacity}.json"
    return msgspec.json.decode(path.read_bytes(), type=OpenLoop)


def measure_simulated(apps: Apps, fifo: float) -> OpenLoop:
    """Measure the model under these conditions, in simulated time."""
    model = SimulatedPlant(Parameters(apps=apps, fifo=int(apps.capacity * 125 * fifo)), seed=1)
    timed = TimedPlant(model, lambda seconds: model.advance(round(seconds * 1e9)), lambda: model.now)
    timed.wait(2.0)
    return measure(timed, OpenLoopConditions("simulated", apps, fifo))


def measure_real(apps: Apps, fifo: float) -> OpenLoop:
    """Measure real packets under these conditions; takes two and a half minutes, and root.

    Raises:
        BedError: the bed cannot be built.
    """
    machine = f"{os.cpu_count()} processors, Linux {platform.release().partition('-')[0]}"
    with Bed(parameters(apps, fifo)) as bed, RealPlant(bed, apps) as plant:
        timed = TimedPlant(plant, time.sleep, time.time_ns)
        timed.wait(2.0)
        return measure(timed, OpenLoopConditions("real", apps, fifo, machine))


def sweep_table(both: PlantComparison) -> Table:
    """Build the table of latency, loss and goodput by limit."""
    apps = both.real.conditions.apps
    table = _create_table(
        f"{apps.capacity / 1000:g} Mbit/s, safe limit {apps.safe_budget() / 1000:.1f}: real|simulated"
    )
    for name in (
        "limit,\nMbit/s",
        "p50,\nms",
        "p95,\nms",
        "jitter,\nms",
        "lost",
        "scanner,\nMbit/s",
        "goodput,\nMbit/s",
    ):
        table.add_column(name, justify="right")
    for real, simulated in zip(both.real.sweep, both.simulated.sweep, strict=True):
        limit = "none" if real.limit is None else f"{real.limit / 1000:g}"
        table.add_row(limit, *map("{}|{}".format, _format_point(real), _format_point(simulated)))
    return table


def _create_table(title: str) -> Table:
    """Create an empty table that fits a terminal of 80 columns."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _format_point(point: SweepPoint) -> Sequence[str]:
    milliseconds = [value * 1e3 for value in (point.p50, point.p95, point.jitter)]
    latencies = [f"{value:.2f}" if value < 10 else f"{value:.1f}" for value in milliseconds]
    return [*latencies, str(point.lost), f"{point.scanner / 1000:.1f}", f"{point.goodput / 1000:.1f}"]


def steps_table(both: PlantComparison) -> Table:
    """Build the table of mean round trips after each step, and of when the queue had drained."""
    table = _create_table("Mean round trip, ms, after a step: real|simulated")
    table.add_column("after, s", justify="right")
    columns = []
    for real, simulated in zip(both.real.steps, both.simulated.steps, strict=True):
        table.add_column(real.name, justify="right")
        traces = zip_longest(_format_trace(real), _format_trace(simulated), fillvalue="")
        columns.append([f"{a}|{b}" for a, b in traces] + [""] * len(_SHOWN))
    for number, at in enumerate(_SHOWN):
        table.add_row(f"{at:g}", *(column[number] for column in columns))
    drained = zip(both.real.steps, both.simulated.steps, strict=True)
    table.add_row("drained, s", *(f"{_format_drained(a)}|{_format_drained(b)}" for a, b in drained))
    return table


def _format_trace(step: StepResponse) -> list[str]:
    places = [round(at / INTERVAL) for at in _SHOWN]
    values = [step.trace[place] for place in places if place < len(step.trace)]
    return ["-" if value is None else f"{value * 1e3:.1f}" for value in values]


def _format_drained(step: StepResponse) -> str:
    return "-" if step.drained is None else f"{step.drained:.2f}"


@click.command()
@click.option("--capacity", type=click.Choice(RUNS), default="100M", show_default=True, help="Bottleneck rate.")
@click.option("--real", is_flag=True, help="Measure real packets now, as root, instead of the committed run.")
@click.option("--json", "result", type=ResultFile(), help="Write both runs here, as JSON.")
def command(capacity: str, real: bool, result: Path | None) -> None:
    """Compare the simulated plant with the real one, limit by limit and step by step."""
    console = Console()
    measured = load_reference_run(capacity)
    apps, fifo = measured.conditions.apps, measured.conditions.fifo
    if real:
        missing = find_missing(TRAFFIC)
        if missing:
            raise click.UsageError(f"real packets need {', '.join(missing)}")
        with console.status("measuring real packets: two and a half minutes"):
            measured = measure_real(apps, fifo)
    with console.status("measuring the model"):
        both = PlantComparison(measured, measure_simulated(apps, fifo))
    console.print(sweep_table(both))
    console.print(steps_table(both))
    if result is not None:
        result.write_bytes(msgspec.json.format(msgspec.json.encode(both), indent=1) + b"\n")
