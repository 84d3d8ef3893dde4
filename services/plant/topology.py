"""The testbed's topology: namespaces, links, queues, and the commands that build them.

This module only builds text, which ``real/testbed.py`` runs.  One bridge, the fabric, connects three
routed nodes.  Each pod is a namespace of its own, connected to its node as Cilium does it with endpoint routes: by a
veth pair whose end on the node is an ``lxc*`` device, and a host route to the pod's address over that device.

    n1: robot-control, telemetry-upload ──┐
    n2: safety-scanner, erp-dashboard   ──┤ fabric ══ bottleneck ══► n3: robot-cell, safety-plc,
                                          └──────────────────────────    telemetry-store, office

Everything that floor pods send leaves through the fabric's port toward n3: a token bucket with a
deep FIFO, outside of any node's control.  The opposite direction is not limited.
"""

import hashlib
from typing import Literal

from msgspec import Struct

NAMESPACE = "factory"
"""The Kubernetes namespace that the pods would live in."""
ROBOT = f"{NAMESPACE}/robot-control"
SCANNER = f"{NAMESPACE}/safety-scanner"
TELEMETRY = f"{NAMESPACE}/telemetry-upload"
ERP = f"{NAMESPACE}/erp-dashboard"
EXPORTER = f"{NAMESPACE}/sluice-exporter"

FABRIC = "fabric"
"""Name of the network namespace with the bridge."""
NODES = ("n1", "n2", "n3")
BOTTLENECK = "n3"
"""The fabric's port toward this node is the bottleneck; ports are named after nodes."""
UPLINK = "eth0"
"""A node's device toward the fabric, and a pod's toward its node."""

Bands = Literal["off", "uplink", "bottleneck"]
"""Where priority bands are in force, if anywhere."""

BURST = 4000
"""Bytes that a token bucket may send at once; larger bursts add latency themselves."""
POD_QUEUE = 200_000
"""Bytes that can wait at a pod's limit."""


class PodPlace(Struct, frozen=True):
    """One pod: a network namespace of the same name."""

    name: str
    workload: str
    """``namespace/name``."""
    node: str
    number: int
    """Counts all pods from 1."""
    band: int
    """0 is served first."""

    @property
    def address(self) -> str:
        """Its IPv4 address."""
        return f"10.77.{self.node[1:]}.{self.number}"

    @property
    def device(self) -> str:
        """The node's end of its veth pair, named as Cilium names it."""
        return f"lxc{hashlib.sha256(self.name.encode()).hexdigest()[:12]}"


class Parameters(Struct, frozen=True):
    """The parameters of a bed."""

    capacity: int = 100_000
    """Of the bottleneck, kbit/s."""
    fifo: float = 0.1
    """Depth of the bottleneck's queue at that capacity, seconds."""
    uploads: int = 1
    """Replicas of telemetry-upload."""
    bands: Bands = "off"
    uplink: int = 1_000_000
    """Rate of a node's uplink where bands need one, kbit/s."""

    @property
    def fifo_bytes(self) -> int:
        """The queue's size."""
        return int(self.capacity * 125 * self.fifo)


def pods(parameters: Parameters) -> tuple[PodPlace, ...]:
    """All pods of a bed, numbered from 1."""
    uploads = [f"telemetry-upload-{replica}" for replica in range(parameters.uploads)]
    plan = [
        ("robot-control-0", "robot-control", "n1", 0),
        ("safety-scanner-0", "safety-scanner", "n2", 1),
        ("erp-dashboard-0", "erp-dashboard", "n2", 2),
        ("robot-cell-0", "robot-cell", "n3", 0),
        ("safety-plc-0", "safety-plc", "n3", 1),
        ("telemetry-store-0", "telemetry-store", "n3", 2),
        ("office-0", "office", "n3", 2),
        ("sluice-exporter-0", "sluice-exporter", "n3", 2),
        *((upload, "telemetry-upload", "n1", 2) for upload in uploads),
    ]
    return tuple(
        PodPlace(name, f"{NAMESPACE}/{workload}", node, number, band)
        for number, (name, workload, node, band) in enumerate(plan, start=1)
    )


def build_setup_script(parameters: Parameters) -> str:
    """The shell script that builds the bed, for ``sh -e`` as root in fresh mount and network namespaces."""
    places = pods(parameters)
    names = [FABRIC, *NODES, *(place.name for place in places)]
    lines = [
        # The names of the namespaces are kept in a file system that ends with the bed.
        "mount -t tmpfs none /run",
        "mkdir /run/netns",
        "ip link set lo up",
        *_batch("ip -batch -", [f"netns add {name}" for name in names]),
    ]
    fabric = ["link add br0 type bridge stp_state 0 mcast_snooping 0", "link set br0 up"]
    for node in NODES:
        fabric += [
            f"link add {node} type veth peer name {UPLINK} netns {node}",
            f"link set {node} master br0 gso_max_segs 1 up",
        ]
    lines += _batch(f"ip -n {FABRIC} -batch -", fabric)
    for node in NODES:
        lines += _node(node, [place for place in places if place.node == node])
    for place in places:
        gateway = f"10.77.{place.node[1:]}.254"
        pod = [
            "link set lo up",
            f"link set {UPLINK} gso_max_segs 1 up",
            f"addr add {place.address}/32 dev {UPLINK}",
            f"route add {gateway}/32 dev {UPLINK}",
            # The kernel's default may be bbr, which hardly queues: there would be no noisy neighbour.
            f"route add default via {gateway} congctl cubic",
        ]
        lines += _batch(f"ip -n {place.name} -batch -", pod)
    if parameters.bands == "uplink":
        for node in NODES:
            lines += _tc(node, build_bands(UPLINK, parameters.uplink, parameters.fifo_bytes, places))
    lines += _tc(FABRIC, bottleneck(parameters, parameters.capacity))
    return "\n".join(lines)


def bottleneck(parameters: Parameters, capacity: int) -> list[str]:
    """The bottleneck's ``tc`` commands for a capacity, kbit/s; its queue keeps its size in bytes."""
    if parameters.bands == "bottleneck":
        return build_bands(BOTTLENECK, capacity, parameters.fifo_bytes, pods(parameters))
    return [_bucket(BOTTLENECK, capacity, parameters.fifo_bytes)]


def build_bands(device: str, rate: int, queue: int, places: tuple[PodPlace, ...]) -> list[str]:
    """Three strict priorities on a device, by the sender's address: what Cilium's bands do on a node's uplink."""
    lines = [
        f"qdisc replace dev {device} root handle 1: htb default 12",
        f"class replace dev {device} parent 1: classid 1:1 htb rate {rate}kbit burst {BURST} cburst {BURST}",
    ]
    for band in range(3):
        # Each class owns almost no rate and borrows the rest from its parent, in order of priority.
        share = f"rate 8kbit ceil {rate}kbit burst {BURST} cburst {BURST} quantum 1514 prio {band}"
        lines += [
            f"class replace dev {device} parent 1:1 classid 1:1{band} htb {share}",
            f"qdisc replace dev {device} parent 1:1{band} handle 1{band}: bfifo limit {queue}",
        ]
    lines += [
        f"filter replace dev {device} parent 1: protocol ip prio 1 handle 800::{place.number:x} "
        f"u32 match ip src {place.address}/32 flowid 1:1{place.band}"
        for place in places
    ]
    return lines


def build_pod_limit(kbit: int | None) -> list[str]:
    """The ``tc`` arguments that put a limit in force in a pod's namespace, or lift it."""
    if kbit is None:
        return ["qdisc", "delete", "dev", UPLINK, "root"]
    return _bucket(UPLINK, kbit, POD_QUEUE).split()


def _bucket(device: str, kbit: int, queue: int) -> str:
    return f"qdisc replace dev {device} root handle 1: tbf rate {kbit}kbit burst {BURST} limit {queue}"


def _node(node: str, places: list[PodPlace]) -> list[str]:
    number = int(node[1:])
    lines = [
        f"link set {UPLINK} address {_mac(number)} gso_max_segs 1 up",
        f"addr add 10.77.0.{number}/24 dev {UPLINK}",
    ]
    for other in range(1, len(NODES) + 1):
        if other != number:
            lines += [
                # Address resolution must not wait in the queue that is measured.
                f"neigh add 10.77.0.{other} lladdr {_mac(other)} dev {UPLINK} nud permanent",
                f"route add 10.77.{other}.0/24 via 10.77.0.{other}",
            ]
    for place in places:
        lines += [
            f"link add {place.device} type veth peer name {UPLINK} netns {place.name}",
            f"link set {place.device} gso_max_segs 1 up",
            f"addr add 10.77.{number}.254/32 dev {place.device}",
            f"route add {place.address}/32 dev {place.device}",
        ]
    return [
        f"ip netns exec {node} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'",
        *_batch(f"ip -n {node} -batch -", lines),
    ]


def _tc(namespace: str, commands: list[str]) -> list[str]:
    return _batch(f"tc -n {namespace} -batch -", commands)


def _batch(program: str, lines: list[str]) -> list[str]:
    return [f"{program} <<'END'", *lines, "END"]


def _mac(number: int) -> str:
    return f"02:77:00:00:00:{number:02x}"
