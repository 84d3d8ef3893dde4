"""One measurement for each service: what its process took at most, MiB, on its worst input."""

import asyncio
import os
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

from schemas.config import Config, Kubernetes, Listen, Prometheus, Scrape, Signal
from schemas.domain import Critical, Domain, Target
from schemas.units import Duration, Rate
from services.bench.decisions import build_decision, publish
from services.bench.resident import read_peak
from services.bench.speed.decision_service import measure_backlog
from services.bench.speed.exporter import echo_server, measure_full_table
from services.bench.speed.memory import on_bus, start_service
from services.bench.speed.service_page import ServicePage
from services.bench.ui.chromium import find_chromium
from services.bench.ui.command import measure_page
from services.bench.worst.hostile_pages import serve_large
from services.bench.worst.large_cluster import NAMESPACE, find_address, name_deployment
from services.exporter.echo_server import MAGIC, PACKET
from services.plant.harness.pipeline import find_free_ports, find_program, format_config
from services.plant.harness.processes import Processes
from services.runtime.exit_codes import CommandFailure, ExitCode

_S = 10**9
_PATIENCE_S = 300
_POLL_S = 0.1
_ROUNDS = {"page": 12, "answer": 100}
"""Pages or answers that a sampler reads; a window takes ten answers."""
_NODE_PODS, _LABELS_BYTES = 500, 4_000
"""Of a meter's node, and of each Pod."""


def measure_decision() -> float:
    """Five hundred domains in its file, with ten samples each that wait when it starts."""
    return asyncio.run(measure_backlog(500, 10)).peak


def measure_exporter() -> float:
    """As many requests that nobody answers as it keeps, of the longest names."""
    return measure_full_table()


def measure_echo() -> float:
    """A hundred held connections, and ten thousand datagrams of up to 1,400 bytes."""
    question = PACKET.pack(MAGIC, 1, 1, 0, 0, 0) + bytes(1400 - PACKET.size)
    with ExitStack() as held:
        echo, port = held.enter_context(echo_server())
        address = ("127.0.0.1", port)
        for _ in range(100):
            connection = held.enter_context(socket.create_connection(address))
            with suppress(ConnectionError):  # those that came first may be closed by now
                connection.sendall(question[: PACKET.size])
        sender = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for number in range(10_000):
            sender.sendto(question if number % 2 else os.urandom(number % 1400), address)
        return read_peak(echo.pid)


def measure_ui() -> float | None:
    """Two hundred domains in its file, and a browser that watches them."""
    if find_chromium() is None:
        return None
    return asyncio.run(measure_page(200, 5))["server, resident at most, MiB"]


def measure_sampler_page() -> float:
    """A metric page of 63,000 lines, 4,900 of them of the configured workloads."""
    return asyncio.run(_measure_sampler("scrape", "page"))


def measure_sampler_answer() -> float:
    """Answers of Prometheus with 14,000 series."""
    return asyncio.run(_measure_sampler("prometheus", "answer"))


def measure_actuator_targets() -> float:
    """Five hundred targets of ten Pods, beside a thousand other Pods."""
    return asyncio.run(_measure_actuator(500, 10, 500, others=1_000))


def measure_actuator_pods() -> float:
    """One target of five thousand Pods with 4 kB of metadata each."""
    return asyncio.run(_measure_actuator(1, 5_000, 4_000))


def measure_meter() -> float:
    """A node of five hundred Pods with 4 kB of metadata each."""
    return asyncio.run(_measure_meter())


async def _wait(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while not await condition():  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise CommandFailure(f"not within {_PATIENCE_S} s: {what}", ExitCode.FINDING) from None


async def _measure_sampler(source: Literal["scrape", "prometheus"], kind: str) -> float:
    target = Target(deployment="upload", namespace="factory", min=Rate(5000), max=Rate(80_000), fail_safe=Rate(10_000))
    domain = Domain("line", (Critical("robot", "factory"),), (target,))
    with serve_large() as (url, served):

        async def has_read() -> bool:
            return served[kind] >= _ROUNDS[kind]

        signal = Signal(
            source=source,
            window=Duration((2 if source == "scrape" else 4) * _S),  # Prometheus has a point a second
            timeout=Duration(60 * _S),
            scrape=Scrape((f"{url}/metrics",)),
            prometheus=Prometheus(url=url),
        )
        async with Processes() as processes, on_bus(processes) as (settings, _):
            listen = Listen("127.0.0.1", sampler=find_free_ports(1)[0])
            config = Config((domain,), settings, signal, listen=listen, log="error")
            await start_service(processes, "sampler", config, "bus", "streams")
            await _wait(has_read, f"the sampler reads {_ROUNDS[kind]} of the largest {kind}s")
            return read_peak(processes.pid("sampler"))


async def _start_cluster(
    processes: Processes, deployments: int, pods: int, metadata: int, others: int = 0
) -> tuple[Kubernetes, ServicePage]:
    """Start a large cluster in a process of its own; gives how to reach it, and its page for whoever measures."""
    [port] = find_free_ports(1)
    shape = map(str, (port, deployments, pods, metadata, others))
    await processes.start("cluster", sys.executable, "-m", "services.bench.worst.large_cluster", *shape)
    page = ServicePage(port)

    async def answers() -> bool:
        processes.check("cluster")
        return bool(await page.get("/limited/1M"))

    await _wait(answers, "the cluster answers")
    return Kubernetes(server=f"http://127.0.0.1:{port}"), page


async def _measure_actuator(deployments: int, pods: int, metadata: int, others: int = 0) -> float:
    """Start an actuator on a cluster, and cut every Pod to 1M."""
    targets = tuple(
        Target(
            deployment=name_deployment(number),
            namespace=NAMESPACE,
            min=Rate(10_000),
            max=Rate(20_000_000),
            fail_safe=Rate(15_000),
        )
        for number in range(deployments)
    )
    domain = Domain("line", (Critical("robot"),), targets, dead_man=Duration(300 * _S))
    async with Processes() as processes, on_bus(processes) as (settings, bus):
        kubernetes, cluster = await _start_cluster(processes, deployments, pods, metadata, others)
        listen = Listen("127.0.0.1", actuator=find_free_ports(1)[0])
        config = Config((domain,), settings, kubernetes=kubernetes, listen=listen, log="error")
        await start_service(processes, "actuator", config)
        now = time.time_ns()
        await publish(bus, build_decision(domain, now, 1, now, 1_000 * pods))

        async def is_cut() -> bool:
            processes.check("actuator")
            return await cluster.get("/limited/1M") == "true"

        await _wait(is_cut, f"all {deployments * pods} Pods are cut")
        return read_peak(processes.pid("actuator"))


async def _measure_meter() -> float:
    with tempfile.TemporaryDirectory() as proc:
        write_network(Path(proc), [find_address(number) for number in range(_NODE_PODS)])
        async with Processes() as processes:
            kubernetes, _ = await _start_cluster(processes, 1, _NODE_PODS, _LABELS_BYTES)
            listen = Listen("127.0.0.1", meter=find_free_ports(1)[0])
            config = Config((), kubernetes=kubernetes, listen=listen, log="error")
            path = processes.home / "sluice.yaml"
            path.write_text(format_config(config), encoding="utf-8")
            program = find_program("sluice")
            await processes.start("meter", program, "meter", "--config", path, "--node", "worker-1", "--proc", proc)
            page = ServicePage(listen.meter)

            async def has_all() -> bool:
                processes.check("meter")
                return (await page.get("/metrics")).count("network_transmit_bytes_total{") >= _NODE_PODS

            for _ in range(10):
                await _wait(has_all, "the meter's page has every Pod")
            return read_peak(processes.pid("meter"))


def write_network(proc: Path, addresses: list[str]) -> None:
    """A node's devices and routes as ``/proc/net`` shows them: one device for each address."""
    devices = [f"lxc{number}: {number} 1 0 0 0 0 0 0 {number} 1 0 0 0 0 0 0" for number in range(len(addresses))]
    (proc / "dev").write_text("\n".join(("Inter-", " face", *devices, "")), encoding="ascii")
    numbers = (struct.unpack("=I", socket.inet_aton(address))[0] for address in addresses)
    rest = "00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0"
    routes = [f"lxc{number}\t{address:08X}\t{rest}" for number, address in enumerate(numbers)]
    (proc / "route").write_text("\n".join(("Iface", *routes, "")), encoding="ascii")
