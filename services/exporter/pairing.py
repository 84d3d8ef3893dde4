"""Third station of a flow: a request and its answer become one latency.

    Relay -> wire -> resume -> *pairing* -> metrics

Pure: no I/O, no clock.  Only what one node saw is paired, because clocks differ between nodes, and
only at the points where the two times enclose the network:

    client's node   request at TO_STACK, TO_OVERLAY or TO_NETWORK -> answer at TO_ENDPOINT   remote
    one node        request at TO_ENDPOINT -> answer at TO_ENDPOINT                          local

A server's node sees the same packets the other way round, which encloses the server only; such
requests are let go.  A TCP request is a SYN and its answer the SYN-ACK; a SYN that comes again keeps
the time of the first, so that a lost one shows as the second that it cost.  Of UDP, only the first
packet after a silence counts, and the first one back; silence is told by the node's times, because
Relay holds flows back, some for seconds and others not.
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
"""For so long, at least, a conversation is known: flows of several nodes do not come quite in order."""
_NODES = 5000
"""More than a cluster has."""
_GENERATIONS = 3
_ENTRY_BYTES = 120
"""What an entry takes besides its key: its integer, and its share of the table."""

Protocol = Literal["tcp", "udp"]
Kind = Literal["handshake", "request"]


class Flow(NamedTuple):
    """What pairing needs to know of one event."""

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
    """``namespace/workload`` of who asked; empty outside the cluster."""
    server: str
    """``namespace/workload`` of who answers; empty outside the cluster."""


class Pair(NamedTuple):
    """A request that was answered."""

    latency: float
    """Seconds."""
    protocol: Protocol
    kind: Kind
    local: bool
    """Both ends are on one node: nothing of the network between nodes is in it."""
    client: str
    server: str


# A request that waits is one integer, the time shifted by two bits, because there may be many.
_LOCAL = 2
"""Flag: seen at an endpoint of this node."""
_LEFT = 1
"""Flag: its answer was seen on the way out, so this node is the server's."""
_FLAGS = 2


class _Generation:
    """Requests that arrived in one stretch of time."""

    __slots__ = ("bytes", "requests")

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.bytes = 0


class PairingTable:
    """The table of requests that wait, bounded in time, entries and bytes."""

    def __init__(self, handshake: int, request: int, entries: int, most_bytes: int) -> None:
        """Set the bounds.

        Args:
            handshake: how long a SYN may wait, ns.
            request: how long a UDP request may wait, ns.
            entries: most requests that wait.
            most_bytes: most memory that they take.
        """
        self._limits = {"tcp": handshake, "udp": request}
        self._span = max(handshake, request) // (_GENERATIONS - 1)
        self._entries = entries // _GENERATIONS
        self._bytes = most_bytes // _GENERATIONS
        self._generations = [_Generation() for _ in range(_GENERATIONS)]
        self._turned = 0
        self._heard: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self._heard_turned = 0
        self._listening: dict[str, int] | None = None
        """Since when, by its clock, each node has been heard without interruption; None: all of them always."""
        self.counts: Counter[str] = Counter()
        """What became of flows that gave no pair, by reason; see docs/exporter.md."""

    @property
    def pending(self) -> int:
        """Requests that wait."""
        return sum(len(generation.requests) for generation in self._generations)

    @property
    def pending_bytes(self) -> int:
        """What they take, estimated."""
        return sum(generation.bytes for generation in self._generations)

    def mark_interrupted(self) -> None:
        """Events may be missing from before the next ones: silence proves nothing for a while."""
        self._listening = {}

    def expire(self, now: int) -> None:
        """Give up what has waited for too long at ``now`` (monotonic, ns)."""
        if now - self._turned >= self._span:
            self._rotate(now)

    def step(self, flow: Flow, now: int) -> Pair | None:
        """Take one event in; ``now`` is when it arrived (monotonic, ns).

        Returns:
            A pair, where the event was the answer to a request that waited.
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
        waiting = flow.time << _FLAGS | (_LOCAL if flow.point == TO_ENDPOINT else 0)
        for generation in self._generations:
            before = generation.requests.get(flow.conversation)
            if before is not None:
                kept = self._again(flow, before, waiting, fresh=fresh)
                if kept != before:
                    generation.requests[flow.conversation] = kept
                return
        if fresh:
            self._add(flow.conversation, waiting, now)
        else:
            self.counts["sampled"] += 1

    def _again(self, flow: Flow, before: int, waiting: int, *, fresh: bool) -> int:
        """What waits after a request was seen that waits already."""
        if abs(flow.time - (before >> _FLAGS)) > self._limits[flow.protocol]:
            # The port was used again: another conversation.  Or, of UDP, the same one goes on.
            self.counts["unanswered" if fresh else "sampled"] += 1
            return waiting if fresh else before
        if waiting & _LOCAL and not before & _LOCAL:
            # On its way out it came to an endpoint of this very node.
            return waiting | before & _LEFT
        if waiting & _LOCAL == before & _LOCAL:
            self.counts["repeated"] += 1
            return min(waiting | before & _LEFT, before)
        return before

    def _add(self, conversation: str, waiting: int, now: int) -> None:
        size = sys.getsizeof(conversation) + _ENTRY_BYTES
        young = self._generations[0]
        if len(young.requests) >= self._entries or young.bytes + size > self._bytes:
            self._drop_oldest("evicted")
            self._turned = now
            young = self._generations[0]
        young.requests[conversation] = waiting
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
            # The times are taken by the agent when it reads an event, so order and clock can slip.
            self.counts["negative"] += 1
            return None
        if took > self._limits[flow.protocol]:
            self.counts["absurd"] += 1
            return None
        kind: Kind = "handshake" if flow.protocol == "tcp" else "request"
        return Pair(took / 1e9, flow.protocol, kind, bool(before & _LOCAL), flow.client, flow.server)

    def _is_new_conversation(self, flow: Flow) -> bool:
        """Whether nothing was heard of a UDP conversation for longer than a busy one is silent."""
        new, old = self._heard
        full = len(new) >= self._entries // 2
        if full or flow.time - self._heard_turned >= _REMEMBERED_NS:
            if full:
                # What is forgotten early would look new.
                self.counts["overheard"] += len(old)
                self.mark_interrupted()
            new, old = self._heard = ({}, new)
            self._heard_turned = flow.time
        heard = new.get(flow.conversation) or old.get(flow.conversation)
        new[flow.conversation] = flow.time
        return self._is_heard(flow) and (heard is None or flow.time - heard >= QUIET_NS)

    def _is_heard(self, flow: Flow) -> bool:
        """Whether its node has been heard for long enough to know that somebody was silent."""
        if self._listening is None:
            return True
        if len(self._listening) >= _NODES:
            self._listening.clear()
        node = flow.conversation.rpartition(" ")[2]
        since = self._listening.setdefault(node, flow.time)
        if flow.time < since:
            # Its clock was set back: it listens from then on, and is not deaf until the old time comes again.
            since = self._listening[node] = flow.time
        return flow.time - since >= QUIET_NS

    def _rotate(self, now: int) -> None:
        steps, over = divmod(now - self._turned, self._span) if self._turned else (1, 0)
        for _ in range(min(steps, _GENERATIONS)):
            self._drop_oldest("unanswered")
        # The rest counts for the next turn: otherwise a generation lives longer the more seldom one looks.
        self._turned = now - over

    def _drop_oldest(self, reason: str) -> None:
        oldest = self._generations.pop()
        self._generations.insert(0, _Generation())
        left = sum(waiting & _LEFT for waiting in oldest.requests.values())
        if left:
            self.counts["server-side"] += left
        if len(oldest.requests) > left:
            self.counts[reason] += len(oldest.requests) - left
