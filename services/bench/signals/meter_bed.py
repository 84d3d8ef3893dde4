"""The bed of ``sluice bench meter``: pods behind veth devices on one node, as Cilium builds them, and a wire.

    pod: eth0 -- lxcN :node: out -- wire

A host route leads to each pod.  A limit is a queue on the node's device toward the wire, behind the counters, as
the bandwidth manager's is.  What the far end of the wire receives is the truth.  Runs in namespaces of its own.
"""

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_CLONE_NEWNET = 0x40000000
SINK = "10.99.0.2"
PORT = 9000
T = TypeVar("T")


def run(*commands: str, namespace: str | None = None) -> None:
    """Run commands of ``ip``, in another namespace perhaps.

    Raises:
        CalledProcessError: one failed.
    """
    where = [] if namespace is None else ["-n", namespace]
    subprocess.run(["ip", *where, "-batch", "-"], input="\n".join(commands), text=True, check=True)


def enter(namespace: str, work: Callable[[], T]) -> T:
    """Run ``work`` in another network namespace; what it opens stays there."""
    found: list[T] = []

    def visit() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/run/netns", namespace).open(encoding="ascii") as there:
            if libc.setns(there.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns", namespace)
        found.append(work())

    visitor = threading.Thread(target=visit)
    visitor.start()
    visitor.join()
    return found[0]


def build_wire() -> None:
    """Build the node's way out, and the far end with its sink."""
    run(
        "link set lo up",
        "netns add wire",
        "link add out type veth peer name eth0 netns wire",
        "link set out gso_max_segs 1 up",
        "addr add 10.99.0.1/24 dev out",
    )
    far = ["link set lo up", "link set eth0 up", f"addr add {SINK}/24 dev eth0", "route add 10.98.0.0/16 via 10.99.0.1"]
    run(*far, namespace="wire")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")


def add_pod(number: int, *, segments: int | None = None) -> str:
    """Add a pod; gives its address.

    Args:
        number: counts them.
        segments: packets that it may pass down as one; None: as many as the kernel likes.
    """
    address, device = f"10.98.{number // 250}.{number % 250 + 1}", f"lxc{number}"
    run(
        f"netns add p{number}",
        f"link add {device} type veth peer name eth0 netns p{number}",
        f"link set {device} up",
        f"route add {address}/32 dev {device} scope link",
    )
    Path(f"/proc/sys/net/ipv4/conf/{device}/proxy_arp").write_text("1", encoding="ascii")
    commands = [
        "link set lo up",
        f"link set eth0 {'' if segments is None else f'gso_max_segs {segments}'} up",
        f"addr add {address}/32 dev eth0",
        "route add 10.99.0.0/24 dev eth0",
    ]
    run(*commands, namespace=f"p{number}")
    return address


def remove_pod(number: int) -> None:
    """Remove a pod with its device and route."""
    run(f"link del lxc{number}", f"netns del p{number}")


def set_limit(kbit: int | None) -> None:
    """Limit what leaves the node, kbit/s; None lifts it."""
    subprocess.run(["tc", "qdisc", "del", "dev", "out", "root"], check=False, capture_output=True)
    if kbit is not None:
        limit = f"tc qdisc replace dev out root tbf rate {kbit}kbit burst 16000 limit 200000"
        subprocess.run(limit.split(), check=True)


class Wire:
    """The far end of the wire: a sink, and the truth."""

    def __init__(self) -> None:
        """Open the sink's sockets and the counters."""
        self._datagrams = enter("wire", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._datagrams.bind((SINK, PORT))
        self._server = enter("wire", lambda: socket.create_server((SINK, PORT)))
        self._counters = enter("wire", lambda: os.open("/proc/thread-self/net/dev", os.O_RDONLY))
        threading.Thread(target=self._take_connections, daemon=True).start()

    def _take_connections(self) -> None:
        while True:
            connection, _ = self._server.accept()
            threading.Thread(target=self._drain, args=(connection,), daemon=True).start()

    @staticmethod
    def _drain(connection: socket.socket) -> None:
        buffer = bytearray(1 << 18)
        with connection:
            while connection.recv_into(buffer):
                pass

    def read(self) -> tuple[int, int]:
        """Bytes and packets that have arrived."""
        for line in os.pread(self._counters, 65536, 0).splitlines():
            name, _, rest = line.partition(b":")
            if name.strip() == b"eth0":
                fields = rest.split()
                return int(fields[0]), int(fields[1])
        raise RuntimeError("the wire has no device")


def open_sender(number: int, kind: socket.SocketKind) -> socket.socket:
    """A socket of a pod, connected to the sink."""
    sender = enter(f"p{number}", lambda: socket.socket(socket.AF_INET, kind))
    sender.connect((SINK, PORT))
    return sender
