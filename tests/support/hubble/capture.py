"""A node's agent on real packets: captures them at the node's devices and reports them as Hubble does.

Runs in a node's namespace of the testbed: ``python -m tests.support.hubble.capture NODE PLAN``, where PLAN is JSON
with the local devices of pods by name, and every pod's address.  It writes flows to standard output, each
after its length.  A flow's time is this process's clock when it reads the packet, as in Cilium's agent.
"""

import ctypes
import json
import os
import select
import socket
import struct
import sys
import time
import uuid
from typing import Any

from services.exporter.observer_pb2 import Flow, FlowType, TrafficDirection, Verdict
from tests.support.hubble.conntrack import ACK, FIN, RST, SYN, Conntrack, Packet

LENGTH = struct.Struct("!I")
TO_NETWORK, TO_ENDPOINT = 11, 101
_UPLINK = "eth0"
_ETH_P_ALL, _ETH_P_IP = 3, 0x0800
_OUTGOING = 4
_SO_ATTACH_FILTER = 26
_HEADS = 96


def _filter() -> bytes:
    """Classic BPF: select IPv4 with all UDP, and TCP with SYN, FIN or RST; the first bytes are enough."""
    code = [
        (0x30, 0, 0, 9),  # protocol
        (0x15, 4, 0, 17),  # UDP: accept
        (0x15, 0, 4, 6),  # not TCP: reject
        (0xB1, 0, 0, 0),  # length of the IP header
        (0x50, 0, 0, 13),  # flags
        (0x45, 0, 1, SYN | FIN | RST),
        (0x06, 0, 0, _HEADS),
        (0x06, 0, 0, 0),
    ]
    return b"".join(struct.pack("HBBI", *one) for one in code)


def listen(device: str) -> socket.socket:
    """A socket that receives the packets of a device in both directions, from the IP header on."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
    program = _filter()
    buffer = bytearray(program)
    held = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    link.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program) // 8, ctypes.addressof(held)))
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    link.bind((device, _ETH_P_ALL))
    link.setblocking(False)
    return link


def parse(data: bytes) -> Packet | None:
    """Parse the headers of an IPv4 packet; None if it is neither TCP nor UDP."""
    if len(data) < 28 or data[0] >> 4 != 4:
        return None
    at, protocol = (data[0] & 15) * 4, data[9]
    if protocol not in (6, 17) or len(data) < at + (14 if protocol == 6 else 8):
        return None
    source_port, destination_port = struct.unpack_from("!HH", data, at)
    flags = data[at + 13] if protocol == 6 else 0
    source, destination = socket.inet_ntoa(data[12:16]), socket.inet_ntoa(data[16:20])
    return Packet(protocol, source, source_port, destination, destination_port, flags)


class Agent:
    """Tracks connections and writes flows."""

    def __init__(self, node: str, pods: dict[str, dict[str, Any]], out: int) -> None:
        """Take the node's name, all pods by address (``namespace``, ``name``, ``workload``, ``node``), and a file."""
        self._node = node
        self._pods = pods
        self._out = out
        self._conntrack = Conntrack()

    def arrived(self, packet: Packet, now: int) -> None:
        """A packet went to an endpoint of this node."""
        verdict = self._conntrack.arrives(packet, now)
        if verdict.report:
            self._write(packet, TO_ENDPOINT, now, reply=verdict.reply)

    def left(self, packet: Packet, now: int) -> None:
        """A packet came from an endpoint of this node: aggregation hides it, but tracking needs it."""
        self._conntrack.leaves(packet, now)

    def passed(self, packet: Packet, now: int) -> None:
        """A packet went out to the network."""
        verdict = self._conntrack.passes(packet)
        if verdict is not None and verdict.report:
            self._write(packet, TO_NETWORK, now, reply=verdict.reply)

    def _write(self, packet: Packet, point: Any, now: int, *, reply: bool) -> None:
        flow = Flow(node_name=self._node, Type=FlowType.L3_L4, verdict=Verdict.FORWARDED, trace_observation_point=point)
        flow.uuid = str(uuid.UUID(int=now))
        flow.time.FromNanoseconds(now)
        flow.IP.source, flow.IP.destination = packet.source, packet.destination
        flow.event_type.type, flow.event_type.sub_type = 4, 0 if point == TO_ENDPOINT else point
        flow.is_reply.value = reply
        egress = (point == TO_NETWORK) != reply
        flow.traffic_direction = TrafficDirection.EGRESS if egress else TrafficDirection.INGRESS
        transport = flow.l4.TCP if packet.protocol == 6 else flow.l4.UDP
        transport.source_port, transport.destination_port = packet.source_port, packet.destination_port
        if packet.protocol == 6:
            flags = flow.l4.TCP.flags
            flags.SYN, flags.ACK = bool(packet.flags & SYN), bool(packet.flags & ACK)
            flags.FIN, flags.RST = bool(packet.flags & FIN), bool(packet.flags & RST)
        self._name(flow.source, packet.source)
        self._name(flow.destination, packet.destination)
        body = flow.SerializeToString()
        os.write(self._out, LENGTH.pack(len(body)) + body)

    def _name(self, endpoint: Any, address: str) -> None:
        pod = self._pods.get(address)
        if pod is None:
            return
        endpoint.namespace, endpoint.pod_name = pod["namespace"], pod["name"]
        if pod["node"] == self._node:
            # An agent does not know the workload of a remote pod.
            endpoint.workloads.add(name=pod["workload"], kind="Deployment")


def main() -> None:
    """Capture until killed."""
    node, plan = sys.argv[1], json.loads(sys.argv[2])
    # The uplink last: a packet leaves its endpoint before it passes the uplink.
    links = {listen(device): device for device in [*plan["devices"], _UPLINK]}
    agent = Agent(node, plan["pods"], sys.stdout.fileno())
    os.write(sys.stdout.fileno(), LENGTH.pack(0))
    while True:
        readable, _, _ = select.select(list(links), [], [])
        for link in readable:
            data, (_, kind, way, *_) = link.recvfrom(_HEADS)
            now = time.time_ns()
            packet = parse(data) if kind == _ETH_P_IP else None
            if packet is None:
                continue
            if links[link] == _UPLINK:
                if way == _OUTGOING:
                    agent.passed(packet, now)
            elif way == _OUTGOING:
                agent.arrived(packet, now)
            else:
                agent.left(packet, now)


if __name__ == "__main__":
    main()
