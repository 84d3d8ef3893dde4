"""``sluice bench ui``: the way of a message from the bus to a pixel of the live page, and what that costs.

Real: nats-server, ``sluice ui`` and the traffic as processes of their own, and a headless Chromium that draws without a
graphics card.  The lag is from the time at which the bus stored a message to the frame after the one that drew it; of
the messages in one update the oldest counts.
"""

import asyncio
import os
import sys
from pathlib import Path
from statistics import quantiles
from typing import Any

import click

from schemas.config import BusConfig, Config
from services.bench.goals import show
from services.bench.resident import read_peak, read_resident
from services.bench.ui.chromium import Page, find_chromium, open_page
from services.bench.ui.day_page import measure_day
from services.bench.ui.processes import build_domains, find_renderer, read_heap
from services.plant.harness.pipeline import format_config, start_nats, start_page
from services.plant.harness.processes import Processes
from services.runtime import logging_setup
from services.runtime.exit_codes import CommandFailure, ExitCode
from services.runtime.option_types import FiguresFile, FiniteRange

_WARM_UP_S = 8.0
_PERIODS = {1: 0.5, 20: 0.5}
"""Seconds between the samples of a domain, by the number of domains."""
_LONG_PERIOD = 2.0
_GOALS = {"server, resident, MiB": "<= 64", "longest frame, overview, ms": "<= 250"}
_FEW_GOALS = {
    "lag, P95, ms": "<= 200",
    "lag of a domain's plots, P95, ms": "<= 200",
    "frames a second, plots": ">= 55",
}
"""With up to 20 domains."""
_TAB_TURN_MINUTES = 5
_TAB_ADDRESSES = {"overview": "#/", "plots": "#/domain?d=line-0&span=60000"}
_TAB_VIEWS = tuple(_TAB_ADDRESSES)
_COUNT_FRAMES = "(count => (window.frames = 0, window.lags = [], count))(window.frames)"
_WATCH = """
window.lags = []; window.frames = 0; window.longest = 0;
if (!window.watched) (function () {
  window.watched = true;
  addEventListener('sluice:painted', event => window.lags.push(event.detail.at - event.detail.published));
  let last = performance.now();
  requestAnimationFrame(function count(now) {
    window.frames += 1; window.longest = Math.max(window.longest, now - last); last = now;
    requestAnimationFrame(count);
  });
})()
"""


@click.command()
@click.option(
    "--domains", "counts", type=click.IntRange(1, 5000), multiple=True, default=(1, 20, 1000), show_default=True
)
@click.option("--seconds", type=FiniteRange(2), default=20.0, show_default=True, help="How long each is measured.")
@click.option(
    "--tab-minutes",
    type=click.IntRange(10),
    help="Only measure what a tab holds over so many minutes with 20 domains.",
)
@click.option("--day", "is_day", is_flag=True, help="Only measure the page over streams that hold a day of one domain.")
@click.option("--json", "path", type=FiguresFile(), help="Add the figures to this file.")
def command(
    counts: tuple[int, ...], seconds: float, tab_minutes: int | None, path: Path | None, *, is_day: bool
) -> None:
    """Lag, frames and memory of the live page."""
    if find_chromium() is None:
        raise CommandFailure("there is no program chromium: apt install chromium", ExitCode.USAGE)
    logging_setup.configure("bench", "error")
    if tab_minutes is not None:
        show("ui tab", asyncio.run(measure_tab(tab_minutes)), {}, path)
        return
    if is_day:
        show("ui day", asyncio.run(measure_day()), {"server, resident, MiB": "<= 64"}, path)
        return
    figures: dict[str, float] = {}
    goals: dict[str, str] = {}
    for count in counts:
        found = asyncio.run(measure_page(count, seconds))
        figures |= {f"{count:,} domains: {name}": value for name, value in found.items()}
        bounds = _GOALS | (_FEW_GOALS if count <= 20 else {})
        goals |= {f"{count:,} domains: {name}": bound for name, bound in bounds.items()}
    figures["load: processes that want a processor, for each"] = os.getloadavg()[0] / (os.cpu_count() or 1)
    show("ui", figures, goals, path)


async def measure_page(count: int, seconds: float) -> dict[str, float]:
    """Measure the page with so many domains: the overview, then one domain."""
    async with Processes() as processes, open_page("about:blank", width=1600, height=1000) as page:
        await _open_live(page, count, processes)
        overview = await _watch(page, seconds)
        heap = await read_heap(page)
        await page.value("location.hash = '#/domain?d=line-0&span=60000'")
        domain = await _watch(page, seconds)
        processes.check("ui")
        figures = {
            "lag, median, ms": quantiles(overview["lags"], n=20)[9],
            "lag, P95, ms": quantiles(overview["lags"], n=20)[18],
            "updates a second": len(overview["lags"]) / seconds,
            "frames a second, overview": overview["frames"] / seconds,
            "longest frame, overview, ms": overview["longest"],
            "lag of a domain's plots, P95, ms": quantiles(domain["lags"], n=20)[18],
            "frames a second, plots": domain["frames"] / seconds,
            "longest frame, plots, ms": domain["longest"],
            "server, resident, MiB": read_resident(processes.pid("ui")),
            "server, resident at most, MiB": read_peak(processes.pid("ui")),
            "tab, heap, MiB": heap,
            "tab, heap grown in the second half, MiB": await read_heap(page) - heap,
        }
        processes.check("traffic")
        return figures


async def measure_tab(minutes: int) -> dict[str, float]:
    """Measure what a tab holds each minute; five of the overview take turns with five of one domain's plots."""
    figures: dict[str, float] = {}
    async with Processes() as processes, open_page("about:blank", width=1600, height=1000) as page:
        # The browser would keep every byte of every answer for whoever drives it.
        await page.ask("Network.disable")
        await _open_live(page, 20, processes)
        for minute in range(minutes):
            view = _TAB_VIEWS[minute // _TAB_TURN_MINUTES % len(_TAB_VIEWS)]
            if minute % _TAB_TURN_MINUTES == 0:
                await page.value(f"location.hash = {_TAB_ADDRESSES[view]!r}")
                await page.value(_WATCH)
            await asyncio.sleep(60)
            when = f"minute {minute + 1}, {view}"
            figures[f"{when}: heap, MiB"] = await read_heap(page)
            figures[f"{when}: nodes of the document"] = await page.value("document.getElementsByTagName('*').length")
            figures[f"{when}: frames a second"] = await page.value(_COUNT_FRAMES) / 60
            figures[f"{when}: tab's process, resident, MiB"] = read_resident(find_renderer(page.process))
            figures[f"{when}: server, resident, MiB"] = read_resident(processes.pid("ui"))
        processes.check("ui")
        processes.check("traffic")
    return figures


async def _open_live(page: Page, count: int, processes: Processes) -> None:
    """Start the bus, the traffic of so many domains and the server, and open the page."""
    bus = BusConfig(servers=(await start_nats(processes),), keep_bytes=32 * 1024 * 1024)
    config = Config(domains=build_domains(count), bus=bus)
    path = processes.home / "traffic.yaml"
    path.write_text(format_config(config), encoding="utf-8")
    period = _PERIODS.get(count, _LONG_PERIOD)
    await processes.start("traffic", sys.executable, "-m", "services.bench.ui.traffic", path, str(period))
    await asyncio.sleep(2)
    address = await start_page(config, processes, 0)
    await asyncio.sleep(_WARM_UP_S)
    await page.ask("Page.navigate", url=address)


async def _watch(page: Page, seconds: float) -> dict[str, Any]:
    """Count frames, and collect the lags of what is painted."""
    await asyncio.sleep(_WARM_UP_S / 2)
    await page.value(_WATCH)
    await asyncio.sleep(seconds)
    found: dict[str, Any] = await page.value("({lags: window.lags, frames: window.frames, longest: window.longest})")
    if len(found["lags"]) < 2:
        raise CommandFailure(f"the page painted {len(found['lags'])} updates: {page.complaints}", ExitCode.FINDING)
    return found
