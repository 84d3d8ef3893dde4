"""Follows Relay's stream in a thread of its own, and reconnects when it ends.

    relay_client -> flow_reader -> replay_filter -> pairing -> metrics

This module runs that whole chain.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

import structlog
from google.protobuf.message import DecodeError

from services.common.backoff import BackOff
from services.exporter.flow_reader import FlowReader, UnusableFlow
from services.exporter.metrics import FlowStatus, LatencyMetrics
from services.exporter.observer_pb2 import (
    GetFlowsResponse,
    LostEventSource,
    NodeState,
)
from services.exporter.pairing import PairingTable
from services.exporter.relay_client import RelayError
from services.exporter.replay_filter import ReplayFilter

_AHEAD_NS = 60_000_000_000
"""No node's clock is that far ahead; such a flow must not move the time to resume from."""
_LOSSES = 256
"""How many loss reports are remembered: Relay repeats them with every replay."""
_MOST_NODES = 5000
_SETTLED_NS = 5_000_000_000
"""A stream that lasted this long was not a failed attempt."""
_FIRST_WAIT_S = 0.2
_MOST_WAIT_S = 10.0


class Messages(Protocol):
    """A stream of undecoded messages."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield each message; raise RelayError at the end of the connection."""

    def cancel(self) -> None:
        """End the stream, from any thread."""

    def close(self) -> None:
        """Drop the connection."""


class FlowFollower:
    """Owns the stream and processes its flows."""

    def __init__(
        self,
        open_stream: Callable[[bytes], Messages],
        reader: FlowReader,
        pairing: PairingTable,
        latencies: LatencyMetrics,
        silence: int,
    ) -> None:
        """Wire the chain; nothing is opened yet.

        Args:
            open_stream: opens a stream for an encoded request; raises RelayError.
            reader: builds the request, and parses flows.
            pairing: pairs them.
            latencies: counts the pairs.
            silence: a stream without messages for this long (ns) is reopened.
        """
        self._open = open_stream
        self._reader = reader
        self._pairing = pairing
        self._latencies = latencies
        self._latencies.initialize_losses()
        self._silence = silence
        self._replay_filter = ReplayFilter()
        self._losses: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._stream: Messages | None = None
        self._last_message = 0
        self._stopping = threading.Event()
        self._defined = 0
        """How often other workloads were to be followed."""
        self._lock = threading.Lock()
        self._log = structlog.get_logger()
        self.status = FlowStatus(pairing, self._replay_filter)
        self.problem: str | None = "not yet connected"
        """Why no stream is open; None while one is."""

    def run(self) -> None:
        """Follow until stopped; the body of the thread."""
        back_off = BackOff(_FIRST_WAIT_S, _MOST_WAIT_S)
        while not self._stopping.is_set():
            try:
                self._follow()
                # The stream lasted, so the next failure is a new one.
                back_off = BackOff(_FIRST_WAIT_S, _MOST_WAIT_S)
            except RelayError as error:
                wait_s = back_off.next_s()
                self.problem = str(error)
                self._log.warning("relay stream failed", why=str(error), wait=round(wait_s, 2))
                self._stopping.wait(wait_s)

    def stop(self) -> None:
        """End ``run``, from any thread."""
        self._stopping.set()
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def define(self, critical: Collection[str], targets: Collection[str]) -> None:
        """Follow these workloads from now on, ``namespace/workload``; from any thread."""
        if not self._reader.define(critical, targets):
            return
        self._defined += 1
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def enforce_timeouts(self) -> None:
        """Drop old requests, and a stream that has been silent for too long; to be called about every second.

        Called from another thread: without messages the follower's own thread is blocked.
        """
        with self._lock:
            self._pairing.expire(time.monotonic_ns())
        stream = self._stream
        if stream is not None and time.monotonic_ns() - self._last_message > self._silence:
            self._log.warning("relay is silent: reconnecting", silence=self._silence / 1e9)
            self._last_message = time.monotonic_ns()
            stream.cancel()

    def _follow(self) -> None:
        """Follow one stream to its end.

        Raises:
            RelayError: it ended too soon.
        """
        opened, defined = time.monotonic_ns(), self._defined
        since = self._replay_filter.start_stream(time.time_ns(), opened)
        self._pairing.mark_interrupted()
        self._last_message = opened
        stream = self._open(self._reader.build_request(since).SerializeToString())
        self._stream = stream
        self.status.connections += 1
        why = "the stream ended"
        try:
            for body in stream if not self._stopping.is_set() and defined == self._defined else ():
                self._last_message = time.monotonic_ns()
                self.status.connected = True
                self.problem = None
                try:
                    self.process(GetFlowsResponse.FromString(body), self._last_message)
                except DecodeError:
                    self._count_unusable("undecodable")
        except RelayError as error:
            why = str(error)
        finally:
            self._stream = None
            self.status.connected = False
            stream.close()
        if self._stopping.is_set() or defined != self._defined:
            return
        if time.monotonic_ns() - opened < _SETTLED_NS:
            raise RelayError(why)
        self.problem = why
        self._log.info("relay ended the stream: reconnecting", why=why)

    def process(self, message: GetFlowsResponse, now: int) -> None:
        """Process one message that arrived at ``now`` (monotonic, ns)."""
        what = message.WhichOneof("response_types")
        if what == "flow":
            self._process_flow(message, now)
        elif what == "node_status":
            event = message.node_status
            known = event.state_change in NodeState.values()
            state = NodeState.Name(event.state_change) if known else "UNKNOWN_NODE_STATE"
            nodes = self.status.nodes
            for node in event.node_names:
                if node in nodes or len(nodes) < _MOST_NODES:
                    nodes[node[:253]] = state.removeprefix("NODE_").lower()
            names = list(event.node_names)[:20]
            self._log.info("nodes changed", state=state, nodes=names, message=event.message[:200])
        elif what == "lost_events":
            loss = message.lost_events
            stamp = message.time.SerializeToString() + loss.SerializeToString(deterministic=True)
            identity = (message.node_name, stamp)
            if identity in self._losses:
                return
            self._losses[identity] = None
            if len(self._losses) > _LOSSES:
                self._losses.popitem(last=False)
            known = loss.source in LostEventSource.values()
            where = LostEventSource.Name(loss.source).lower() if known else "unknown_lost_event_source"
            self.status.lost[where] = self.status.lost.get(where, 0) + loss.num_events_lost
            self._pairing.mark_interrupted()
        else:
            self._count_unusable("other-message")

    def _process_flow(self, message: GetFlowsResponse, now: int) -> None:
        self.status.received += 1
        try:
            received = self._reader.read(message)
        except UnusableFlow as reason:
            self._count_unusable(str(reason))
            return
        flow = received.flow
        if flow.time > time.time_ns() + _AHEAD_NS:
            self._count_unusable("ahead")
            return
        if not self._replay_filter.is_new(received.node, flow.time, (flow.conversation, flow.point, flow.answer), now):
            # A node that replays may have lost some of its events.
            self._pairing.mark_interrupted()
            return
        with self._lock:
            pair = self._pairing.step(flow, now)
        if pair is not None:
            self._latencies.count_pair(pair)

    def _count_unusable(self, reason: str) -> None:
        self.status.unusable[reason] = self.status.unusable.get(reason, 0) + 1
