"""Follows Relay's stream through all stations, in a thread of its own, and connects again when it ends.

*Relay -> wire -> resume -> pairing -> metrics*
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol

import structlog
from google.protobuf.message import DecodeError
from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.stop import stop_when_event_set
from tenacity.wait import wait_random_exponential

from services.exporter.flow_reader import FlowReader, UnusableFlow
from services.exporter.metrics import FlowStatus, LatencyMetrics
from services.exporter.observer_pb2 import (
    GetFlowsRequest,
    GetFlowsResponse,
    LostEvent,
    LostEventSource,
    NodeState,
    NodeStatusEvent,
)
from services.exporter.pairing import PairingTable
from services.exporter.relay_client import RelayError
from services.exporter.replay_filter import ReplayFilter

_AHEAD_NS = 60_000_000_000
"""No clock of a node is that far ahead; what claims so must not move the mark from which to resume."""
_LOSSES = 256
"""Loss reports that are remembered: Relay repeats them with every replay."""
_MOST_NODES = 5000
_SETTLED_NS = 5_000_000_000
"""A stream that held this long was no failed attempt."""


class Messages(Protocol):
    """A stream of undecoded messages."""

    def __iter__(self) -> Iterator[bytes]:
        """Give each message; raise RelayError at the end of the connection."""

    def cancel(self) -> None:
        """End it, from any thread."""

    def close(self) -> None:
        """Drop the connection."""


class FlowFollower:
    """Owns the stream and the stations behind it."""

    def __init__(
        self,
        open_stream: Callable[[bytes], Messages],
        request: Callable[[int | None], GetFlowsRequest],
        reader: FlowReader,
        pairing: PairingTable,
        latencies: LatencyMetrics,
        silence: int,
    ) -> None:
        """Wire the stations; nothing is opened yet.

        Args:
            open_stream: opens a stream for an encoded request; raises RelayError.
            request: the request for a time to resume from (UTC ns), or None.
            reader: understands flows.
            pairing: pairs them.
            latencies: counts the pairs.
            silence: a stream that says nothing for this long (ns) is opened anew.
        """
        self._open = open_stream
        self._request = request
        self._reader = reader
        self._pairing = pairing
        self._latencies = latencies
        self._latencies.initialize_losses()
        self._silence = silence
        self._resume = ReplayFilter()
        self._losses: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._stream: Messages | None = None
        self._heard = 0
        self._stopping = threading.Event()
        self._table = threading.Lock()
        self._log = structlog.get_logger()
        self.status = FlowStatus(pairing, self._resume)
        self.wrong: str | None = "not yet connected"
        """Why no stream is open; None while one is."""

    def run(self) -> None:
        """Follow until stopped; the thread's whole life."""
        while not self._stopping.is_set():
            # Back-off grows over streams that fail at once, and begins again after one that held.
            attempts = Retrying(
                retry=retry_if_exception_type(RelayError),
                wait=wait_random_exponential(multiplier=0.2, max=10),
                stop=stop_when_event_set(self._stopping),
                sleep=self._sleep,
                before_sleep=self._log_retry,
                retry_error_callback=lambda _: None,
            )
            attempts(self._follow)

    def stop(self) -> None:
        """End ``run``, from any thread."""
        self._stopping.set()
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def enforce_timeouts(self) -> None:
        """Give up old requests, and a stream that has been silent for too long; called every second or so.

        From any thread: while nothing comes the follower's own is asleep.
        """
        with self._table:
            self._pairing.expire(time.monotonic_ns())
        stream = self._stream
        if stream is not None and time.monotonic_ns() - self._heard > self._silence:
            self._log.warning("relay is silent: connecting anew", silence=self._silence / 1e9)
            self._heard = time.monotonic_ns()
            stream.cancel()

    def _follow(self) -> None:
        """Follow one stream to its end.

        Raises:
            RelayError: it ended before it had settled.
        """
        opened = time.monotonic_ns()
        since = self._resume.start_stream(time.time_ns(), opened)
        self._pairing.mark_interrupted()
        self._heard = opened
        stream = self._open(self._request(since).SerializeToString())
        self._stream = stream
        self.status.connections += 1
        why = "the stream ended"
        try:
            if not self._stopping.is_set():
                self._take_all(stream)
        except RelayError as error:
            why = str(error)
        finally:
            self._stream = None
            self.status.connected = False
            stream.close()
        if self._stopping.is_set():
            return
        if time.monotonic_ns() - opened < _SETTLED_NS:
            raise RelayError(why)
        self.wrong = why
        self._log.info("relay ended the stream: connecting anew", why=why)

    def _take_all(self, stream: Messages) -> None:
        for body in stream:
            now = time.monotonic_ns()
            self._heard = now
            if not self.status.connected:
                self.status.connected = True
                self.wrong = None
            try:
                self.take(GetFlowsResponse.FromString(body), now)
            except DecodeError:
                self._unusable("undecodable")

    def take(self, message: GetFlowsResponse, now: int) -> None:
        """Take one message through all stations; ``now`` is when it came (monotonic, ns)."""
        what = message.WhichOneof("response_types")
        if what == "flow":
            self._flow(message, now)
        elif what == "node_status":
            self._node_status(message.node_status)
        elif what == "lost_events":
            self._lost(message.node_name, message.lost_events, message)
        else:
            self._unusable("other-message")

    def _flow(self, message: GetFlowsResponse, now: int) -> None:
        self.status.received += 1
        try:
            seen = self._reader.read(message)
        except UnusableFlow as reason:
            self._unusable(str(reason))
            return
        flow = seen.flow
        if flow.time > time.time_ns() + _AHEAD_NS:
            self._unusable("ahead")
            return
        if not self._resume.is_new(seen.node, flow.time, (flow.conversation, flow.point, flow.answer), now):
            # A node that repeats itself may have forgotten a part.
            self._pairing.mark_interrupted()
            return
        with self._table:
            pair = self._pairing.step(flow, now)
        if pair is not None:
            self._latencies.count_pair(pair)

    def _node_status(self, event: NodeStatusEvent) -> None:
        known = NodeState.values()
        state = NodeState.Name(event.state_change) if event.state_change in known else "UNKNOWN_NODE_STATE"
        nodes = self.status.nodes
        for node in event.node_names:
            if node in nodes or len(nodes) < _MOST_NODES:
                nodes[node[:253]] = state.removeprefix("NODE_").lower()
        self._log.info("nodes changed", state=state, nodes=list(event.node_names)[:20], message=event.message[:200])

    def _lost(self, node: str, event: LostEvent, message: GetFlowsResponse) -> None:
        identity = (node, message.time.SerializeToString() + event.SerializeToString(deterministic=True))
        if identity in self._losses:
            return
        self._losses[identity] = None
        if len(self._losses) > _LOSSES:
            self._losses.popitem(last=False)
        known = LostEventSource.values()
        where = LostEventSource.Name(event.source) if event.source in known else "UNKNOWN_LOST_EVENT_SOURCE"
        self.status.lost[where.lower()] = self.status.lost.get(where.lower(), 0) + event.num_events_lost
        self._pairing.mark_interrupted()

    def _unusable(self, reason: str) -> None:
        self.status.unusable[reason] = self.status.unusable.get(reason, 0) + 1

    def _sleep(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def _log_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self.wrong = str(error)
        wait = round(state.upcoming_sleep, 2)
        self._log.warning("relay cannot be followed", why=str(error), attempt=state.attempt_number, wait=wait)
