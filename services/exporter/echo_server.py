"""The sidecar of a critical workload: answers the prober's echoes.

    prober --> *echo_server*

It answers only the prober's packets, and never with more bytes than it received, so it cannot amplify an
attack.  A question carries no stamps and an answer always does, so no answer is ever answered, and the rate of
answers is bounded.  A connection with any other data is closed.  A UDP answer reports how long the packet was kept, and
the prober subtracts that: a busy processor is not network latency.  A sidecar that knows its node says so behind the
stamps, where the question has room for it: an exporter has no rights to ask the API.  This module imports little,
because it runs beside every critical pod.
"""

import contextlib
import selectors
import signal
import socket
import struct
import sys
import time

import click

from services.common.os_errors import describe_os_error
from services.runtime.exit_codes import CommandFailure, ExitCode

PACKET = struct.Struct("!4sIIIQQ")
"""Magic, session, sequence, padding, and when the echo was received and answered (ns, the sidecar's clock)."""
MAGIC = b"SLE1"
_STAMPS = PACKET.size - 16
_UNSTAMPED = bytes(16)
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")
_MOST_CONNECTIONS = 64
_IDLE_S = 5.0
_LONGEST = 2048
_BYTES_PER_S = 256 * 1024
"""Most bytes of datagrams answered in a second: many times what probers ask."""
_LEAST_COST = 256
"""What a datagram counts for at least, bytes: a small one costs a processor as much."""


def build_answer(data: bytes, received: int, now: int, node: bytes = b"") -> bytes | None:
    """Build the answer to a packet of the prober, as long as the packet; None for any other packet.

    Args:
        data: the packet.
        received: when it was received, ns.
        now: when it is answered, ns, by the same clock.
        node: where the sidecar runs; left out where there is no room for it.
    """
    if len(data) < PACKET.size or not data.startswith(MAGIC) or data[_STAMPS : PACKET.size] != _UNSTAMPED:
        return None
    rest = data[PACKET.size :]
    if len(node) <= len(rest):
        rest = node + rest[len(node) :]
    return data[:_STAMPS] + struct.pack("!QQ", received, now) + rest


class EchoServer:
    """Listens for datagrams and connections on one selector."""

    def __init__(self, host: str, udp: int | None, tcp: int | None, node: str = "") -> None:
        """Listen.

        Args:
            host: address to listen on; empty: all, of both families where there are both.
            udp: port for datagrams, 0 for a free one; None: no datagrams.
            tcp: the same for connections.
            node: where this runs; empty where that is not known.

        Raises:
            OSError: a port is taken.
        """
        self._selector = selectors.DefaultSelector()
        self._node = node.encode()
        self._connections: dict[socket.socket, float] = {}
        self._budget = float(_BYTES_PER_S)
        self._budgeted_at = time.monotonic()
        self.ports: dict[str, int] = {}
        for name, port, kind in (("udp", udp, socket.SOCK_DGRAM), ("tcp", tcp, socket.SOCK_STREAM)):
            if port is not None:
                self.ports[name] = self._listen(host, port, kind)

    def _listen(self, host: str, port: int, kind: socket.SocketKind) -> int:
        family = socket.AF_INET6 if (":" in host or not host) and socket.has_ipv6 else socket.AF_INET
        try:
            listener = socket.socket(family, kind)
            if not host and family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
            listener.bind((host, port))
        except OSError:
            if host or family == socket.AF_INET:
                raise
            # A kernel without IPv6.
            return self._listen("0.0.0.0", port, kind)  # noqa: S104 - a sidecar is asked from outside
        listener.setblocking(False)
        if kind == socket.SOCK_DGRAM:
            listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        else:
            listener.listen(_MOST_CONNECTIONS)
        self._selector.register(listener, selectors.EVENT_READ, kind)
        return int(listener.getsockname()[1])

    def serve_once(self, timeout: float = 1.0) -> None:
        """Serve pending packets and connections, or wait for some for ``timeout`` seconds."""
        for key, _ in self._selector.select(timeout):
            link = key.fileobj
            assert isinstance(link, socket.socket)
            if key.data == socket.SOCK_DGRAM:
                self._answer_datagrams(link)
            elif key.data == socket.SOCK_STREAM:
                # The client may be gone again.
                with contextlib.suppress(OSError):
                    connection, _ = link.accept()
                    if len(self._connections) >= _MOST_CONNECTIONS:
                        # Whoever holds all of them must not lock an honest prober out.
                        self._close(min(self._connections, key=self._connections.__getitem__))
                    connection.setblocking(False)
                    self._connections[connection] = time.monotonic()
                    self._selector.register(connection, selectors.EVENT_READ)
            else:
                whole = False
                with contextlib.suppress(OSError):
                    data = link.recv(_LONGEST)
                    reply = build_answer(data, time.time_ns(), time.time_ns(), self._node)
                    whole = reply is not None and link.send(reply) == len(data)
                if whole:
                    self._connections[link] = time.monotonic()
                else:
                    self._close(link)
        now = time.monotonic()
        for connection in [one for one, heard in self._connections.items() if now - heard > _IDLE_S]:
            self._close(connection)

    def close(self) -> None:
        """Stop listening."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()

    def _answer_datagrams(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, sender = listener.recvmsg(_LONGEST, 64)
                stamp = parse_stamp(ancillary, _SO_TIMESTAMPNS)
                now = time.time_ns()
                reply = build_answer(data, stamp or now, now, self._node)
                if reply is not None and self._spend(max(len(reply), _LEAST_COST)):
                    # The prober counts the missing answer as lost.
                    with contextlib.suppress(OSError):
                        listener.sendto(reply, sender)

    def _spend(self, cost: int) -> bool:
        """Whether an answer of so many bytes is within the rate."""
        now = time.monotonic()
        self._budget = min(self._budget + (now - self._budgeted_at) * _BYTES_PER_S, _BYTES_PER_S)
        self._budgeted_at = now
        if self._budget < cost:
            return False
        self._budget -= cost
        return True

    def _close(self, connection: socket.socket) -> None:
        if self._connections.pop(connection, None) is None:
            return  # displaced since it became readable
        self._selector.unregister(connection)
        connection.close()


def parse_stamp(ancillary: list[tuple[int, int, bytes]], option: int) -> int | None:
    """The kernel's time of a datagram, UTC ns; None without one.

    Args:
        ancillary: from ``recvmsg``.
        option: the socket option that requested the time.
    """
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == option and len(data) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            return int(seconds * 1_000_000_000 + nanoseconds) or None
    return None


@click.command()
@click.option("--udp", type=click.IntRange(0, 65535), help="Port for UDP echoes; 0 picks a free one.")
@click.option("--tcp", type=click.IntRange(0, 65535), help="Port for TCP echoes; 0 picks a free one.")
@click.option("--host", default="", help="Address to listen on; all by default.")
@click.option("--node", envvar="SLUICE_NODE", default="", help="The node that this runs on.  Also SLUICE_NODE.")
def command(udp: int | None, tcp: int | None, host: str, node: str) -> None:
    """Answer the exporter's probes beside a critical workload."""
    if udp is None and tcp is None:
        raise click.UsageError("nothing to listen on: give --udp PORT, --tcp PORT or both")
    try:
        echo = EchoServer(host, udp, tcp, node)
    except OSError as error:
        where = host or "every address"
        raise CommandFailure(f"cannot listen on {where}: {describe_os_error(error)}", ExitCode.UNREADABLE) from None
    # The first process of a container ignores signals that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    click.echo("listening " + " ".join(f"{name} {port}" for name, port in echo.ports.items()))
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            echo.serve_once()
