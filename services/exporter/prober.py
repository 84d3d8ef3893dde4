"""Measures workloads that open no connections: sends echoes to their sidecars at a low rate.

    *prober* -> metrics

Times are the kernel's: when a packet was handed to the network and when the answer arrived, less the time
that the sidecar reports to have kept it.  So neither this process nor the sidecar has to be quick.  TCP's
round trip is the kernel's measurement of the handshake.
"""

import asyncio
import contextlib
import errno
import random
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, NamedTuple

from services.exporter.echo_server import MAGIC, PACKET, parse_stamp

_SO_TIMESTAMPING = 37
_STAMP_WHEN = (1 << 8) | (1 << 4) | (1 << 3)
"""Software times (linux/net_tstamp.h): of sending, before the device's queue; of receiving."""
_LONGEST = 2048
_TCP_INFO_FIELD = struct.Struct("@I")
_RTT_AT, _RETRANSMITTED_AT = 68, 100
"""Offsets in struct tcp_info: smoothed round trip, microseconds; segments sent again."""
_ANSWERED = 1024
"""How many lost or answered sequence numbers are remembered, to tell late answers from foreign packets."""

Outcome = Literal["sent", "answered", "lost", "late", "duplicate", "invalid", "refused", "not-sent", "foreign"]
GONE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)
"""The network or the host reports that nothing listens there: that is no loss."""
_DISCONNECTED = (errno.ECONNABORTED, errno.EDESTADDRREQ)
"""The socket was disconnected, as Cilium does when a Service's backend is gone."""
_SILENT_TIMEOUTS = 2
"""After this many timeouts without an answer the socket may be bound to a backend that is gone."""


class ProbeReport(NamedTuple):
    """Callbacks for a probe's results."""

    observe: Callable[[float], None]
    """A round trip, seconds."""
    lose: Callable[[int], None]
    """A number of lost packets."""
    record: Callable[[Outcome], None]
    """Every outcome, for the probe's own counters."""


class EchoTracker:
    """The unanswered echoes to one address.  Pure: no socket, no clock."""

    def __init__(self, session: int, size: int, timeout: int, report: ProbeReport) -> None:
        """Start at sequence 0.

        Args:
            session: distinguishes this prober's packets from a predecessor's.
            size: of a packet, bytes.
            timeout: after which an echo is lost, ns.
            report: receives each echo's result.
        """
        self._session = session
        self._padding = bytes(size - PACKET.size)
        self._timeout = timeout
        self._report = report
        self._next = 0
        self._waiting: OrderedDict[int, int] = OrderedDict()
        self._done: OrderedDict[int, Literal["late", "duplicate"]] = OrderedDict()

    def next_packet(self) -> tuple[int, bytes]:
        """The next packet and its sequence."""
        sequence = self._next
        self._next = (self._next + 1) & 0xFFFFFFFF
        return sequence, PACKET.pack(MAGIC, self._session, sequence, 0, 0, 0) + self._padding

    def record_sent(self, sequence: int, when: int) -> None:
        """A packet was sent at ``when`` (UTC ns)."""
        self._report.record("sent")
        self._waiting[sequence] = when

    def receive(self, data: bytes, when: int) -> bool:
        """Process a packet that arrived at ``when`` (UTC ns).

        Returns:
            Whether it answers one of these echoes, however late.
        """
        if len(data) < PACKET.size:
            self._report.record("foreign")
            return False
        magic, session, sequence, _, came, went = PACKET.unpack_from(data)
        if magic != MAGIC or session != self._session:
            self._report.record("foreign")
            return False
        sent = self._waiting.pop(sequence, None)
        if sent is None:
            self._report.record(self._done.get(sequence, "foreign"))
            return True
        took, kept = when - sent, went - came
        if took > self._timeout:
            # It had timed out before ``expire`` was called.
            self._give_up(sequence)
            self._report.record("late")
            return True
        self._finish(sequence, "duplicate")
        if took < 0 or not 0 <= kept <= took:
            # A clock was set in the meantime.
            self._report.record("invalid")
            return True
        self._report.record("answered")
        self._report.observe((took - kept) / 1e9)
        return True

    def expire(self, now: int) -> None:
        """Count echoes as lost that are unanswered for too long at ``now`` (UTC ns)."""
        while self._waiting:
            sequence, sent = next(iter(self._waiting.items()))
            if 0 <= now - sent <= self._timeout:
                return
            del self._waiting[sequence]
            if now < sent:
                self._report.record("invalid")
                self._finish(sequence, "late")
            else:
                self._give_up(sequence)

    def refuse_all(self) -> None:
        """Nothing listens there: unanswered echoes are refused, not lost."""
        for sequence in self._waiting:
            self._report.record("refused")
            self._finish(sequence, "late")
        self._waiting.clear()

    def _give_up(self, sequence: int) -> None:
        self._report.record("lost")
        self._report.lose(1)
        self._finish(sequence, "late")

    def _finish(self, sequence: int, then: Literal["late", "duplicate"]) -> None:
        self._done[sequence] = then
        if len(self._done) > _ANSWERED:
            self._done.popitem(last=False)


class UdpProbe:
    """Sends echoes to one address and listens for them, on the running event loop."""

    def __init__(self, address: tuple[str, int], family: int, size: int, timeout: int, report: ProbeReport) -> None:
        """Prepare; nothing is sent yet."""
        self._echoes = EchoTracker(random.getrandbits(32), size, timeout, report)
        self._report = report
        self._address = address
        self._family = family
        self._silent_ns = _SILENT_TIMEOUTS * timeout
        self._link: socket.socket
        self._silent_since: int | None = None
        """Since when this socket has had no answer (monotonic, ns); None while all echoes are answered."""
        self._disconnected = False

    async def run(self, interval: float) -> None:
        """Probe every ``interval`` seconds on average, on a new socket, until nothing answers on it.

        A load balancer may have bound the socket to a pod that is gone.  Unanswered echoes time out in the
        next run.

        Raises:
            OSError: the address cannot be reached.
        """
        self.connect()
        self._silent_since, self._disconnected = None, False
        loop = asyncio.get_running_loop()
        loop.add_reader(self._link.fileno(), self.read)
        due = loop.time() + interval * random.random()
        try:
            while True:
                await asyncio.sleep(due - loop.time())
                self._echoes.expire(time.time_ns())
                if self._disconnected or self.is_silent(time.monotonic_ns()):
                    return
                self.send()
                # Irregular, so as not to be in phase with periodic traffic (RFC 2330); overdue probes are
                # skipped, because a burst would measure itself.
                due = max(due + interval * random.uniform(0.5, 1.5), loop.time())
        finally:
            loop.remove_reader(self._link.fileno())
            self._link.close()

    def connect(self) -> None:
        """Open a socket to the address.

        Raises:
            OSError: the address cannot be reached.
        """
        link = socket.socket(self._family, socket.SOCK_DGRAM)
        link.setblocking(False)
        try:
            link.connect(self._address)
        except OSError:
            link.close()
            raise
        with contextlib.suppress(OSError):
            # Without kernel timestamps this process's clock is used.
            link.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _STAMP_WHEN)
        self._link = link

    def is_silent(self, now: int) -> bool:
        """Whether echoes on this socket have been unanswered for too long at ``now`` (monotonic, ns)."""
        return self._silent_since is not None and now - self._silent_since > self._silent_ns

    def send(self) -> None:
        """Send the next echo."""
        sequence, packet = self._echoes.next_packet()
        if self._silent_since is None:
            self._silent_since = time.monotonic_ns()
        before = time.time_ns()
        try:
            self._link.send(packet)
        except OSError as error:
            self._handle_error(error)
            return
        self._echoes.record_sent(sequence, self._find_sent_time(packet) or before)

    def _find_sent_time(self, packet: bytes) -> int | None:
        """When the kernel handed a packet to the network, UTC ns; None where it has not reported that.

        It reports before ``send`` returns, unless the packet waits for its neighbour's address: so each
        report is matched by its packet's content.
        """
        return next((when for data, when in self._drain_error_queue() if data.endswith(packet)), None)

    def _drain_error_queue(self) -> list[tuple[bytes, int | None]]:
        """Read the kernel's reports: packets that it handed to the network, and when (UTC ns)."""
        reports = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = self._link.recvmsg(_LONGEST, 512, socket.MSG_ERRQUEUE)
                reports.append((data, parse_stamp(ancillary, _SO_TIMESTAMPING)))
        return reports

    def read(self) -> None:
        """Receive the answers that have arrived."""
        while True:
            try:
                data, ancillary, _, _ = self._link.recvmsg(_LONGEST, 512)
            except BlockingIOError:
                break
            except OSError as error:
                self._handle_error(error)
                break
            if self._echoes.receive(data, parse_stamp(ancillary, _SO_TIMESTAMPING) or time.time_ns()):
                self._silent_since = None
        # Unread reports would wake the event loop again and again.
        self._drain_error_queue()

    def _handle_error(self, error: OSError) -> None:
        if error.errno in GONE:
            self._echoes.refuse_all()
            self._report.record("refused")
        else:
            self._report.record("not-sent")
        if error.errno in _DISCONNECTED:
            self._disconnected = True


async def probe_tcp(address: tuple[str, int], family: int, timeout_s: float, report: ProbeReport) -> None:
    """Connect once: measure the handshake, and send one echo to see that the sidecar answers.

    Args:
        address: of the sidecar.
        family: of the address.
        timeout_s: of the whole connection, seconds.
        report: receives the result.
    """
    loop = asyncio.get_running_loop()
    message = PACKET.pack(MAGIC, 0, 0, 0, 0, 0)
    with socket.socket(family, socket.SOCK_STREAM) as link:
        link.setblocking(False)
        report.record("sent")
        began = loop.time()
        try:
            async with asyncio.timeout(timeout_s):
                await loop.sock_connect(link, address)
                took, lost = loop.time() - began, _retransmissions(link)
                # A handshake with a retransmission is as slow as it was for the application.
                report.observe(took if lost else _read_tcp_info(link, _RTT_AT) / 1e6)
                await loop.sock_sendall(link, message)
                if not await loop.sock_recv(link, len(message)):
                    raise ConnectionResetError(errno.ECONNREFUSED, "closed")
        except TimeoutError:
            report.record("lost")
            report.lose(max(_retransmissions(link), 1))
            return
        except OSError as error:
            report.record("refused" if error.errno in (*GONE, errno.ECONNRESET) else "not-sent")
            return
        report.record("answered")
        if lost := _retransmissions(link):
            report.lose(lost)


def _retransmissions(link: socket.socket) -> int:
    return _read_tcp_info(link, _RETRANSMITTED_AT)


def _read_tcp_info(link: socket.socket, offset: int) -> int:
    info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(_TCP_INFO_FIELD.unpack_from(info, offset)[0]) if len(info) >= offset + 4 else 0


async def repeat_tcp(
    address: tuple[str, int], family: int, timeout_s: float, interval: float, report: ProbeReport
) -> None:
    """Probe until cancelled, every ``interval`` seconds on average."""
    while True:
        await asyncio.sleep(interval * random.uniform(0.5, 1.5))
        await probe_tcp(address, family, timeout_s, report)
