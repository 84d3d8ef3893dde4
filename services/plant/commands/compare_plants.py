"""Simulated and real plant on the same inputs: latency over limit, and answers to steps, side by side.

    sluice bench plant                  the model beside the committed run on real packets
    sluice bench plant --real           both measured now (root, about two and a half minutes)

A model that is only compared with what it was fitted to proves little: of the committed runs it was
fitted to the one at 100 Mbit/s, and the one at 50 Mbit/s is what it has never seen.

What a model must have, seen in the bed: a pod's own limit drops nothing, because TCP's small queues
hold each connection to about four packets there (24 kB in all at 60 Mbit/s, windows of 16 packets);
when the limit is raised beyond the bottleneck the windows grow from there within a second, and lose
packets only once the FIFO is full.
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

from services.plant.commands.open_loop import INTERVAL, Conditions, OpenLoop, Point, Stand, Step, measure
from services.plant.harness.result_file import ResultFile
from services.plant.real.namespaces import find_missing
from services.plant.real.plant import TRAFFIC, RealPlant, parameters
from services.plant.real.testbed import Bed
from services.plant.simulated.plant import Parameters, SimulatedPlant
from services.plant.workloads import Apps

RUNS = ("100M", "50M")
"""Capacities of the committed runs on real packets."""
_SHOWN = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Seconds after a step that the table shows."""


class Both(Struct, frozen=True):
    """One plant each, under the same conditions."""

    real: OpenLoop
    simulated: OpenLoop


def committed(capacity: str) -> OpenLoop:
    """A run on real packets that came with the code."""
    path = resources.files("services.plant") / "calibration" / f"real-{capacity}.json"
    return msgspec.json.decode(path.read_bytes(), type=OpenLoop)


def simulate(apps: Apps, fifo: float) -> OpenLoop:
    """Measure the model under these conditions; its time costs little of ours."""
    model = SimulatedPlant(Parameters(apps=apps, fifo=int(apps.capacity * 125 * fifo)), seed=1)
    stand = Stand(model, lambda seconds: model.advance(round(seconds * 1e9)), lambda: model.now)
    stand.wait(2.0)
    return measure(stand, Conditions("simulated", apps, fifo))


def run_real(apps: Apps, fifo: float) -> OpenLoop:
    """Measure real packets under these conditions; needs root, and two and a half minutes.

    Raises:
        BedError: the bed cannot be built.
    """
    machine = f"{os.cpu_count()} processors, Linux {platform.release().partition('-')[0]}"
    with Bed(parameters(apps, fifo)) as bed, RealPlant(bed, apps) as plant:
        stand = Stand(plant, time.sleep, time.time_ns)
        stand.wait(2.0)
        return measure(stand, Conditions("real", apps, fifo, machine))


def sweep_table(both: Both) -> Table:
    """Latency, loss and goodput over the limit."""
    apps = both.real.conditions.apps
    shown = _table(f"{apps.capacity / 1000:g} Mbit/s, safe limit {apps.safe_budget() / 1000:.1f}: real|simulated")
    for name in (
        "limit,\nMbit/s",
        "p50,\nms",
        "p95,\nms",
        "jitter,\nms",
        "lost",
        "scanner,\nMbit/s",
        "goodput,\nMbit/s",
    ):
        shown.add_column(name, justify="right")
    for real, simulated in zip(both.real.sweep, both.simulated.sweep, strict=True):
        limit = "none" if real.limit is None else f"{real.limit / 1000:g}"
        shown.add_row(limit, *map("{}|{}".format, _cells(real), _cells(simulated)))
    return shown


def _table(title: str) -> Table:
    """A table that fits a terminal of 80 columns."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _cells(point: Point) -> Sequence[str]:
    latencies = [_short(value * 1e3) for value in (point.p50, point.p95, point.jitter)]
    return [*latencies, str(point.lost), f"{point.scanner / 1000:.1f}", f"{point.goodput / 1000:.1f}"]


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def steps_table(both: Both) -> Table:
    """Mean round trips after each step, and when the queue was gone."""
    shown = _table("Mean round trip, ms, after a step: real|simulated")
    shown.add_column("after, s", justify="right")
    columns = []
    for real, simulated in zip(both.real.steps, both.simulated.steps, strict=True):
        shown.add_column(real.name, justify="right")
        traces = zip_longest(_trace(real), _trace(simulated), fillvalue="")
        columns.append([f"{a}|{b}" for a, b in traces] + [""] * len(_SHOWN))
    for number, at in enumerate(_SHOWN):
        shown.add_row(f"{at:g}", *(column[number] for column in columns))
    drained = zip(both.real.steps, both.simulated.steps, strict=True)
    shown.add_row("drained, s", *(f"{_seconds(a.drained)}|{_seconds(b.drained)}" for a, b in drained))
    return shown


def _trace(step: Step) -> list[str]:
    places = [round(at / INTERVAL) for at in _SHOWN]
    values = [step.trace[place] for place in places if place < len(step.trace)]
    return ["-" if value is None else f"{value * 1e3:.1f}" for value in values]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


@click.command()
@click.option("--capacity", type=click.Choice(RUNS), default="100M", show_default=True, help="Of the bottleneck.")
@click.option("--real", is_flag=True, help="Measure real packets now, as root, instead of the committed run.")
@click.option("--json", "result", type=ResultFile(), help="Write both runs here.")
def command(capacity: str, real: bool, result: Path | None) -> None:
    """Compare the simulated plant with the real one, limit by limit and step by step."""
    console = Console()
    measured = committed(capacity)
    apps, fifo = measured.conditions.apps, measured.conditions.fifo
    if real:
        missing = find_missing(TRAFFIC)
        if missing:
            raise click.UsageError(f"real packets need {', '.join(missing)}")
        with console.status("measuring real packets: two and a half minutes"):
            measured = run_real(apps, fifo)
    with console.status("measuring the model"):
        both = Both(measured, simulate(apps, fifo))
    console.print(sweep_table(both))
    console.print(steps_table(both))
    if result is not None:
        result.write_bytes(msgspec.json.format(msgspec.json.encode(both), indent=1) + b"\n")
