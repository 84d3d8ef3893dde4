"""Flows as an agent would report them, for tests without packets."""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from services.exporter.observer_pb2 import Flow, FlowType, Verdict


class End(NamedTuple):
    """One end of a conversation."""

    address: str
    namespace: str
    pod: str
    workload: str


ROBOT = End("10.0.1.5", "factory", "robot-control-6d5f7c8b9d-x2x4z", "robot-control")
CELL = End("10.0.3.7", "factory", "robot-cell-7b9c5d6f4-kq8wz", "robot-cell")
UPLOAD = End("10.0.1.9", "factory", "telemetry-upload-5c9b8d7f6-zz2x4", "telemetry-upload")
SUB_TYPES = {101: 0}
"""Sub-type of a trace event, if it differs from the observation point's number."""

Reply = bool | Literal["unknown"]


@dataclass(frozen=True)
class Talk:
    """A conversation as one node sees it; the node knows the workload of its own end only."""

    protocol: Literal["tcp", "udp"] = "tcp"
    client: End = ROBOT
    server: End = CELL
    port: int = 40000
    service: int = 443
    node: str = "n1"
    local: Literal["client", "server"] = "client"

    def with_port(self, port: int) -> "Talk":
        """The same conversation between other ports."""
        return replace(self, port=port)

    def ask(self, time: int, point: int, reply: Reply = False) -> Flow:
        """The SYN, or a datagram of the client, at ``time`` (UTC ns)."""
        return self._flow(time, point, reply, back=False)

    def answer(self, time: int, point: int = 101, reply: Reply = True) -> Flow:
        """The SYN-ACK, or a datagram of the server, at ``time`` (UTC ns)."""
        return self._flow(time, point, reply, back=True)

    def _flow(self, time: int, point: Any, reply: Reply, *, back: bool) -> Flow:
        made = Flow(node_name=self.node, Type=FlowType.L3_L4, verdict=Verdict.FORWARDED, trace_observation_point=point)
        made.time.FromNanoseconds(time)
        made.event_type.type = 4
        made.event_type.sub_type = SUB_TYPES.get(point, point)
        asker, answerer = (made.destination, made.source) if back else (made.source, made.destination)
        for name, endpoint, end in (("client", asker, self.client), ("server", answerer, self.server)):
            endpoint.namespace, endpoint.pod_name = end.namespace, end.pod
            if name == self.local:
                endpoint.workloads.add(name=end.workload, kind="Deployment")
        ends = ((self.client.address, self.port), (self.server.address, self.service))
        (made.IP.source, source_port), (made.IP.destination, destination_port) = ends[::-1] if back else ends
        transport = made.l4.TCP if self.protocol == "tcp" else made.l4.UDP
        transport.source_port, transport.destination_port = source_port, destination_port
        if self.protocol == "tcp":
            made.l4.TCP.flags.SYN = True
            made.l4.TCP.flags.ACK = back
        if reply != "unknown":
            made.is_reply.value = reply
        return made
