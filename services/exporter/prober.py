"""Measures what opens no flows: echoes to the sidecars of critical workloads, at a low rate.

    *prober* -> metrics

Times are the kernel's: when a packet was handed to the network and when one came back, less the time
that the sidecar says it kept it.  So neither this process nor the sidecar has to be quick.  TCP's
round trip is what the kernel measured of the handshake.
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

from services.exporter.echo_server import MAGIC, PACKET

_SO_TIMESTAMPING = 37
_STAMP_WHEN = (1 << 8) | (1 << 4) | (1 << 3)
"""Software times (linux/net_tstamp.h): of sending, before the device's queue; of receiving."""
_LONGEST = 2048
_STAMPS = struct.Struct("@qq")
_TCP_RTT = struct.Struct("@I")
_RTT_AT, _RETRANSMITTED_AT = 68, 100
"""Offsets in struct tcp_info: smoothed round trip, microseconds; segments sent again."""
_ANSWERED = 1024
"""How many given-up or answered sequence numbers are remembered, to tell late from foreign."""

Outcome = Literal["sent", "answered", "lost", "late", "duplicate", "invalid", "refused", "not-sent", "foreign"]
GONE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)
"""Somebody said that nobody is there: that is no loss on the way."""
_CUT_OFF = (errno.ECONNABORTED, errno.EDESTADDRREQ)
"""The socket has no other end any more: so Cilium treats sockets whose backend of a Service is gone."""
_PATIENCE = 2
"""After so many timeouts without any answer the socket may hang on a backend that is gone."""


class ProbeReport(NamedTuple):
    """Where a probe's fate goes."""

    observe: Callable[[float], None]
    """A round trip, seconds."""
    lose: Callable[[int], None]
    """Packets that did not come back."""
    record: Callable[[Outcome], None]
    """Everything that happened, for the probe's own counters."""


class EchoTracker:
    """The echoes that are under way to one address.  Pure: no socket, no clock."""

    def __init__(self, session: int, size: int, timeout: int, report: ProbeReport) -> None:
        """Start at sequence 0.

        Args:
            session: tells this prober's packets from those of one before it.
            size: of a packet, bytes.
            timeout: an echo that takes longer is lost, ns.
            report: told of each echo's fate.
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
        """A packet is on its way since ``when`` (UTC ns)."""
        self._report.record("sent")
        self._waiting[sequence] = when

    def receive(self, data: bytes, when: int) -> bool:
        """A packet came at ``when`` (UTC ns); gives whether it answers one of these echoes, however late."""
        if len(data) >= PACKET.size:
            magic, session, sequence, _, came, went = PACKET.unpack_from(data)
            if magic == MAGIC and session == self._session:
                self._match_answer(sequence, came, went, when)
                return True
        self._report.record("foreign")
        return False

    def _match_answer(self, sequence: int, came: int, went: int, when: int) -> None:
        sent = self._waiting.pop(sequence, None)
        if sent is None:
            self._report.record(self._done.get(sequence, "foreign"))
            return
        took, kept = when - sent, went - came
        if took > self._timeout:
            # Its time was up, only nobody had looked yet.
            self._give_up(sequence)
            self._report.record("late")
            return
        self._finish(sequence, "duplicate")
        if took < 0 or not 0 <= kept <= took:
            # A clock was set while the packet was under way.
            self._report.record("invalid")
            return
        self._report.record("answered")
        self._report.observe((took - kept) / 1e9)

    def expire(self, now: int) -> None:
        """Give up what has been under way for too long at ``now`` (UTC ns)."""
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
        """Nobody listens there: what is under way is not lost on the way."""
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
        self._patience = _PATIENCE * timeout
        self._link: socket.socket
        self._asked: int | None = None
        """Since when nothing came back on this socket (monotonic, ns); None while nothing is owed."""
        self._cut_off = False

    async def run(self, interval: float) -> None:
        """Probe every ``interval`` seconds on average, on a new socket, for as long as it is of use.

        It is not where nothing comes back on it: whoever balances load may have tied it to a pod that is
        gone.  What was under way then is lost in its time, in the next run.

        Raises:
            OSError: there is no way to that address.
        """
        self._link = self._connect()
        self._asked, self._cut_off = None, False
        loop = asyncio.get_running_loop()
        loop.add_reader(self._link.fileno(), self._read)
        due = loop.time() + interval * random.random()
        try:
            while True:
                await asyncio.sleep(due - loop.time())
                self._echoes.expire(time.time_ns())
                if self._cut_off or self._is_silent(time.monotonic_ns()):
                    return
                self._send()
                # Irregular, so as not to march in step with something periodic (RFC 2330); what is
                # overdue is left out, because a burst would measure itself.
                due = max(due + interval * random.uniform(0.5, 1.5), loop.time())
        finally:
            loop.remove_reader(self._link.fileno())
            self._link.close()

    def _connect(self) -> socket.socket:
        link = socket.socket(self._family, socket.SOCK_DGRAM)
        link.setblocking(False)
        try:
            link.connect(self._address)
        except OSError:
            link.close()
            raise
        with contextlib.suppress(OSError):
            # Without it this process' own clock has to do.
            link.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _STAMP_WHEN)
        return link

    def _is_silent(self, now: int) -> bool:
        return self._asked is not None and now - self._asked > self._patience

    def _send(self) -> None:
        sequence, packet = self._echoes.next_packet()
        if self._asked is None:
            self._asked = time.monotonic_ns()
        before = time.time_ns()
        try:
            self._link.send(packet)
        except OSError as error:
            self._handle_error(error)
            return
        self._echoes.record_sent(sequence, self._read_sent_time(packet) or before)

    def _read_sent_time(self, packet: bytes) -> int | None:
        """When the kernel handed a packet to the network, UTC ns; None where it does not say.

        It says so before ``send`` returns, but of a packet that waits for its neighbour's address it says
        so later, perhaps in the midst of another one's: each is known by its content.
        """
        return next((when for data, when in self._drain_error_queue() if data.endswith(packet)), None)

    def _drain_error_queue(self) -> list[tuple[bytes, int | None]]:
        """Take all that the kernel has to say of packets that it handed to the network."""
        said = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = self._link.recvmsg(_LONGEST, 512, socket.MSG_ERRQUEUE)
                said.append((data, _stamp(ancillary)))
        return said

    def _read(self) -> None:
        while True:
            try:
                data, ancillary, _, _ = self._link.recvmsg(_LONGEST, 512)
            except BlockingIOError:
                break
            except OSError as error:
                self._handle_error(error)
                break
            if self._echoes.receive(data, _stamp(ancillary) or time.time_ns()):
                self._asked = None
        # What nobody takes would wake the loop again and again.
        self._drain_error_queue()

    def _handle_error(self, error: OSError) -> None:
        if error.errno in GONE:
            self._echoes.refuse_all()
            self._report.record("refused")
        else:
            self._report.record("not-sent")
        if error.errno in _CUT_OFF:
            self._cut_off = True


def _stamp(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPING and len(data) >= _STAMPS.size:
            seconds, nanoseconds = _STAMPS.unpack_from(data)
            return int(seconds * 1_000_000_000 + nanoseconds) or None
    return None


async def probe_tcp(address: tuple[str, int], family: int, timeout_s: float, report: ProbeReport) -> None:
    """One connection: its handshake is measured, and one echo shows that somebody answers.

    Args:
        address: of the sidecar.
        family: of the address.
        timeout_s: of the whole connection, seconds.
        report: told of the fate.
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
                report.observe(took if lost else _round_trip(link))
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


def _round_trip(link: socket.socket) -> float:
    return float(_info(link, _RTT_AT)) / 1e6


def _retransmissions(link: socket.socket) -> int:
    return _info(link, _RETRANSMITTED_AT)


def _info(link: socket.socket, offset: int) -> int:
    info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(_TCP_RTT.unpack_from(info, offset)[0]) if len(info) >= offset + 4 else 0


async def repeat_tcp(
    address: tuple[str, int], family: int, timeout_s: float, interval: float, report: ProbeReport
) -> None:
    """Probe until cancelled, every ``interval`` seconds on average."""
    while True:
        await asyncio.sleep(interval * random.uniform(0.5, 1.5))
        await probe_tcp(address, family, timeout_s, report)
