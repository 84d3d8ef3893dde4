"""Connection tracking and monitor aggregation ``medium``, as Cilium's datapath does them; pure.

An endpoint reports the first packet of a conversation, a new TCP flag in that direction, every FIN and RST,
and otherwise one packet per five seconds and direction.
"""

from collections import deque
from typing import NamedTuple

SYN, FIN, RST, ACK = 2, 1, 4, 16
_REPORTED = SYN | FIN | RST
INTERVAL_NS = 5_000_000_000
_LIFETIME_NS = 60_000_000_000


class Packet(NamedTuple):
    """The headers of a packet."""

    protocol: int
    """6 or 17."""
    source: str
    source_port: int
    destination: str
    destination_port: int
    flags: int
    """Of TCP; 0 of UDP."""


class Verdict(NamedTuple):
    """The result of tracking a packet."""

    report: bool
    reply: bool


class _Entry:
    __slots__ = ("flags", "heard", "outgoing", "reported")

    def __init__(self, now: int, *, outgoing: bool) -> None:
        self.outgoing = outgoing
        self.flags = {True: 0, False: 0}
        self.reported = {True: now, False: -INTERVAL_NS * 2}
        self.heard = now


class Conntrack:
    """The connection table of one node."""

    def __init__(self) -> None:
        """Begin empty."""
        self._entries: dict[tuple[int, str, int, str, int], _Entry] = {}
        self._left: dict[tuple[int, str, int, str, int], deque[Verdict]] = {}

    def arrives(self, packet: Packet, now: int) -> Verdict:
        """The packet reaches its destination endpoint."""
        key = (packet.protocol, packet.destination, packet.destination_port, packet.source, packet.source_port)
        return self._see(key, packet, now, outgoing=False)

    def leaves(self, packet: Packet, now: int) -> None:
        """The packet leaves its source endpoint; ``passes`` gives the result at the device."""
        key = (packet.protocol, packet.source, packet.source_port, packet.destination, packet.destination_port)
        self._left.setdefault(key, deque(maxlen=64)).append(self._see(key, packet, now, outgoing=True))

    def passes(self, packet: Packet) -> Verdict | None:
        """The result from when the packet left its endpoint; None if that is no endpoint of this node."""
        key = (packet.protocol, packet.source, packet.source_port, packet.destination, packet.destination_port)
        waiting = self._left.get(key)
        return waiting.popleft() if waiting else None

    def _see(self, key: tuple[int, str, int, str, int], packet: Packet, now: int, *, outgoing: bool) -> Verdict:
        entry = self._entries.get(key)
        if entry is None or now - entry.heard > _LIFETIME_NS:
            entry = self._entries[key] = _Entry(now, outgoing=outgoing)
            entry.flags[outgoing] = packet.flags & _REPORTED
            return Verdict(report=True, reply=False)
        entry.heard = now
        flags = entry.flags[outgoing] | packet.flags & _REPORTED
        due = now - entry.reported[outgoing] > INTERVAL_NS
        report = due or flags != entry.flags[outgoing] or bool(packet.flags & (FIN | RST))
        if report:
            entry.flags[outgoing] = flags
            entry.reported[outgoing] = now
        return Verdict(report, reply=outgoing != entry.outgoing)
