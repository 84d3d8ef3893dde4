"""A Relay that serves prepared flows as fast as it can.

    python -m services.bench.speed.flow_server COUNT KIND

``handshakes`` are SYN and SYN-ACK in turn, ``syns`` are never answered, nor are ``longest``: SYNs and datagrams of a
node with the longest name.  It prints its port, and sends COUNT flows on each call, then keeps the stream open.
"""

import sys
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

from services.exporter.observer_pb2 import TCP, Flow, GetFlowsResponse
from services.exporter.pairing import TO_ENDPOINT, TO_NETWORK

CLIENT = ("factory", "robot-control-6d5f7c8b9d-x2x4z", "robot-control")
SERVER = ("factory", "robot-cell-7b9c5d6f4-kq8wz", "robot-cell")
ADDRESS = "10.0.3.7"
_LONGEST_NODE = "n" * 253


def messages(count: int, *, answered: bool, start: int, longest: bool = False) -> Iterator[GetFlowsResponse]:
    """Flows as Relay sends them, one each microsecond from ``start`` (UTC ns) on.

    Args:
        count: how many.
        answered: every second one answers the one before.
        start: the time of the first, UTC ns.
        longest: the node has the longest name, and every second flow is a datagram.
    """
    node = _LONGEST_NODE if longest else "n1"
    for number in range(count):
        conversation = number // 2 if answered else number
        back = answered and number % 2 == 1
        flow = Flow(node_name=node, trace_observation_point=TO_ENDPOINT if back else TO_NETWORK)  # type: ignore[arg-type]
        flow.time.FromNanoseconds(start + number * 1000)
        flow.event_type.type = 4
        source, destination = (SERVER, CLIENT) if back else (CLIENT, SERVER)
        for endpoint, (namespace, pod, workload) in ((flow.source, source), (flow.destination, destination)):
            endpoint.namespace, endpoint.pod_name = namespace, pod
            if workload == CLIENT[2]:
                endpoint.workloads.add(name=workload, kind="Deployment")
        # Each conversation has its own addresses and ports.
        address = f"10.{conversation >> 28 & 255}.{conversation >> 21 & 127}.{conversation >> 14 & 127}"
        port = 1024 + (conversation & 16383)
        flow.IP.source, flow.IP.destination = (ADDRESS, address) if back else (address, ADDRESS)
        packet = flow.l4.UDP if longest and number % 2 else flow.l4.TCP
        packet.source_port, packet.destination_port = (443, port) if back else (port, 443)
        if isinstance(packet, TCP):
            packet.flags.SYN, packet.flags.ACK = True, back
        flow.is_reply.value = back
        yield GetFlowsResponse(flow=flow, node_name=node, time=flow.time)


def main() -> None:
    """Serve until killed."""
    count, kind = int(sys.argv[1]), sys.argv[2]
    flows = messages(count, answered=kind == "handshakes", start=time.time_ns(), longest=kind == "longest")
    prepared = [one.SerializeToString() for one in flows]

    def get_flows(_: bytes, context: Any) -> Iterator[bytes]:
        yield from prepared
        while context.is_active():
            time.sleep(0.1)

    server = grpc.server(futures.ThreadPoolExecutor(2))
    handler = grpc.unary_stream_rpc_method_handler(get_flows)
    handlers = grpc.method_handlers_generic_handler("observer.Observer", {"GetFlows": handler})
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)  # noqa: T201 - the parent process waits for it
    server.wait_for_termination()


if __name__ == "__main__":
    main()
