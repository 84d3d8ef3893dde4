"""What it takes to look at a day: the page over streams that hold one, opened, dragged to the past, and opened wide."""

import asyncio
import time

from schemas.config import BusConfig, Config
from services.bench.resident import read_resident
from services.bench.ui.chromium import Page, open_page
from services.bench.ui.day import fill_streams
from services.bench.ui.processes import build_domains, find_renderer, read_heap
from services.plant.harness.pipeline import find_free_ports, start_nats, start_page
from services.plant.harness.processes import Processes

_HOUR_NS = 3600 * 10**9
_PERIOD_NS = 5 * 10**8
_LONGEST_S = 600.0
_COUNT_ANSWERS = "performance.getEntriesByType('resource').filter(one => one.name.includes('v1/domain')).length"
_PLOTS = "#/domain?d=line-0"


async def measure_day() -> dict[str, float]:
    """Measure the page over a day of one domain; of decisions, which are longer, the streams keep twenty hours."""
    async with Processes() as processes, open_page("about:blank", width=1600, height=1000) as page:
        [leaf] = find_free_ports(1)
        # The streams as they are shipped may keep more than the harness allows.
        settings = f"""
            jetstream {{ store_dir: "{processes.home}/jetstream" }}
            leafnodes {{ listen: "127.0.0.1:{leaf}", compression: off }}
        """
        bus = BusConfig(servers=(await start_nats(processes, settings),))
        domains = build_domains(1)
        now = time.time_ns()
        sent = await fill_streams(bus, leaf, domains, _PERIOD_NS, range(now - 24 * _HOUR_NS, now))
        address = await start_page(Config(domains=domains, bus=bus), processes, 0)
        begun = time.monotonic()
        await page.ask("Page.navigate", url=address)
        await _wait_for(page, "document.querySelectorAll('.card').length === 1")
        figures = {"messages": float(sent), "overview, s": time.monotonic() - begun}
        past = (now - 12 * _HOUR_NS) // 10**6
        figures["plots of five minutes, twelve hours ago, s"] = await _go(page, f"{_PLOTS}&span=300000&at={past}")
        figures["plots of an hour, roughly, s"] = await _go(page, f"{_PLOTS}&span=3600000&at={past + 1}")
        figures["plots of 24 hours, roughly, s"] = await _go(page, f"{_PLOTS}&span=86400000&at={now // 10**6}")
        begun = time.monotonic()
        await _wait_for(page, "document.querySelector('main [role=status]').hidden")
        figures["plots of 24 hours, every message, s more"] = time.monotonic() - begun
        processes.check("ui")
        return figures | {
            "server, resident, MiB": read_resident(processes.pid("ui")),
            "tab, heap, MiB": await read_heap(page),
            "tab's process, resident, MiB": read_resident(find_renderer(page.process)),
        }


async def _go(page: Page, place: str) -> float:
    """Go to a place, and give how long it took until its first plots were drawn, s."""
    begun, before = time.monotonic(), await page.value(_COUNT_ANSWERS)
    await page.value(f"location.hash = {place!r}")
    await _wait_for(page, f"{_COUNT_ANSWERS} > {before} && document.querySelectorAll('.keys .key').length > 0")
    await page.value("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    return time.monotonic() - begun


async def _wait_for(page: Page, condition: str) -> None:
    async with asyncio.timeout(_LONGEST_S):
        while not await page.value(condition):  # noqa: ASYNC110 - a browser
            await asyncio.sleep(0.02)
