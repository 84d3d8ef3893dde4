"""Builds the request to Relay, and parses its messages into flows.

    relay_client -> *flow_reader* -> replay_filter -> pairing -> metrics

The filters make Relay leave out flows that cannot be paired.  They use the fields that Hubble fills in: the
workload's name only for endpoints of the node that saw the flow, the pod's name for both ends.  So the
request selects pods by the prefix of their names, and the reader checks the workload.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from google.protobuf.field_mask_pb2 import FieldMask

from services.exporter.observer_pb2 import (
    Endpoint,
    EventTypeFilter,
    FlowFilter,
    GetFlowsRequest,
    GetFlowsResponse,
    TCPFlags,
    Workload,
)
from services.exporter.observer_pb2 import Flow as WireFlow
from services.exporter.pairing import TO_ENDPOINT, VALID_POINTS, Flow, Protocol

_TRACE = 4
"""Type of the events that say where a packet passed; policy verdicts (5) carry SYNs as well."""
_FIELDS = (
    # Relay itself sorts by time and node_name, after it has applied the mask.
    "time",
    "node_name",
    "IP.source",
    "IP.destination",
    # The whole message: a mask that names both members of a oneof, or a wrapper's value, creates empty ones.
    "l4",
    "is_reply",
    "source.namespace",
    "source.pod_name",
    "source.workloads",
    "destination.namespace",
    "destination.pod_name",
    "destination.workloads",
    "event_type",
    "trace_observation_point",
)
_EVENTS = [
    # In event filters the endpoint's point is 0.
    EventTypeFilter(type=_TRACE, match_sub_type=True, sub_type=0 if point == TO_ENDPOINT else point)
    for point in sorted(VALID_POINTS)
]
_LONGEST_ADDRESS = 45
_LONGEST_NAME = 253
_NAMES = 4096
"""How many pods' workloads are remembered."""

_SAFE = "[bcdfghjklmnpqrstvwxz2456789]"
_POD_OF_DEPLOYMENT = re.compile(rf"(.+)-{_SAFE}{{1,10}}-{_SAFE}{{5}}")
_POD_OF_STATEFUL_SET = re.compile(r"(.+)-[0-9]{1,5}")
_POD_OF_DAEMON_SET = re.compile(rf"(.+)-{_SAFE}{{5}}")


def guess_workload(pod: str) -> str:
    """The workload of a pod by Kubernetes's naming scheme; the pod's name where it follows none."""
    for pattern in (_POD_OF_DEPLOYMENT, _POD_OF_STATEFUL_SET, _POD_OF_DAEMON_SET):
        match = pattern.fullmatch(pod)
        if match:
            return match[1]
    return pod


class ReceivedFlow(NamedTuple):
    """A flow and the node that saw it."""

    node: str
    flow: Flow


class UnusableFlow(ValueError):
    """A flow that cannot be part of a pair; the text is the reason under which it is counted."""


def build_request(
    critical: Iterable[str], targets: Iterable[str], exclude_ports: Sequence[int], since: int | None
) -> GetFlowsRequest:
    """The request for all flows that may be paired.

    Args:
        critical: workloads whose latency counts, ``namespace/workload``.
        targets: throttled workloads: their own limit would be measured.
        exclude_ports: ports whose answers take longer than the network.
        since: replay from this time on, UTC ns; None: from now on.
    """
    request = GetFlowsRequest(follow=True, field_mask=FieldMask(paths=_FIELDS))
    if since is not None:
        request.since.FromNanoseconds(since)
    # A pod's name begins with its workload's.
    prefixes = sorted(f"{key}-" for key in critical)
    for protocol in ("tcp", "udp"):
        for ends in (FlowFilter(source_pod=prefixes), FlowFilter(destination_pod=prefixes)):
            accepted = FlowFilter(protocol=[protocol], event_type=_EVENTS)
            if protocol == "tcp":
                # Matches the SYN-ACK as well.
                accepted.tcp_flags.append(TCPFlags(SYN=True))
            accepted.MergeFrom(ends)
            request.whitelist.append(accepted)
    # By exact name, which a node knows of its own pods; a prefix could match a critical workload too.
    for target in sorted(targets):
        namespace, _, name = target.partition("/")
        workload = [Workload(name=name)]
        request.blacklist.append(FlowFilter(source_pod=[f"{namespace}/"], source_workload=workload))
        request.blacklist.append(FlowFilter(destination_pod=[f"{namespace}/"], destination_workload=workload))
    if exclude_ports:
        ports = [str(port) for port in exclude_ports]
        request.blacklist.append(FlowFilter(source_port=ports))
        request.blacklist.append(FlowFilter(destination_port=ports))
    return request


class FlowReader:
    """Turns messages into flows, for a set of workloads."""

    def __init__(self, critical: Iterable[str], targets: Iterable[str], exclude_ports: Iterable[int]) -> None:
        """Take the same sets as ``build_request``: Relay's filters cannot express all of it."""
        self._critical = frozenset(critical)
        self._targets = frozenset(targets)
        self._excluded = tuple(exclude_ports)
        self._names: dict[tuple[str, str, str], str] = {}

    def define(self, critical: Iterable[str], targets: Iterable[str]) -> bool:
        """Read flows of these workloads from now on; returns whether they are others."""
        before = self._critical, self._targets
        self._critical, self._targets = frozenset(critical), frozenset(targets)
        return before != (self._critical, self._targets)

    def build_request(self, since: int | None) -> GetFlowsRequest:
        """The request for what it reads; ``since``: see ``build_request``."""
        return build_request(self._critical, self._targets, self._excluded, since)

    def read(self, message: GetFlowsResponse) -> ReceivedFlow:
        """Parse the flow in a message.

        Raises:
            UnusableFlow: it cannot be part of a pair.
        """
        wire = message.flow
        if wire.event_type.type != _TRACE:
            raise UnusableFlow("other-event")
        protocol, client_port, server_port, is_answer, known = _parse_transport(wire)
        client_ip, server_ip = wire.IP.source, wire.IP.destination
        client, server = self._find_workload(wire.source), self._find_workload(wire.destination)
        if is_answer:
            client_ip, server_ip = server_ip, client_ip
            client_port, server_port = server_port, client_port
            client, server = server, client
        if client in self._targets or server in self._targets:
            raise UnusableFlow("throttled")
        if client not in self._critical and server not in self._critical:
            raise UnusableFlow("not-critical")
        if server_port in self._excluded or client_port in self._excluded:
            raise UnusableFlow("excluded-port")
        node = wire.node_name or message.node_name
        if not (node and client_ip and server_ip and wire.HasField("time")):
            raise UnusableFlow("incomplete")
        if len(node) > _LONGEST_NAME or len(client_ip) > _LONGEST_ADDRESS or len(server_ip) > _LONGEST_ADDRESS:
            raise UnusableFlow("malformed")
        time = wire.time.seconds * 1_000_000_000 + wire.time.nanos
        conversation = f"{protocol} {client_ip} {client_port} {server_ip} {server_port} {node}"
        answer = is_answer if known else None
        # Positional, as in pairing: keywords cost a tenth of the time of a flow.
        flow = Flow(conversation, time, wire.trace_observation_point, protocol, answer, client, server)
        return ReceivedFlow(node, flow)

    def _find_workload(self, endpoint: Endpoint) -> str:
        named = endpoint.workloads[0].name if endpoint.workloads else ""
        key = (endpoint.namespace, endpoint.pod_name, named)
        name = self._names.get(key)
        if name is None:
            namespace, pod, _ = key
            if max(len(namespace), len(pod), len(named)) > _LONGEST_NAME:
                raise UnusableFlow("malformed")
            workload = named or guess_workload(pod)
            name = f"{namespace}/{workload}" if namespace and workload else ""
            if len(self._names) >= _NAMES:
                self._names.clear()
            self._names[key] = name
        return name


def _parse_transport(wire: WireFlow) -> tuple[Protocol, int, int, bool, bool]:
    """Protocol, source and destination port, whether it is an answer, and whether Hubble is sure of that."""
    if wire.l4.HasField("TCP"):
        tcp = wire.l4.TCP
        flags = tcp.flags
        if not flags.SYN:
            raise UnusableFlow("other-flags")
        is_answer = flags.ACK
        # A SYN is always a request; for an answer, connection tracking must agree.
        known = wire.is_reply.value == is_answer if wire.HasField("is_reply") else not is_answer
        return "tcp", tcp.source_port, tcp.destination_port, is_answer, known
    if wire.l4.HasField("UDP"):
        udp = wire.l4.UDP
        return "udp", udp.source_port, udp.destination_port, wire.is_reply.value, wire.HasField("is_reply")
    raise UnusableFlow("other-protocol")
