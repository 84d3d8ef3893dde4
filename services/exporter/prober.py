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

from services.exporter.echo import MAGIC, PACKET

_SO_TIMESTAMPING = 37
_STAMP_WHEN = (1 << 8) | (1 << 4) | (1 << 3) | (1 << 11)
"""Software times (linux/net_tstamp.h): of sending, before the device's queue; of receiving; without the payload."""
_STAMPS = struct.Struct("@qq")
_TCP_RTT = struct.Struct("@I")
_RTT_AT, _RETRANSMITTED_AT = 68, 100
"""Offsets in struct tcp_info: smoothed round trip, microseconds; segments sent again."""
_ANSWERED = 1024
"""How many given-up or answered sequence numbers are remembered, to tell late from foreign."""

Outcome = Literal["sent", "answered", "lost", "late", "duplicate", "invalid", "refused", "not-sent", "foreign"]
GONE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)
"""Somebody said that nobody is there: that is no loss on the way."""


class Report(NamedTuple):
    """Where a probe's fate goes."""

    observe: Callable[[float], None]
    """A round trip, seconds."""
    lose: Callable[[int], None]
    """Packets that did not come back."""
    tell: Callable[[Outcome], None]
    """Everything that happened, for the probe's own counters."""


class Echoes:
    """The echoes that are under way to one address.  Pure: no socket, no clock."""

    def __init__(self, session: int, size: int, timeout: int, report: Report) -> None:
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

    def packet(self) -> tuple[int, bytes]:
        """The next packet and its sequence."""
        sequence = self._next
        self._next = (self._next + 1) & 0xFFFFFFFF
        return sequence, PACKET.pack(MAGIC, self._session, sequence, 0, 0, 0) + self._padding

    def sent(self, sequence: int, when: int) -> None:
        """A packet is on its way since ``when`` (UTC ns)."""
        self._report.tell("sent")
        self._waiting[sequence] = when

    def received(self, data: bytes, when: int) -> None:
        """A packet came at ``when`` (UTC ns)."""
        if len(data) < PACKET.size:
            self._report.tell("foreign")
            return
        magic, session, sequence, _, came, went = PACKET.unpack_from(data)
        if magic != MAGIC or session != self._session:
            self._report.tell("foreign")
            return
        sent = self._waiting.pop(sequence, None)
        if sent is None:
            self._report.tell(self._done.get(sequence, "foreign"))
            return
        took, kept = when - sent, went - came
        if took > self._timeout:
            # Its time was up, only nobody had looked yet.
            self._give_up(sequence)
            self._report.tell("late")
            return
        self._finish(sequence, "duplicate")
        if took < 0 or not 0 <= kept <= took:
            # A clock was set while the packet was under way.
            self._report.tell("invalid")
            return
        self._report.tell("answered")
        self._report.observe((took - kept) / 1e9)

    def expire(self, now: int) -> None:
        """Give up what has been under way for too long at ``now`` (UTC ns)."""
        while self._waiting:
            sequence, sent = next(iter(self._waiting.items()))
            if 0 <= now - sent <= self._timeout:
                return
            del self._waiting[sequence]
            if now < sent:
                self._report.tell("invalid")
                self._finish(sequence, "late")
            else:
                self._give_up(sequence)

    def gone(self) -> None:
        """Nobody listens there: what is under way is not lost on the way."""
        for sequence in self._waiting:
            self._report.tell("refused")
            self._finish(sequence, "late")
        self._waiting.clear()

    def _give_up(self, sequence: int) -> None:
        self._report.tell("lost")
        self._report.lose(1)
        self._finish(sequence, "late")

    def _finish(self, sequence: int, then: Literal["late", "duplicate"]) -> None:
        self._done[sequence] = then
        if len(self._done) > _ANSWERED:
            self._done.popitem(last=False)


class UdpProbe:
    """Sends echoes to one address and listens for them, on the running event loop."""

    def __init__(self, address: tuple[str, int], family: int, size: int, timeout: int, report: Report) -> None:
        """Connect a socket.

        Raises:
            OSError: there is no way to that address.
        """
        self._echoes = Echoes(random.getrandbits(32), size, timeout, report)
        self._report = report
        self._link = socket.socket(family, socket.SOCK_DGRAM)
        self._link.setblocking(False)
        try:
            self._link.connect(address)
        except OSError:
            self._link.close()
            raise
        with contextlib.suppress(OSError):
            # Without it this process' own clock has to do.
            self._link.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _STAMP_WHEN)

    async def run(self, interval: float) -> None:
        """Probe until cancelled, every ``interval`` seconds on average."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._link.fileno(), self._read)
        due = loop.time() + interval * random.random()
        try:
            while True:
                await asyncio.sleep(due - loop.time())
                self._send()
                self._echoes.expire(time.time_ns())
                # Irregular, so as not to march in step with something periodic (RFC 2330); what is
                # overdue is left out, because a burst would measure itself.
                due = max(due + interval * random.uniform(0.5, 1.5), loop.time())
        finally:
            loop.remove_reader(self._link.fileno())
            self._link.close()

    def _send(self) -> None:
        sequence, packet = self._echoes.packet()
        before = time.time_ns()
        try:
            self._link.send(packet)
        except OSError as error:
            self._failed(error)
            return
        self._echoes.sent(sequence, self._stamp_of_sending() or before)

    def _stamp_of_sending(self) -> int | None:
        # The kernel has put it there before send returned.
        with contextlib.suppress(BlockingIOError):
            _, ancillary, _, _ = self._link.recvmsg(0, 512, socket.MSG_ERRQUEUE)
            return _stamp(ancillary)
        return None

    def _read(self) -> None:
        while True:
            try:
                data, ancillary, _, _ = self._link.recvmsg(2048, 512)
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(error)
                return
            self._echoes.received(data, _stamp(ancillary) or time.time_ns())

    def _failed(self, error: OSError) -> None:
        if error.errno in GONE:
            self._echoes.gone()
            self._report.tell("refused")
        else:
            self._report.tell("not-sent")


def _stamp(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPING and len(data) >= _STAMPS.size:
            seconds, nanoseconds = _STAMPS.unpack_from(data)
            return int(seconds * 1_000_000_000 + nanoseconds) or None
    return None


async def probe_tcp(address: tuple[str, int], family: int, patience: float, report: Report) -> None:
    """One connection: its handshake is measured, and one echo shows that somebody answers.

    Args:
        address: of the sidecar.
        family: of the address.
        patience: for all of it, seconds.
        report: told of the fate.
    """
    loop = asyncio.get_running_loop()
    message = PACKET.pack(MAGIC, 0, 0, 0, 0, 0)
    with socket.socket(family, socket.SOCK_STREAM) as link:
        link.setblocking(False)
        report.tell("sent")
        began = loop.time()
        try:
            async with asyncio.timeout(patience):
                await loop.sock_connect(link, address)
                took, lost = loop.time() - began, _again(link)
                # A handshake with a retransmission is as slow as it was for the application.
                report.observe(took if lost else _round_trip(link))
                await loop.sock_sendall(link, message)
                if not await loop.sock_recv(link, len(message)):
                    raise ConnectionResetError(errno.ECONNREFUSED, "closed")
        except TimeoutError:
            report.tell("lost")
            report.lose(max(_again(link), 1))
            return
        except OSError as error:
            report.tell("refused" if error.errno in (*GONE, errno.ECONNRESET) else "not-sent")
            return
        report.tell("answered")
        if lost := _again(link):
            report.lose(lost)


def _round_trip(link: socket.socket) -> float:
    return float(_info(link, _RTT_AT)) / 1e6


def _again(link: socket.socket) -> int:
    return _info(link, _RETRANSMITTED_AT)


def _info(link: socket.socket, offset: int) -> int:
    info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(_TCP_RTT.unpack_from(info, offset)[0]) if len(info) >= offset + 4 else 0


async def repeat_tcp(address: tuple[str, int], family: int, patience: float, interval: float, report: Report) -> None:
    """Probe until cancelled, every ``interval`` seconds on average."""
    while True:
        await asyncio.sleep(interval * random.uniform(0.5, 1.5))
        await probe_tcp(address, family, patience, report)
