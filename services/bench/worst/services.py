"""One measurement for each service: what its process took at most, MiB, on its worst input."""

import asyncio
import os
import socket
import struct
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from schemas.config import Config, Listen, Prometheus, Scrape, Signal
from schemas.domain import Critical, Domain, Target
from schemas.messages import Decision, State, TargetDecision
from schemas.units import Duration, Rate
from services.bench.speed.decision_service import measure_backlog
from services.bench.speed.exporter import echo_server, measure_pending
from services.bench.speed.memory import on_bus, publish, start_service
from services.bench.ui.chromium import find_chromium
from services.bench.ui.command import measure_page
from services.bench.worst.hostile_pages import serve_large
from services.bench.worst.large_cluster import LargeCluster
from services.plant.harness.pipeline import find_free_ports, find_program, format_config
from services.plant.harness.processes import Processes

_S = 10**9
_PATIENCE_S = 600
_ROUNDS = 8
"""Pages or answers that a sampler reads."""
_NODE_PODS, _LABELS_BYTES = 500, 4_000
"""Of a meter's node, and of each Pod."""


def measure_decision() -> float:
    """Two hundred domains, with ten samples each that wait when it starts."""
    return asyncio.run(measure_backlog(200, 10)).resident


def measure_exporter() -> float:
    """A hundred thousand connections that nobody answers."""
    return measure_pending()["resident with 100,000 pending, MiB"]


def measure_echo() -> float:
    """Ten thousand datagrams of up to 1,400 bytes."""
    with echo_server() as (echo, port), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(10_000):
            sender.sendto(os.urandom(number % 1400), ("127.0.0.1", port))
        return read_peak(echo.pid)


def measure_ui() -> float | None:
    """A thousand domains, and a browser that watches them; None without one."""
    if find_chromium() is None:
        return None
    return asyncio.run(measure_page(1000, 5))["server, resident, MiB"]


def measure_sampler_page() -> float:
    """A metric page of 67,000 lines, 9,000 of them of the configured workloads."""
    return asyncio.run(_measure_sampler("scrape", "page"))


def measure_sampler_answer() -> float:
    """Answers of Prometheus with 14,000 series."""
    return asyncio.run(_measure_sampler("prometheus", "answer"))


def measure_actuator_targets() -> float:
    """Five hundred targets of ten Pods, beside a thousand other Pods."""
    return asyncio.run(_measure_actuator(LargeCluster(500, 10, 500, others=1_000)))


def measure_actuator_pods() -> float:
    """One target of five thousand Pods with 4 kB of metadata each."""
    return asyncio.run(_measure_actuator(LargeCluster(1, 5_000, 4_000)))


def measure_meter() -> float:
    """A node of five hundred Pods with 4 kB of metadata each."""
    return asyncio.run(_measure_meter())


def read_peak(pid: int) -> float:
    """The largest resident memory of a process so far, MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


async def _wait(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def _measure_sampler(source: Literal["scrape", "prometheus"], kind: str) -> float:
    target = Target(deployment="upload", namespace="factory", min=Rate(5000), max=Rate(80_000), fail_safe=Rate(10_000))
    domain = Domain("line", (Critical("robot", "factory"),), (target,))
    with serve_large() as (url, served):
        signal = Signal(
            source=source,
            window=Duration(4 * _S),
            timeout=Duration(60 * _S),
            scrape=Scrape((f"{url}/metrics",)),
            prometheus=Prometheus(url=url),
        )
        async with Processes() as processes, on_bus(processes) as (settings, _):
            listen = Listen("127.0.0.1", sampler=find_free_ports(1)[0])
            config = Config((domain,), settings, signal, listen=listen, log="error")
            await start_service(processes, "sampler", config, "bus", "streams")
            await _wait(lambda: served[kind] >= _ROUNDS)
            return read_peak(processes.pid("sampler"))


async def _measure_actuator(cluster: LargeCluster) -> float:
    targets = tuple(
        Target(
            deployment=name, namespace=cluster.namespace, min=Rate(10_000), max=Rate(20_000_000), fail_safe=Rate(15_000)
        )
        for name in cluster.deployments
    )
    domain = Domain("line", (Critical("robot"),), targets, dead_man=Duration(300 * _S))
    each = len(cluster.pods) // len(targets)
    async with Processes() as processes, cluster.serving(), on_bus(processes) as (settings, bus):
        listen = Listen("127.0.0.1", actuator=find_free_ports(1)[0])
        config = Config((domain,), settings, kubernetes=cluster.config, listen=listen, log="error")
        await start_service(processes, "actuator", config)
        end, limit = time.time_ns(), 1_000 * each
        decision = Decision(
            domain=domain.name,
            sample=f"{domain.name}:{end}",
            end=end,
            expires=end + domain.dead_man,
            targets=tuple(
                TargetDecision(target=one.key, limit=limit, proposal=limit, rule="none", was=0) for one in targets
            ),
            reason="bench",
            state=State(epoch=end, seq=1, end=end, shield={}, policy="bench/1"),
            policy="bench/1",
            stress=0.5,
        )
        await publish(bus, decision)
        await _wait(lambda: cluster.limited("1M"))
        return read_peak(processes.pid("actuator"))


async def _measure_meter() -> float:
    cluster = LargeCluster(1, _NODE_PODS, _LABELS_BYTES)
    with tempfile.TemporaryDirectory() as proc:
        write_network(Path(proc), [pod["status"]["podIP"] for pod in cluster.pods.values()])
        async with Processes() as processes, cluster.serving():
            listen = Listen("127.0.0.1", meter=find_free_ports(1)[0])
            config = Config((), kubernetes=cluster.config, listen=listen, log="error")
            path = processes.home / "sluice.yaml"
            path.write_text(format_config(config), encoding="utf-8")
            program = find_program("sluice")
            await processes.start("meter", program, "meter", "--config", path, "--node", "worker-1", "--proc", proc)
            page = f"http://127.0.0.1:{listen.meter}/metrics"
            for _ in range(10):
                await _read_page(page, _NODE_PODS)
            return read_peak(processes.pid("meter"))


def write_network(proc: Path, addresses: list[str]) -> None:
    """A node's devices and routes as ``/proc/net`` shows them: one device for each address."""
    devices = [f"lxc{number}: {number} 1 0 0 0 0 0 0 {number} 1 0 0 0 0 0 0" for number in range(len(addresses))]
    (proc / "dev").write_text("\n".join(("Inter-", " face", *devices, "")), encoding="ascii")
    numbers = (struct.unpack("=I", socket.inet_aton(address))[0] for address in addresses)
    rest = "00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0"
    routes = [f"lxc{number}\t{address:08X}\t{rest}" for number, address in enumerate(numbers)]
    (proc / "route").write_text("\n".join(("Iface", *routes, "")), encoding="ascii")


async def _read_page(url: str, series: int) -> None:
    """Read the meter's page until it has so many Pods."""

    def has_all() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - the bench's own service
                return bytes(answer.read()).count(b"network_transmit_bytes_total{") >= series
        except OSError:
            return False

    async with asyncio.timeout(_PATIENCE_S):
        while not await asyncio.to_thread(has_all):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
