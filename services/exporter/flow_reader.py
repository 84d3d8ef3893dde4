"""First station of a flow: what is asked of Relay, and what its messages mean.

    Relay -> *wire* -> resume -> pairing -> metrics

The filters make Relay leave out what could not be paired anyway.  They follow what Hubble really
fills in: the workload's name only for the endpoints of the node that saw the flow, the pod's name for
both ends.  So pods are asked for by the prefix of their names, and looked at more closely here.
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
    # time and node_name also make Relay's own sorting work, which runs on what the mask leaves.
    "time",
    "node_name",
    "IP.source",
    "IP.destination",
    # Whole: a mask that names both members of a oneof, or the value of a wrapper, would make one up.
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
    # Events call the endpoint's point 0.
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
    """The workload that a pod's name points to, by how Kubernetes builds such names; else the name itself."""
    for pattern in (_POD_OF_DEPLOYMENT, _POD_OF_STATEFUL_SET, _POD_OF_DAEMON_SET):
        match = pattern.fullmatch(pod)
        if match:
            return match[1]
    return pod


class ReceivedFlow(NamedTuple):
    """A flow, where it came from, and when."""

    node: str
    flow: Flow


class UnusableFlow(ValueError):
    """A flow that says nothing about latency; the text is the reason under which it is counted."""


def build_request(
    critical: Iterable[str], targets: Iterable[str], exclude_ports: Sequence[int], since: int | None
) -> GetFlowsRequest:
    """What to ask Relay for.

    Args:
        critical: workloads whose latency counts, ``namespace/workload``.
        targets: throttled workloads: their own limit would be measured.
        exclude_ports: ports whose answers wait for more than the network.
        since: replay from this time on, UTC ns; None: from now on.
    """
    asked = GetFlowsRequest(follow=True, field_mask=FieldMask(paths=_FIELDS))
    if since is not None:
        asked.since.FromNanoseconds(since)
    # A pod's name begins with its workload's.
    prefixes = sorted(f"{key}-" for key in critical)
    for protocol in ("tcp", "udp"):
        for ends in (FlowFilter(source_pod=prefixes), FlowFilter(destination_pod=prefixes)):
            wanted = FlowFilter(protocol=[protocol], event_type=_EVENTS)
            if protocol == "tcp":
                # Matches the SYN-ACK as well.
                wanted.tcp_flags.append(TCPFlags(SYN=True))
            wanted.MergeFrom(ends)
            asked.whitelist.append(wanted)
    _leave_out(asked, targets, exclude_ports)
    return asked


def _leave_out(asked: GetFlowsRequest, targets: Iterable[str], ports: Sequence[int]) -> None:
    # By exact name, which a node knows of its own pods; a prefix could be that of a critical workload too.
    for target in sorted(targets):
        namespace, _, name = target.partition("/")
        workload = [Workload(name=name)]
        asked.blacklist.append(FlowFilter(source_pod=[f"{namespace}/"], source_workload=workload))
        asked.blacklist.append(FlowFilter(destination_pod=[f"{namespace}/"], destination_workload=workload))
    if ports:
        numbers = [str(port) for port in ports]
        asked.blacklist.append(FlowFilter(source_port=numbers))
        asked.blacklist.append(FlowFilter(destination_port=numbers))


class FlowReader:
    """Turns messages into flows, for a set of workloads."""

    def __init__(self, critical: Iterable[str], targets: Iterable[str], exclude_ports: Iterable[int]) -> None:
        """Take the same sets as ``request``: Relay's filters know only part of what is asked."""
        self._critical = frozenset(critical)
        self._targets = frozenset(targets)
        self._excluded = frozenset(exclude_ports)
        self._names: dict[tuple[str, str, str], str] = {}

    def read(self, message: GetFlowsResponse) -> ReceivedFlow:
        """Read the flow in a message.

        Raises:
            UnusableFlow: it could not be part of a pair.
        """
        wire = message.flow
        if wire.event_type.type != _TRACE:
            raise UnusableFlow("other-event")
        protocol, asker_port, answerer_port, is_answer, known = _parse_transport(wire)
        asker, answerer = wire.IP.source, wire.IP.destination
        client, server = self._find_workload(wire.source), self._find_workload(wire.destination)
        if is_answer:
            asker, answerer = answerer, asker
            asker_port, answerer_port = answerer_port, asker_port
            client, server = server, client
        if client in self._targets or server in self._targets:
            raise UnusableFlow("throttled")
        if client not in self._critical and server not in self._critical:
            raise UnusableFlow("not-critical")
        if answerer_port in self._excluded or asker_port in self._excluded:
            raise UnusableFlow("excluded-port")
        node = wire.node_name or message.node_name
        if not (node and asker and answerer and wire.HasField("time")):
            raise UnusableFlow("incomplete")
        if len(node) > _LONGEST_NAME or len(asker) > _LONGEST_ADDRESS or len(answerer) > _LONGEST_ADDRESS:
            raise UnusableFlow("malformed")
        time = wire.time.seconds * 1_000_000_000 + wire.time.nanos
        conversation = f"{protocol} {asker} {asker_port} {answerer} {answerer_port} {node}"
        answer = is_answer if known else None
        return ReceivedFlow(
            node, Flow(conversation, time, wire.trace_observation_point, protocol, answer, client, server)
        )

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
        # A SYN is a request whoever sent it; of an answer, connection tracking must know the request.
        known = wire.is_reply.value == is_answer if wire.HasField("is_reply") else not is_answer
        return "tcp", tcp.source_port, tcp.destination_port, is_answer, known
    if wire.l4.HasField("UDP"):
        udp = wire.l4.UDP
        return "udp", udp.source_port, udp.destination_port, wire.is_reply.value, wire.HasField("is_reply")
    raise UnusableFlow("other-protocol")
