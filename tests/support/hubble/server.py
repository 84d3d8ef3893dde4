"""The server: a ring buffer of flows behind ``observer.Observer/GetFlows``, with Relay's sorting and with faults."""

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import grpc

from services.exporter.observer_pb2 import Flow, GetFlowsRequest, GetFlowsResponse, LostEvent, NodeState
from tests.support.hubble.filters import InvalidMask, apply_mask, passes


class Certificates(NamedTuple):
    """Paths of PEM files."""

    ca: Path
    certificate: Path
    key: Path


class _Cut(Exception):
    """The test broke the connection."""


class HubbleServer:
    """A Relay in one process, on a free port of loopback or at ``address``."""

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        tls: Certificates | None = None,
        *,
        mutual: bool = False,
        ring: int = 4095,
        sort: bool = False,
    ) -> None:
        """Prepare; ``start`` listens.

        Args:
            address: where to listen; port 0 picks a free one.
            tls: serve TLS with these.
            mutual: require a client certificate of the same authority.
            ring: number of flows kept for replay.
            sort: delay flows as Relay does, to sort them.
        """
        self._ring: deque[tuple[int, GetFlowsResponse]] = deque(maxlen=ring)
        self._written = 0
        self._news = threading.Condition()
        self._sort = sort
        self._cuts = 0
        self._recalled: list[str] = []
        self.stalled = False
        """Send nothing, but keep the connection."""
        self.requests: list[GetFlowsRequest] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        handler = grpc.unary_stream_rpc_method_handler(
            self._get_flows, GetFlowsRequest.FromString, GetFlowsResponse.SerializeToString
        )
        handlers = grpc.method_handlers_generic_handler("observer.Observer", {"GetFlows": handler})
        self._server.add_generic_rpc_handlers((handlers,))
        self.port = self._listen(address, tls, mutual=mutual)

    def _listen(self, address: str, tls: Certificates | None, *, mutual: bool) -> int:
        if tls is None:
            return int(self._server.add_insecure_port(address))
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        credentials = grpc.ssl_server_credentials([pair], tls.ca.read_bytes() if mutual else None, mutual)
        return int(self._server.add_secure_port(address, credentials))

    def __enter__(self) -> "HubbleServer":
        """Listen."""
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.cut()
        self._server.stop(0).wait()

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.port}"

    def publish(self, flow: Flow) -> None:
        """Publish a flow that a node saw."""
        response = GetFlowsResponse(flow=flow, node_name=flow.node_name, time=flow.time)
        self._write(flow.time.ToNanoseconds(), response)

    def lose(self, event: LostEvent, node: str, when: int) -> None:
        """Publish lost events of a node, at ``when`` (UTC ns)."""
        response = GetFlowsResponse(lost_events=event, node_name=node)
        response.time.FromNanoseconds(when)
        self._write(when, response)

    def cut(self) -> None:
        """Reset every open stream."""
        with self._news:
            self._cuts += 1
            self._news.notify_all()

    def recall(self, node: str) -> None:
        """Simulate that Relay's own connection to a node broke: it repeats each stream's first request to the node."""
        with self._news:
            self._recalled.append(node)
            self._news.notify_all()

    def _write(self, when: int, response: GetFlowsResponse) -> None:
        with self._news:
            self._ring.append((when, response))
            self._written += 1
            self._news.notify_all()

    def _get_flows(self, request: GetFlowsRequest, context: Any) -> Iterator[GetFlowsResponse]:
        self.requests.append(request)
        if request.first and request.follow:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "first cannot be specified with follow")
        try:
            apply_mask(request.field_mask.paths, Flow())
        except InvalidMask:
            context.abort(grpc.StatusCode.UNKNOWN, "invalid fieldmask")
        # The reader's position is set before the client learns that it is connected.
        with self._news:
            replay = request.first or request.HasField("since")
            cuts, at = self._cuts, self._written - (len(self._ring) if replay else 0)
            recalls = len(self._recalled)
        connected = GetFlowsResponse()
        connected.node_status.state_change = NodeState.NODE_CONNECTED
        connected.node_status.node_names.append("n1")
        yield connected
        try:
            events = self._events(request, context.is_active, at, cuts, recalls)
            yield from self._sort_flows(events) if self._sort else (event for event in events if event is not None)
        except _Cut:
            context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")

    def _events(
        self, request: GetFlowsRequest, active: Callable[[], bool], at: int, cuts: int, recalls: int
    ) -> Iterator[GetFlowsResponse | None]:
        """Flows from position ``at`` on that pass the request's filters; sometimes None while there are none."""
        since = request.since.ToNanoseconds() if request.HasField("since") else None
        while active():
            fresh = self._fresh(at, cuts, follow=request.follow)
            if fresh is None:
                return
            before, (at, responses) = at, fresh
            for node in self._recalled[recalls:]:
                recalls += 1
                responses = [*self._again(node, since, before), *responses]
            for when, response in responses:
                if not response.HasField("flow"):
                    yield response
                elif (since is None or when >= since) and passes(request.whitelist, request.blacklist, response.flow):
                    yield self._apply_mask(request, response)
            if not responses:
                yield None

    def _again(self, node: str, since: int | None, at: int) -> list[tuple[int, GetFlowsResponse]]:
        """The replay of a node up to position ``at``, and the error that caused it.

        Relay delays the error by ten seconds, and does not report that the node is connected again.
        """
        now = time.time_ns()
        failed = GetFlowsResponse()
        failed.time.FromNanoseconds(now)
        failed.node_status.state_change = NodeState.NODE_ERROR
        failed.node_status.node_names.append(node)
        with self._news:
            kept = list(self._ring)[: at - self._written + len(self._ring)] if since is not None else []
        flows = [one for one in kept if one[1].HasField("flow") and one[1].node_name == node]
        return [*flows, (now, failed)]

    def _fresh(self, at: int, cuts: int, *, follow: bool) -> tuple[int, list[tuple[int, GetFlowsResponse]]] | None:
        """New flows from position ``at`` on, after a short wait, and the next position; None at the end."""
        with self._news:
            if self._written <= at or self.stalled:
                if not follow:
                    return None
                self._news.wait(0.02)
            if self._cuts != cuts:
                raise _Cut
            if self.stalled:
                return at, []
            oldest = self._written - len(self._ring)
            at = max(at, oldest)
            return self._written, [self._ring[index - oldest] for index in range(at, self._written)]

    @staticmethod
    def _apply_mask(request: GetFlowsRequest, response: GetFlowsResponse) -> GetFlowsResponse:
        if not request.field_mask.paths:
            return response
        flow = apply_mask(request.field_mask.paths, response.flow)
        # Time and node come from the masked flow.
        return GetFlowsResponse(flow=flow, node_name=flow.node_name, time=flow.time)

    @staticmethod
    def _sort_flows(events: Iterator[GetFlowsResponse | None]) -> Iterator[GetFlowsResponse]:
        """Sort as Relay does: up to 100 flows wait until more arrive, or until none arrives for a second."""
        heap: list[tuple[int, int, GetFlowsResponse]] = []
        order, heard = count(), time.monotonic()
        for event in events:
            if event is not None:
                if len(heap) == 100:
                    yield heapq.heappop(heap)[2]
                heapq.heappush(heap, (event.time.ToNanoseconds(), next(order), event))
                heard = time.monotonic()
            elif time.monotonic() - heard >= 1:
                while heap and heap[0][0] < time.time_ns() - 1_000_000_000:
                    yield heapq.heappop(heap)[2]
                heard = time.monotonic()
        while heap:
            yield heapq.heappop(heap)[2]
