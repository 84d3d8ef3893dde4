"""Pairs a request with its answer into one latency.

    relay_client -> flow_reader -> replay_filter -> *pairing* -> metrics

Pure: no I/O, no clock.  Only events of one node are paired, because clocks differ between nodes, and only
at the points where the two times enclose the network:

    client's node   request at TO_STACK, TO_OVERLAY or TO_NETWORK -> answer at TO_ENDPOINT   remote
    one node        request at TO_ENDPOINT -> answer at TO_ENDPOINT                          local

A server's node sees the same packets the other way round: its times enclose the server only, so such
requests are dropped.  A TCP request is a SYN and its answer the SYN-ACK.  A repeated SYN keeps the time of
the first, so that a lost one shows as the second that it cost.  Of UDP, only the first packet after a
silence counts, and the first one back.  Silence is measured by the node's times, because Relay delays some
flows by seconds and others not.
"""

import sys
from collections import Counter
from typing import Literal, NamedTuple

TO_STACK, TO_OVERLAY, TO_NETWORK, TO_ENDPOINT = 3, 4, 11, 101
_OUTBOUND = frozenset((TO_STACK, TO_OVERLAY, TO_NETWORK))
VALID_POINTS = _OUTBOUND | {TO_ENDPOINT}

QUIET_NS = 6_000_000_000
"""Monitor aggregation reports a busy conversation every 5 s: a longer silence was a real one."""
_REMEMBERED_NS = 2 * QUIET_NS
"""How long a conversation is remembered at least: flows of several nodes arrive slightly out of order."""
_NODES = 5000
"""More than any cluster has."""
_GENERATIONS = 3
_ENTRY_BYTES = 120
"""Memory of an entry besides its key: its integer, and its share of the table."""

Protocol = Literal["tcp", "udp"]
Kind = Literal["handshake", "request"]


class Flow(NamedTuple):
    """One event, reduced to what pairing needs."""

    conversation: str
    """Protocol, addresses and ports, in the direction of the request, and the node."""
    time: int
    """By that node's clock, UTC ns."""
    point: int
    """Where it was seen: Hubble's TraceObservationPoint."""
    protocol: Protocol
    answer: bool | None
    """Whether it goes from the server to the client; None where Hubble does not know."""
    client: str
    """``namespace/workload`` that sent the request; empty outside the cluster."""
    server: str
    """``namespace/workload`` that answers; empty outside the cluster."""


class Pair(NamedTuple):
    """An answered request."""

    latency: float
    """Seconds."""
    protocol: Protocol
    kind: Kind
    local: bool
    """Both ends are on one node, so the network between nodes is not part of the latency."""
    client: str
    server: str
    node: str = ""
    """The client's."""


# A pending request is one integer, its time shifted by two flag bits, because there may be many.
_LOCAL = 2
"""Flag: seen at an endpoint of this node."""
_LEFT = 1
"""Flag: its answer left this node, so this node is the server's."""
_FLAGS = 2


class _Generation:
    """Requests that arrived in one interval."""

    __slots__ = ("bytes", "requests")

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.bytes = 0


class PairingTable:
    """The table of pending requests, bounded in time, entries and bytes."""

    def __init__(self, handshake: int, request: int, entries: int, most_bytes: int) -> None:
        """Set the bounds.

        Args:
            handshake: how long a SYN may be pending, ns.
            request: how long a UDP request may be pending, ns.
            entries: most pending requests.
            most_bytes: most memory that they may take.
        """
        self._limits = {"tcp": handshake, "udp": request}
        self._span = max(handshake, request) // (_GENERATIONS - 1)
        self._entries = entries // _GENERATIONS
        self._bytes = most_bytes // _GENERATIONS
        self._generations = [_Generation() for _ in range(_GENERATIONS)]
        self._rotated = 0
        self._heard: tuple[dict[int, int], dict[int, int]] = ({}, {})
        """When each conversation was heard last, by its hash: names would take three times the memory."""
        self._heard_since = 0
        self._complete_since: dict[str, int] | None = None
        """Start of each node's uninterrupted events, by its clock; None: no event was ever missed."""
        self.counts: Counter[str] = Counter()
        """Flows that gave no pair, by reason; see docs/exporter.md."""

    @property
    def pending(self) -> int:
        """Pending requests."""
        return sum(len(generation.requests) for generation in self._generations)

    @property
    def pending_bytes(self) -> int:
        """Their memory, estimated."""
        return sum(generation.bytes for generation in self._generations)

    def mark_interrupted(self) -> None:
        """Events may have been missed before the next one, so a UDP conversation that seems silent may not be."""
        self._complete_since = {}

    def expire(self, now: int) -> None:
        """Drop requests that have been pending for too long at ``now`` (monotonic, ns)."""
        if now - self._rotated < self._span:
            return
        steps, rest = divmod(now - self._rotated, self._span) if self._rotated else (1, 0)
        for _ in range(min(steps, _GENERATIONS)):
            self._drop_oldest("unanswered")
        # The rest counts for the next rotation: otherwise rare calls would lengthen a generation.
        self._rotated = now - rest

    def step(self, flow: Flow, now: int) -> Pair | None:
        """Process one event that arrived at ``now`` (monotonic, ns).

        Returns:
            A pair, where the event answers a pending request.
        """
        self.expire(now)
        if flow.answer is None:
            self.counts["direction-unknown"] += 1
            return None
        if flow.point not in VALID_POINTS:
            self.counts["other-point"] += 1
            return None
        fresh = flow.protocol == "tcp" or self._is_new_conversation(flow)
        if flow.answer:
            return self._match_answer(flow)
        self._add_request(flow, now, fresh=fresh)
        return None

    def _add_request(self, flow: Flow, now: int, *, fresh: bool) -> None:
        pending = flow.time << _FLAGS | (_LOCAL if flow.point == TO_ENDPOINT else 0)
        for generation in self._generations:
            before = generation.requests.get(flow.conversation)
            if before is None:
                continue
            # It is pending already, and was seen again.
            if abs(flow.time - (before >> _FLAGS)) > self._limits[flow.protocol]:
                # The port was reused by another conversation.  Or, for UDP, the same one goes on.
                self.counts["unanswered" if fresh else "sampled"] += 1
                if fresh:
                    generation.requests[flow.conversation] = pending
            elif pending & _LOCAL and not before & _LOCAL:
                # On its way out it reached an endpoint of the same node.
                generation.requests[flow.conversation] = pending | before & _LEFT
            elif pending & _LOCAL == before & _LOCAL:
                self.counts["repeated"] += 1
                generation.requests[flow.conversation] = min(pending | before & _LEFT, before)
            return
        if not fresh:
            self.counts["sampled"] += 1
            return
        size = sys.getsizeof(flow.conversation) + _ENTRY_BYTES
        young = self._generations[0]
        if len(young.requests) >= self._entries or young.bytes + size > self._bytes:
            self._drop_oldest("evicted")
            self._rotated = now
            young = self._generations[0]
        young.requests[flow.conversation] = pending
        young.bytes += size

    def _match_answer(self, flow: Flow) -> Pair | None:
        for generation in self._generations:
            before = generation.requests.get(flow.conversation)
            if before is not None:
                break
        else:
            self.counts["unasked"] += 1
            return None
        if flow.point != TO_ENDPOINT:
            generation.requests[flow.conversation] = before | _LEFT
            return None
        del generation.requests[flow.conversation]
        generation.bytes -= sys.getsizeof(flow.conversation) + _ENTRY_BYTES
        took = flow.time - (before >> _FLAGS)
        if took < 0:
            # The agent takes the time when it reads an event, so order and clock can slip.
            self.counts["negative"] += 1
            return None
        if took > self._limits[flow.protocol]:
            self.counts["absurd"] += 1
            return None
        kind: Kind = "handshake" if flow.protocol == "tcp" else "request"
        # A request that left the node was seen on the client's: on the server's alone, it would be no pair.
        node = flow.conversation.rpartition(" ")[2]
        return Pair(took / 1e9, flow.protocol, kind, bool(before & _LOCAL), flow.client, flow.server, node)

    def _is_new_conversation(self, flow: Flow) -> bool:
        """Whether a UDP conversation was silent for longer than aggregation keeps a busy one silent."""
        new, old = self._heard
        full = len(new) >= self._entries // 2
        if full or flow.time - self._heard_since >= _REMEMBERED_NS:
            if full:
                # Conversations that are forgotten early would look new.
                self.counts["overheard"] += len(old)
                self.mark_interrupted()
            new, old = self._heard = ({}, new)
            self._heard_since = flow.time
        key = hash(flow.conversation)
        last = new.get(key) or old.get(key)
        new[key] = flow.time
        silent = last is None or flow.time - last >= QUIET_NS
        if self._complete_since is None:
            return silent
        # The node's events must have been complete for as long, to prove the silence.
        if len(self._complete_since) >= _NODES:
            self._complete_since.clear()
        node = flow.conversation.rpartition(" ")[2]
        since = self._complete_since.setdefault(node, flow.time)
        if flow.time < since:
            # Its clock was set back: start again from there, rather than wait for the old time to return.
            since = self._complete_since[node] = flow.time
        return silent and flow.time - since >= QUIET_NS

    def _drop_oldest(self, reason: str) -> None:
        oldest = self._generations.pop()
        self._generations.insert(0, _Generation())
        left = sum(pending & _LEFT for pending in oldest.requests.values())
        if left:
            self.counts["server-side"] += left
        if len(oldest.requests) > left:
            self.counts[reason] += len(oldest.requests) - left
