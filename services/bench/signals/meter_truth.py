"""The worker of ``sluice bench meter`` in namespaces of its own: the meter's figures beside the wire's.

Writes its figures as JSON to standard output.
"""

import asyncio
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from schemas.config import Scrape, Signal
from schemas.units import Duration
from services.bench.signals import meter_bed as bed
from services.plant.kube_emulator.emulator import Emulator
from services.sampler.scrape.meters import MeterFleet
from services.sampler.scrape.source import combine_pages
from services.sampler.workloads import Workloads, metric_names

_CONFIG = """
domains:
  - name: floor
    critical: [{workload: robot, namespace: factory}]
    targets: [{deployment: upload, namespace: factory, min: 1M, max: 100M, fail_safe: 10M}]
listen: {host: 127.0.0.1}
"""
_PAGE = "http://127.0.0.1:9968/metrics"
_UDP_FULL, _UDP_SMALL = 1472, 18
"""Payloads of a full packet, and of one of 64 bytes on the wire (with its checksum)."""
_LIMIT_KBIT = 20_000
_TICK_S = 0.005
_PERIOD = Duration(100 * 10**6)
_NODE_PODS = 110


class TrafficCase:
    """Bytes of one case, as the sender, the meter and the wire have them."""

    def __init__(self, meter: int, wire: int, packets: int, offered: int | None = None) -> None:
        """Take them."""
        self.figures = {"meter": meter, "wire": wire, "packets": packets, "offered": offered}


class Bench:
    """A node, its meter as a process, and its API."""

    def __init__(self, emulator: Emulator, wire: bed.Wire) -> None:
        """Take the running parts."""
        self._emulator = emulator
        self.wire = wire

    def add(self, number: int, *, segments: int | None = None) -> None:
        """Add a pod to the node and to the API."""
        address, name = bed.add_pod(number, segments=segments), f"upload-5d4-{number:05}"
        tree = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "factory"},
            "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "a:1"}]},
        }
        self._emulator.apply([tree])
        status = {"phase": "Running", "podIP": address}
        self._emulator.objects.update(("pods", "factory", name), lambda one: one | {"status": status}, status=True)

    def remove(self, number: int) -> None:
        """Remove a pod from both."""
        bed.remove_pod(number)
        self._emulator.objects.delete(("pods", "factory", f"upload-5d4-{number:05}"))

    async def read_meter(self) -> dict[str, int]:
        """Bytes by pod, from the meter's page."""
        text = (await asyncio.to_thread(_fetch, _PAGE)).decode()
        lines = [line for line in text.splitlines() if line.startswith("container_network_transmit_bytes_total{")]
        return {line.partition('pod="')[2].partition('"')[0]: int(line.split()[-2]) for line in lines}

    async def wait_for(self, count: int) -> None:
        """Wait until the meter shows so many pods."""
        while len(await self.read_meter()) != count:  # noqa: ASYNC110 - another process decides
            await asyncio.sleep(0.02)

    async def compare(self, send: Callable[[], int | None]) -> TrafficCase:
        """Send, wait until all has arrived, and compare the increases."""
        before, wire = sum((await self.read_meter()).values()), self.wire.read()
        offered = await asyncio.to_thread(send)
        last = -1
        while last != (last := self.wire.read()[0]):  # noqa: ASYNC110 - the kernel decides
            await asyncio.sleep(0.3)
        after, now = sum((await self.read_meter()).values()), self.wire.read()
        return TrafficCase(after - before, now[0] - wire[0], now[1] - wire[1], offered)


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


def send_tcp(number: int, size: int) -> None:
    """Send that many bytes over one connection."""
    with bed.open_sender(number, socket.SOCK_STREAM) as sender:
        chunk = bytes(1 << 16)
        for _ in range(size >> 16):
            sender.sendall(chunk)
        sender.shutdown(socket.SHUT_WR)
        sender.settimeout(30)
        sender.recv(1)


def send_udp(numbers: list[int], payload: int, kbit: int, seconds: float) -> int:
    """Send datagrams from pods in turn at a rate of frames, kbit/s; gives the bytes of frames that were sent."""
    frame, data = payload + 42, bytes(payload)
    senders = [bed.open_sender(number, socket.SOCK_DGRAM) for number in numbers]
    sent, began = 0, time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        due = int(now * kbit * 125)
        while sent < due:
            for sender in senders:
                sender.send(data)
            sent += frame * len(senders)
        time.sleep(_TICK_S)
    for sender in senders:
        sender.close()
    return sent


async def measure_errors(bench: Bench, mib: int, seconds: float) -> dict[str, Any]:
    """One pod's cases; those over UDP send for ``seconds``."""
    bench.add(1)
    bench.add(2, segments=1)
    await bench.wait_for(2)
    found = {
        "TCP, segments joined by the pod's kernel": await bench.compare(lambda: send_tcp(1, mib << 20)),
        "TCP, every packet alone": await bench.compare(lambda: send_tcp(2, mib << 20)),
        "UDP, full packets": await bench.compare(lambda: send_udp([1], _UDP_FULL, 50_000, seconds)),
        "UDP, 64-byte packets": await bench.compare(lambda: send_udp([1], _UDP_SMALL, 5_000, seconds)),
    }
    bed.set_limit(_LIMIT_KBIT)
    found |= {
        "TCP at the limit": await bench.compare(lambda: send_tcp(2, mib << 18)),
        "UDP under the limit": await bench.compare(lambda: send_udp([1], _UDP_FULL, _LIMIT_KBIT // 2, seconds)),
        "UDP at twice the limit": await bench.compare(lambda: send_udp([1], _UDP_FULL, 2 * _LIMIT_KBIT, seconds)),
    }
    bed.set_limit(None)
    return {name: case.figures for name, case in found.items()}


async def measure_pods(bench: Bench) -> dict[str, Any]:
    """A hundred pods at once, and pods that live for a second and a half each."""
    for number in range(3, _NODE_PODS + 1):
        bench.add(number)
    await bench.wait_for(_NODE_PODS)
    many = await bench.compare(lambda: send_udp(list(range(3, 103)), _UDP_FULL, 80_000, 2))
    fleet, workloads = _build_fleet(Duration(500 * 10**6))
    wire, seen, before = bench.wire.read()[0], 0.0, 0
    for life in range(6):
        number = 200 + life
        bench.add(number)
        await bench.wait_for(_NODE_PODS + 1)
        sending = asyncio.create_task(asyncio.to_thread(send_udp, [number], _UDP_FULL, 20_000, 1.5))
        while not sending.done():
            end, before = await _next_window(fleet, before)
            recent = combine_pages(workloads, fleet.answered, [], end).recent
            seen += sum(recent.values()) * 125 * 0.5
        bench.remove(number)
        await bench.wait_for(_NODE_PODS)
    fleet.close()
    gone = TrafficCase(round(seen), bench.wire.read()[0] - wire, 0)
    return {"100 pods at once, UDP": many.figures, "pods that live 1.5 s, samples every 0.5 s added up": gone.figures}


def _build_fleet(period: Duration) -> tuple[MeterFleet, Workloads]:
    signal = Signal(period=period, window=Duration(4 * period), scrape=Scrape(meters=(_PAGE,)))
    workloads = Workloads(metric_names(signal), ("factory/robot",), [f"factory/upload-5d4-{n:05}" for n in range(300)])
    return MeterFleet(signal, workloads), workloads


async def _next_window(fleet: MeterFleet, before: int, period: int = 500 * 10**6) -> tuple[int, int]:
    """Wait for the end of the next window and scrape; gives that end twice."""
    end = (max(time.time_ns(), before) // period + 1) * period
    await asyncio.sleep(max(end - time.time_ns(), 0) / 1e9)
    await fleet.scrape(end)
    return end, end


async def measure_lag(bursts: int) -> dict[str, float]:
    """From a burst's first byte on the wire to the sample that shows it, less the period; and the meter's own cost."""
    fleet, workloads = _build_fleet(_PERIOD)
    lags, before = [], 0
    with bed.open_sender(1, socket.SOCK_DGRAM) as sender:
        for _ in range(bursts):
            for _ in range(3):
                _, before = await _next_window(fleet, before, _PERIOD)
            await asyncio.sleep(random.random() * _PERIOD.seconds)  # noqa: S311 - any phase
            began = time.monotonic()
            for _ in range(50):
                sender.send(bytes(_UDP_FULL))
            while True:
                end, before = await _next_window(fleet, before, _PERIOD)
                recent = combine_pages(workloads, fleet.answered, [], end).recent
                if recent.get("factory/upload-5d4-00001", 0) > 100:
                    break
            lags.append((time.monotonic() - began - _PERIOD.seconds) * 1000)
    fleet.close()
    return {
        "from the wire to the sample beyond the period, ms, median": statistics.median(lags),
        "from the wire to the sample beyond the period, ms, longest": max(lags),
    }


async def measure_cost(pid: int, scrapes: int) -> dict[str, float]:
    """Memory, and processor time at two scrapes a second, with all pods."""
    fleet, _ = _build_fleet(Duration(500 * 10**6))
    began = _processor_s(pid)
    before = 0
    for _ in range(scrapes):
        _, before = await _next_window(fleet, before)
    fleet.close()
    used = (_processor_s(pid) - began) / (scrapes * 0.5)
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")  # noqa: ASYNC240 - of the kernel's memory
    peak = int(status.partition("VmHWM:")[2].split()[0])
    return {f"share of a core at 2 Hz, {_NODE_PODS} pods": used, "resident at most, MiB": peak / 1024}


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def run_meter(url: str) -> Iterator[tuple[int, float]]:
    """Run ``sluice meter``; gives its process and how long it took to be ready, seconds."""
    with TemporaryDirectory() as folder:
        config = Path(folder, "sluice.yaml")
        config.write_text(_CONFIG + f"kubernetes: {{server: '{url}'}}\n", encoding="utf-8")
        command = [
            sys.executable,
            "-c",
            "from services.cli import main; main()",
            "meter",
            "--config",
            str(config),
            "--node",
            "n1",
        ]
        began = time.monotonic()
        with subprocess.Popen(command) as process:
            try:
                is_ready = False
                while not is_ready:
                    time.sleep(0.01)
                    with contextlib.suppress(OSError):
                        is_ready = bool(_fetch(_PAGE))
                yield process.pid, time.monotonic() - began
            finally:
                process.terminate()


async def measure(mib: int, *, brief: bool) -> dict[str, Any]:
    """Everything, or briefly one pod's cases alone."""
    bed.build_wire()
    wire = bed.Wire()
    emulator = Emulator(starts_after=None)
    emulator.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "factory"}}])
    async with emulator as url:
        starting = run_meter(url)
        pid, ready = await asyncio.to_thread(starting.__enter__)
        bench = Bench(emulator, wire)
        try:
            cases = await measure_errors(bench, mib, 0.3 if brief else 2.0)
            figures = {"ready after, s": ready}
            if not brief:
                cases |= await measure_pods(bench)
                figures |= {**await measure_lag(20), **await measure_cost(pid, 20)}
        finally:
            starting.__exit__(None, None, None)
    return {"cases": cases, "figures": figures}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(int(sys.argv[1]), brief="brief" in sys.argv))))  # noqa: T201 - its result
