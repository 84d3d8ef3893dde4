"""Keeps one prober running for each address that a probe's name resolves to."""

import asyncio
import contextlib
import socket
from typing import Protocol

import structlog
from prometheus_client import CollectorRegistry, Counter

from schemas.exporter import Probe
from services.exporter.metrics import SeriesKey, Transport, probe_series
from services.exporter.node_query import ask_node
from services.exporter.prober import Outcome, ProbeReport, UdpProbe, repeat_tcp

_RESOLVE_S = 15.0
"""How often a name is resolved: Pods come and go."""
_RETRY_S = 1.0
"""How soon at the earliest, when an address does not answer or the name does not resolve."""
_MOST_ADDRESSES = 64
_NODE_S = 30.0
"""How often an address is asked for its node: another Pod may have it."""
_TCP_TIMEOUTS = 3
"""A handshake may take this many timeouts, so that one with a retransmission is still measured."""

Address = tuple[int, str]
"""Family and IP address."""


class LatencySink(Protocol):
    """Counts latencies and losses."""

    def observe(self, series: SeriesKey, latency: float) -> None:
        """Count one latency, seconds."""

    def lose(self, series: SeriesKey, number: int = 1) -> None:
        """Count lost probes; 0 creates the series."""


class ProbeManager:
    """All probers of one configured probe."""

    def __init__(self, probe: Probe, sink: LatencySink, probes: Counter) -> None:
        """Prepare; nothing is sent yet.

        Args:
            probe: what to probe, and how often.
            sink: counts latencies and losses.
            probes: counts outcomes, by namespace, workload, protocol and outcome.
        """
        self._probe = probe
        self._sink = sink
        self._probes = probes
        self._running: dict[Address, asyncio.Task[None]] = {}
        self._nodes: dict[Address, str] = {}
        """By address, the node that its sidecar named."""
        self._log = structlog.get_logger().bind(workload=probe.key)
        self._resolve_error: str | None = None
        self._unanswered = asyncio.Event()
        """Set when an address does not answer: its pod may have been replaced."""
        self.key = probe.key
        self.problem: str | None = "not yet resolved"
        """Why no address is probed; None while one is, and while none is wanted."""
        self.is_wanted = True
        """Whether its workload is critical in some domain; looked at whenever the name would be resolved."""

    async def run(self) -> None:
        """Probe until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                self._unanswered.clear()
                if not self.is_wanted:
                    self.problem = None
                    self.reconcile(set(), group)
                    await asyncio.sleep(_RETRY_S)
                    continue
                try:
                    found = await loop.getaddrinfo(self._probe.address, None, type=socket.SOCK_DGRAM)
                except OSError as error:
                    problem = f"{self._probe.address}: {error}"
                    if problem != self._resolve_error:
                        self._log.warning("name is not resolved", why=problem)
                    self._resolve_error = problem
                    # The addresses found before are still the best guess.
                    self.problem = None if self._running else problem
                else:
                    self.problem = None
                    addresses = sorted({(int(family), str(place[0])) for family, _, _, _, place in found})
                    self.reconcile(set(addresses[:_MOST_ADDRESSES]), group)
                await asyncio.sleep(_RETRY_S)
                if self._running:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_RESOLVE_S):
                            await self._unanswered.wait()

    def reconcile(self, addresses: set[Address], group: asyncio.TaskGroup) -> None:
        """Probe exactly these addresses; on a change all probers restart, because they share the rate."""
        if addresses == set(self._running):
            return
        for task in self._running.values():
            task.cancel()
        self._running = {
            address: group.create_task(self._probe_address(address, len(addresses))) for address in addresses
        }
        self._nodes = {address: node for address, node in self._nodes.items() if address in addresses}
        self._log.info("probing", addresses=sorted(host for _, host in addresses))

    async def _probe_address(self, address: Address, sharing: int) -> None:
        family, host = address
        probe = self._probe
        async with asyncio.TaskGroup() as group:
            group.create_task(self._find_node(address))
            if probe.udp is not None:
                group.create_task(self._udp(address, probe.udp, sharing / probe.rate))
            if probe.tcp is not None:
                report = self._report("tcp", address)
                timeout = _TCP_TIMEOUTS * probe.timeout.seconds
                interval = sharing / probe.tcp_rate
                group.create_task(repeat_tcp((host, probe.tcp), family, timeout, interval, report))

    async def _find_node(self, address: Address) -> None:
        family, host = address
        port, is_tcp = self._probe.tcp, True
        if port is None:
            port, is_tcp = self._probe.udp or 0, False
        while True:
            node = await ask_node((host, port), family, is_tcp=is_tcp)
            if node:
                self._nodes[address] = node
            await asyncio.sleep(_NODE_S if node else _RESOLVE_S)

    async def _udp(self, address: Address, port: int, interval: float) -> None:
        report = self._report("udp", address)
        family, host = address
        prober = UdpProbe((host, port), family, self._probe.size, self._probe.timeout, report)
        last_error = None
        while True:
            try:
                await prober.run(interval)
            except OSError as error:
                report.record("not-sent")
                if str(error) != last_error:
                    self._log.warning("address is unreachable", address=host, why=str(error))
                last_error = str(error)
                await asyncio.sleep(_RETRY_S)
            self._unanswered.set()

    def _report(self, protocol: Transport, address: Address) -> ProbeReport:
        series = probe_series(self._probe, protocol)
        self._sink.lose(series, 0)

        def place() -> SeriesKey:
            return series._replace(node=self._nodes.get(address, ""))

        def count(outcome: Outcome) -> None:
            self._probes.labels(self._probe.namespace, self._probe.workload, protocol, outcome).inc()

        return ProbeReport(
            lambda latency: self._sink.observe(place(), latency), lambda lost: self._sink.lose(place(), lost), count
        )


def probe_counter(registry: CollectorRegistry) -> Counter:
    """The counter of all probes' outcomes."""
    return Counter(
        "sluice_exporter_probes",
        "Echoes by what became of them.",
        ("namespace", "workload", "protocol", "outcome"),
        registry=registry,
    )
