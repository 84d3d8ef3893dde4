"""A node's ``/proc/net``, in the kernel's own format, as a test wants it; and pods on that node."""

import socket
import struct
from pathlib import Path

import msgspec

from services.meter.pods import NodePod

_DEV_HEAD = (
    "Inter-|   Receive                                                |  Transmit\n"
    " face |bytes    packets errs drop fifo frame compressed multicast"
    "|bytes    packets errs drop fifo colls carrier compressed\n"
)
_ROUTE_HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT" + " " * 50 + "\n"


class NodeNetwork:
    """Devices and host routes, in files."""

    def __init__(self, folder: Path) -> None:
        """Begin with a default route and no pod."""
        self.folder = folder
        self.counters: dict[str, tuple[int, int]] = {"eth0": (10, 20)}
        self.routes: dict[str, str] = {}
        self.write()

    def write(self) -> None:
        """Write the files."""
        dev = [
            f"{name:>6}: {received} 1 0 0 0 0 0 0 {sent} 1 0 0 0 0 0 0\n"
            for name, (received, sent) in self.counters.items()
        ]
        route = ["eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"]
        route += ["eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"]
        route6 = []
        for address, device in self.routes.items():
            if ":" in address:
                text = socket.inet_pton(socket.AF_INET6, address).hex()
                route6.append(f"{text} 80 {'0' * 32} 00 {'0' * 32} 00000400 00000001 00000000 00000001 {device:>8}\n")
            else:
                number = struct.unpack("=I", socket.inet_aton(address))[0]
                route.append(f"{device}\t{number:08X}\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n")
        (self.folder / "dev").write_text(_DEV_HEAD + "".join(dev), encoding="ascii")
        (self.folder / "route").write_text(_ROUTE_HEAD + "".join(route), encoding="ascii")
        (self.folder / "ipv6_route").write_text("".join(route6), encoding="ascii")

    def attach(self, address: str, device: str, *, received: int = 0, sent: int = 0) -> None:
        """Add a pod's device, or change its counters."""
        self.counters[device] = received, sent
        self.routes[address] = device
        self.write()

    def detach(self, address: str) -> None:
        """Remove a pod's device with its routes."""
        device = self.routes.pop(address)
        self.counters.pop(device, None)
        self.write()


def node_pod(
    name: str = "upload-5d4-abcde",
    *ips: str,
    owner: tuple[str, str] | None = ("ReplicaSet", "upload-5d4"),
    labels: dict[str, str] | None = None,
    phase: str = "Running",
    host_network: bool = False,
    deleted: bool = False,
    version: str = "1",
) -> NodePod:
    """A pod of the namespace ``factory``, read from what the API would write."""
    tree = {
        "metadata": {
            "name": name,
            "namespace": "factory",
            "uid": f"uid-{name}",
            "resourceVersion": version,
            "labels": {"pod-template-hash": "5d4"} if labels is None else labels,
            "ownerReferences": [{"kind": owner[0], "name": owner[1], "uid": "o", "controller": True}] if owner else [],
            **({"deletionTimestamp": "2026-11-27T21:00:00Z"} if deleted else {}),
        },
        "spec": {"nodeName": "n1", "hostNetwork": host_network},
        "status": {"phase": phase, "podIP": ips[0] if ips else "", "podIPs": [{"ip": ip} for ip in ips]},
    }
    return msgspec.convert(tree, NodePod)
