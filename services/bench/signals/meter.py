"""``sluice bench meter``: the meter's error, lag and cost on real packets, and a sampler with a thousand meters."""

import asyncio
import json
import multiprocessing
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from schemas.config import Scrape, Signal
from schemas.units import Duration
from services.bench.goals import show
from services.plant.real.namespaces import enclose, find_missing
from services.runtime.option_types import FiguresFile
from services.sampler.scrape.meters import MeterFleet
from services.sampler.scrape.source import combine_pages
from services.sampler.workloads import Workloads, metric_names

_GOALS = {
    "ready after, s": "<= 1",
    "from the wire to the sample beyond the period, ms, median": "",
    "from the wire to the sample beyond the period, ms, longest": "<= 20",
    "share of a core at 2 Hz, 110 pods": "<= 0.02",
    "resident at most, MiB": "<= 32",
    "meters read by one sampler": "",
    "cores at 1 Hz, their pages narrowed to a namespace": "<= 1",
    "cores at 1 Hz, whole pages of 110 pods": "",
}
_NODE_PODS = 110
_OWN_PODS = 4
"""Of the configured workloads, on each node."""


@click.command()
@click.option("--mib", type=click.IntRange(1), default=64, show_default=True, help="How much each TCP case sends.")
@click.option(
    "--meters", type=click.IntRange(1), default=1000, show_default=True, help="How many meters one sampler reads."
)
@click.option("--json", "path", type=FiguresFile(), help="Add the figures to this file.")
def command(mib: int, meters: int, path: Path | None) -> None:
    """The meter's error against the wire, its lag and cost (root), and a sampler with a thousand meters."""
    missing = find_missing(["ip", "tc"])
    figures: dict[str, float] = {}
    if missing:
        click.echo(f"not measured on real packets, for which this is missing: {', '.join(missing)}", err=True)
    else:
        measured = measure_on_packets(mib)
        print_cases(measured["cases"])
        figures |= measured["figures"]
    figures |= asyncio.run(measure_fleet(meters))
    show("meter", figures, _GOALS, path)


def measure_on_packets(mib: int, *, brief: bool = False) -> dict[str, Any]:
    """Run the worker in namespaces of its own; gives its ``cases`` and ``figures``."""
    words = f"{mib} {'brief' if brief else ''}"
    worker = f"mount -t tmpfs none /run && exec {sys.executable} -m services.bench.signals.meter_truth {words}"
    done = subprocess.run(enclose(["sh", "-c", worker]), check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def print_cases(cases: dict[str, dict[str, int | None]]) -> None:
    """The meter beside the wire, and what was sent, where a sender counts frames."""
    table = Table("case", "meter, kB", "wire, kB", "error", "sent, kB", "error")
    for name, case in cases.items():
        meter, wire, sent = case["meter"] or 0, case["wire"] or 0, case["offered"]
        against = ("", "") if sent is None else (f"{sent / 1000:,.0f}", f"{meter / sent - 1:+.2%}")
        table.add_row(name, f"{meter / 1000:,.0f}", f"{wire / 1000:,.0f}", f"{meter / wire - 1:+.2%}", *against)
    Console(width=120).print(table)


async def measure_fleet(count: int, rounds: int = 10) -> dict[str, float]:
    """Processor time and memory of a sampler that reads so many meters once a second."""
    found: dict[str, float] = {"meters read by one sampler": count}
    for name, pods in (
        ("cores at 1 Hz, their pages narrowed to a namespace", _OWN_PODS),
        ("cores at 1 Hz, whole pages of 110 pods", _NODE_PODS),
    ):
        ours, theirs = multiprocessing.Pipe()
        server = multiprocessing.Process(target=serve_meters, args=(theirs, pods), daemon=True)
        server.start()
        port = ours.recv()
        found[name] = await _read_repeatedly(port, count, rounds)
        server.terminate()
        server.join()
    return found


async def _read_repeatedly(port: int, count: int, rounds: int) -> float:
    """Seconds of processor time for one round of all meters and their combination."""
    period = Duration(10**9)
    url = f"http://meters.example:{port}/metrics"
    signal = Signal(
        period=period, window=Duration(3600 * period), timeout=Duration(600 * period), scrape=Scrape(meters=(url,))
    )
    targets = [f"factory/app-{number}" for number in range(_OWN_PODS)]
    workloads = Workloads(metric_names(signal), ("factory/robot",), targets)

    async def resolve(*_: object) -> list[str]:
        return [f"127.{1 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}" for number in range(count)]

    fleet = MeterFleet(signal, workloads, resolve)
    await fleet.scrape(period)
    began, end = time.process_time(), period
    for number in range(2, rounds + 2):
        end = Duration(number * period)
        await fleet.scrape(end)
        sent = combine_pages(workloads, fleet.answered, fleet.explain_unknown(end).items(), end)
    used = time.process_time() - began
    assert sent.pods == dict.fromkeys(targets, count), fleet.notes
    fleet.close()
    return used / rounds


def serve_meters(pipe: Any, pods: int) -> None:
    """Answer on every address of loopback as a meter would whose node has so many pods; tells its port."""
    asyncio.run(_serve(pipe, pods))


async def _serve(pipe: Any, pods: int) -> None:
    labels = (
        'namespace="{0}",workload="app-{1}",kind="Deployment",pod="app-{1}-7d9f8c6b5-{2}",node="{2}",source="device"'
    )

    def build_page(node: str) -> bytes:
        lines = []
        for direction in ("transmit", "receive"):
            name = f"container_network_{direction}_bytes_total"
            lines += [f"# HELP {name} Bytes.\n# TYPE {name} counter\n"]
            for number in range(pods):
                where = "factory" if number < _OWN_PODS else "other"
                stamp = time.time_ns() // 10**6
                lines.append(f"{name}{{{labels.format(where, number, node)}}} {stamp * 1000} {stamp}\n")
        return "".join(lines).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                page = build_page(writer.get_extra_info("sockname")[0])
                head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(page)}\r\n\r\n"
                writer.write(head.encode() + page)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "0.0.0.0", 0, backlog=4096)  # noqa: S104 - all of loopback
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()
