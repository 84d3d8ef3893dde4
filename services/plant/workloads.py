"""The workloads on one bottleneck and their sizes, shared by plant, scenario and oracle.

Loads are kbit/s of payload, as applications count them; limits and the capacity count bytes on the wire.
"""

from typing import Literal

import msgspec
from msgspec import Struct

from services.plant.topology import ROBOT, SCANNER, TELEMETRY

MTU_WIRE = 1514
"""Ethernet bytes of a full TCP segment, which carries ``MSS`` bytes of payload."""
MSS = 1448
TCP_SHARE = MSS / MTU_WIRE
"""Payload as a share of the wire's bytes."""
UDP_HEADERS = 42
"""Bytes that Ethernet, IP and UDP add to a datagram."""


class CriticalApp(Struct, frozen=True):
    """A critical workload on the bottleneck."""

    workload: str
    """``namespace/name``."""
    protocol: Literal["udp", "tcp"]
    load: int
    """What it sends, kbit/s of payload."""
    packet: int = MSS
    """Payload bytes of a packet."""
    probe_hz: int = 250
    """Probes of it a second."""

    def wire(self) -> float:
        """Its load on the wire, kbit/s."""
        if self.protocol == "tcp":
            return self.load / TCP_SHARE
        return self.load * (self.packet + UDP_HEADERS) / self.packet


class TargetApp(Struct, frozen=True):
    """A best-effort Deployment."""

    target: str
    """``namespace/deployment``."""
    load: int | None = None
    """What each replica wants to send, kbit/s of payload; None is as much as it can get."""
    replicas: int = 1
    flows: int = 4
    """TCP connections of each replica."""
    limit: int | None = None
    """In force on each pod at the start, kbit/s on the wire; None: no limit."""
    congestion: Literal["cubic", "bbr"] = "cubic"
    """What controls its connections on real packets; the simulated plant has CUBIC's queue only."""


class Apps(Struct, frozen=True):
    """All workloads on one bottleneck.  The defaults are the testbed's."""

    capacity: int = 100_000
    """kbit/s on the wire."""
    critical: tuple[CriticalApp, ...] = (
        CriticalApp(ROBOT, "udp", 2_000, packet=200),
        CriticalApp(SCANNER, "tcp", 25_000, probe_hz=100),
    )
    targets: tuple[TargetApp, ...] = (TargetApp(TELEMETRY),)
    probe: int = 200
    """Payload bytes of a probe."""

    def critical_wire(self) -> float:
        """What the critical workloads and their probes put on the wire, kbit/s."""
        probes = sum(one.probe_hz for one in self.critical) * (self.probe + UDP_HEADERS) * 8 / 1000
        return sum(one.wire() for one in self.critical) + probes

    def safe_budget(self) -> int:
        """The largest sum of all best-effort limits that builds up no queue, kbit/s on the wire."""
        return max(int(self.capacity - self.critical_wire()), 0)

    def goodput(self, budget: int) -> int:
        """What the targets deliver under that sum of limits, kbit/s of payload, up to their loads."""
        most = round(budget * TCP_SHARE)
        if any(one.load is None for one in self.targets):
            return most
        return min(most, sum((one.load or 0) * one.replicas for one in self.targets))

    def with_loads(self, loads: dict[str, int | None], capacity: int | None = None) -> "Apps":
        """A copy with other loads, by workload or target, and optionally another capacity."""
        replace = msgspec.structs.replace
        return replace(
            self,
            capacity=capacity or self.capacity,
            critical=tuple(replace(one, load=loads.get(one.workload, one.load)) for one in self.critical),
            targets=tuple(replace(one, load=loads.get(one.target, one.load)) for one in self.targets),
        )

    def with_probes(self, hz: int) -> "Apps":
        """A copy whose critical workloads are each probed ``hz`` times a second."""
        replace = msgspec.structs.replace
        return replace(self, critical=tuple(replace(one, probe_hz=hz) for one in self.critical))

    def scale(self, share: float) -> "Apps":
        """A copy with every rate but the probes' multiplied by ``share``."""
        loads: dict[str, int | None] = {one.workload: round(one.load * share) for one in self.critical}
        loads |= {one.target: None if one.load is None else round(one.load * share) for one in self.targets}
        return self.with_loads(loads, round(self.capacity * share))
