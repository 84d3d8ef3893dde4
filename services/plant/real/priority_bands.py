"""Measures priority bands alone: robot-control's latency while telemetry-upload is unlimited.

It builds three testbeds in turn: without bands, with bands on every node's uplink, and with bands on the
bottleneck itself.  Bands reorder packets where packets wait.  On a fast uplink nothing waits, so bands do
nothing there.  On the bottleneck they suffice, but few users control it.
"""

import asyncio
from collections.abc import Sequence
from statistics import median
from typing import get_args

from msgspec import Struct
from rich import box
from rich.table import Table

from services.plant.interface import Second
from services.plant.real.plant import RealPlant, parameters
from services.plant.real.testbed import Bed
from services.plant.topology import ROBOT, SCANNER, Bands
from services.plant.workloads import Apps

PLACES: tuple[Bands, ...] = get_args(Bands)
_WARM_UP_S = 3.0
_CLOSING_S = 2.5
"""Seconds do not begin when the measurement does, and are reported one second after their end."""


class Row(Struct, frozen=True):
    """Ground truth of robot-control with bands in one place: medians over its seconds."""

    bands: Bands
    p95: float | None
    """Seconds, as is the jitter; None when nothing came back."""
    jitter: float | None
    lost: int
    """Packets and probes lost in all seconds together."""
    sent: int
    """Packets and probes sent in all seconds together."""
    scanner: float
    """What safety-scanner got, as a share of what it wanted."""
    goodput: int
    """Of all targets, kbit/s of payload."""
    seconds: int
    invalid_windows: int


async def measure(apps: Apps, fifo: float, bands: Bands, seconds: int) -> Row:
    """Build a bed with bands in one place, and watch it for ``seconds``.

    Raises:
        BedError: the bed cannot be built.
    """
    with Bed(parameters(apps, fifo, bands)) as bed, RealPlant(bed, apps) as plant:
        await asyncio.sleep(_WARM_UP_S)
        plant.take_seconds()
        await asyncio.sleep(seconds + _CLOSING_S)
        return row(bands, apps, plant.take_seconds()[-seconds:])


def row(bands: Bands, apps: Apps, seconds: Sequence[Second]) -> Row:
    """Sum up the seconds of one bed."""
    good = [second for second in seconds if second.invalid is None]
    robot = [second.critical[ROBOT] for second in good]
    scanner = [second.critical[SCANNER] for second in good]
    sends = sum(one.load * 125 // one.packet + one.probe_hz for one in apps.critical if one.workload == ROBOT)
    return Row(
        bands=bands,
        p95=_median([one.p95 for one in robot]),
        jitter=_median([one.jitter for one in robot]),
        lost=sum(one.lost for one in robot),
        sent=sends * len(good),
        scanner=sum(one.throughput for one in scanner) / max(sum(one.load for one in scanner), 1),
        goodput=round(_median([sum(second.goodput.values()) for second in good]) or 0),
        seconds=len(good),
        invalid_windows=len(seconds) - len(good),
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def table(rows: Sequence[Row]) -> Table:
    """Build a table with one row for each place."""
    title = "Priority bands alone, telemetry-upload unlimited: robot-control's packets"
    shown = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("bands on", no_wrap=True)
    for name in ("p95,\nms", "jitter,\nms", "lost", "scanner\ngot", "best effort,\nMbit/s"):
        shown.add_column(name, justify="right")
    names = {"off": "nothing", "uplink": "the nodes' uplinks", "bottleneck": "the bottleneck"}
    for one in rows:
        shown.add_row(
            names[one.bands],
            _ms(one.p95),
            _ms(one.jitter),
            f"{one.lost} of {one.sent}",
            f"{one.scanner:.0%}",
            f"{one.goodput / 1000:.1f}",
        )
    return shown


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.2f}"
