"""Echoes: round trips, lost, late and foreign ones; and the sidecar that answers them."""

import asyncio
import ctypes
import select
import socket
import struct
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from random import Random

import pytest

from services.exporter.echo_server import MAGIC, PACKET, EchoServer, build_answer
from services.exporter.prober import EchoTracker, ProbeReport, UdpProbe, probe_tcp
from tests.support.attack_tally import Attacks, resize
from tests.support.hubble.sidecar import serving
from tests.support.waiting import PATIENCE_S

MS = 1_000_000
T = 1_800_000_000_000_000_000


class Fate:
    """Records the outcomes of probes."""

    def __init__(self) -> None:
        """Start empty."""
        self.latencies: list[float] = []
        self.lost = 0
        self.outcomes: Counter[str] = Counter()
        self.report = ProbeReport(self.latencies.append, self._lose, self._tell)

    def _lose(self, number: int) -> None:
        self.lost += number

    def _tell(self, outcome: str) -> None:
        self.outcomes[outcome] += 1


def echoes(fate: Fate) -> EchoTracker:
    """Echoes of session 7 with a timeout of one second."""
    return EchoTracker(7, 64, 1000 * MS, fate.report)


def test_a_round_trip_is_less_what_the_sidecar_kept() -> None:
    """10 ms there and back, of which 7 in the sidecar by its own clock, however wrong that is."""
    fate = Fate()
    probe = echoes(fate)
    sequence, packet = probe.next_packet()
    assert len(packet) == 64
    probe.record_sent(sequence, T)
    probe.receive(build_answer(packet, 5 * MS, 12 * MS) or b"", T + 10 * MS)
    assert fate.latencies == [0.003]
    assert fate.outcomes == {"sent": 1, "answered": 1}


def test_a_lost_probe_and_its_late_and_its_second_answer() -> None:
    """It is lost once after the timeout; later answers are counted, but not observed."""
    fate = Fate()
    probe = echoes(fate)
    numbers = [probe.next_packet() for _ in range(3)]
    for sequence, _ in numbers:
        probe.record_sent(sequence, T + sequence * MS)
    probe.expire(T + 1001 * MS)
    assert fate.lost == 1
    reply = [build_answer(packet, 0, 0) or b"" for _, packet in numbers]
    probe.receive(reply[0], T + 1002 * MS)
    probe.receive(reply[1], T + 5 * MS)
    probe.receive(reply[1], T + 6 * MS)
    probe.receive(reply[2], T + 1500 * MS)
    assert fate.outcomes == {"sent": 3, "lost": 2, "late": 2, "answered": 1, "duplicate": 1}
    assert fate.lost == 2
    assert fate.latencies == [0.004]


def test_clocks_that_are_set_give_no_latency() -> None:
    """A negative round trip, one that is shorter than the sidecar's time, and a probe from the future."""
    fate = Fate()
    probe = echoes(fate)
    numbers = [probe.next_packet() for _ in range(3)]
    for sequence, _ in numbers:
        probe.record_sent(sequence, T)
    probe.receive(build_answer(numbers[0][1], 0, 0) or b"", T - MS)
    probe.receive(build_answer(numbers[1][1], 0, 50 * MS) or b"", T + 5 * MS)
    probe.expire(T - 10 * MS)
    assert fate.outcomes["invalid"] == 3
    assert (fate.latencies, fate.lost) == ([], 0)


@pytest.mark.parametrize("data", [b"", b"x" * 64, PACKET.pack(MAGIC, 8, 0, 0, 0, 0), PACKET.pack(MAGIC, 7, 9, 0, 0, 0)])
def test_other_packets_are_foreign(data: bytes) -> None:
    """Packets that are too short, of another kind or session, or were never sent."""
    fate = Fate()
    probe = echoes(fate)
    probe.record_sent(*(probe.next_packet()[0], T))
    probe.receive(data, T + MS)
    assert fate.outcomes == {"sent": 1, "foreign": 1}


def test_a_refusal_is_not_a_loss() -> None:
    """A refused probe shows a missing sidecar, not a lossy network."""
    fate = Fate()
    probe = echoes(fate)
    probe.record_sent(probe.next_packet()[0], T)
    probe.refuse_all()
    probe.expire(T + 5000 * MS)
    assert (fate.lost, fate.outcomes["refused"]) == (0, 1)


def test_the_sidecar_answers_probes_only_and_never_with_more() -> None:
    """It cannot amplify an attack."""
    packet = PACKET.pack(MAGIC, 1, 2, 3, 0, 0) + b"padding"
    reply = build_answer(packet, 4, 5)
    assert reply is not None
    assert len(reply) == len(packet)
    assert PACKET.unpack_from(reply) == (MAGIC, 1, 2, 3, 4, 5)
    assert reply.endswith(b"padding")
    for other in (b"", b"hello", b"x" * 500, packet[:20], reply):
        assert build_answer(other, 4, 5) is None


async def until(fate: Fate, outcome: str, number: int) -> None:
    """Wait at most twenty seconds until something has happened this often."""
    async with asyncio.timeout(PATIENCE_S):
        while fate.outcomes[outcome] < number:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.01)


async def again(probe: UdpProbe, interval: float) -> None:
    """Probe until cancelled, on socket after socket."""
    while True:
        await probe.run(interval)


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
async def test_udp_round_trips_on_a_real_socket(host: str) -> None:
    """Latencies of loopback by the kernel's times: above zero and far below a second."""
    fate = Fate()
    with serving(host) as ports:
        probe = UdpProbe(("127.0.0.1", ports["udp"]), socket.AF_INET, 64, 1000 * MS, fate.report)
        task = asyncio.create_task(probe.run(0.002))
        await until(fate, "answered", 50)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert fate.lost == 0
    assert all(0 < latency < 0.5 for latency in fate.latencies)


async def test_tcp_handshakes_on_a_real_socket() -> None:
    """The kernel's measure of the handshake, and an echo through the connection."""
    fate = Fate()
    with serving() as ports:
        for _ in range(5):
            await probe_tcp(("127.0.0.1", ports["tcp"]), socket.AF_INET, 2.0, fate.report)
    assert fate.outcomes == {"sent": 5, "answered": 5}
    assert all(0 < latency < 0.5 for latency in fate.latencies)


async def test_a_missing_sidecar_is_refused_on_both_protocols() -> None:
    """The counters show it, and nothing counts as lost."""
    fate = Fate()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as occupied:
        occupied.bind(("127.0.0.1", 0))
        port = occupied.getsockname()[1]
    await probe_tcp(("127.0.0.1", port), socket.AF_INET, 2.0, fate.report)
    assert fate.outcomes["refused"] == 1
    probe = UdpProbe(("127.0.0.1", port), socket.AF_INET, 64, 100 * MS, fate.report)
    task = asyncio.create_task(again(probe, 0.002))
    await until(fate, "refused", 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert fate.lost == 0


async def test_silence_is_loss() -> None:
    """A silent listener: every probe is lost, on UDP and, after the handshake, on TCP."""
    fate = Fate()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        probe = UdpProbe(mute.getsockname(), socket.AF_INET, 64, 50 * MS, fate.report)
        task = asyncio.create_task(again(probe, 0.005))
        await until(fate, "lost", 5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert fate.lost >= 5
    silent = Fate()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await probe_tcp(listener.getsockname(), socket.AF_INET, 0.2, silent.report)
    assert (silent.outcomes["lost"], silent.lost) == (1, 1)


async def test_a_socket_that_was_cut_off_is_replaced() -> None:
    """Cilium disconnects the socket when a Service's backend is gone: the run ends, and the next one is answered."""
    fate = Fate()
    with serving() as ports:
        probe = UdpProbe(("127.0.0.1", ports["udp"]), socket.AF_INET, 64, 3600_000 * MS, fate.report)
        task = asyncio.create_task(probe.run(0.002))
        await until(fate, "answered", 5)
        nowhere = struct.pack("@H14x", socket.AF_UNSPEC)
        assert ctypes.CDLL(None).connect(probe._link.fileno(), nowhere, len(nowhere)) == 0
        async with asyncio.timeout(PATIENCE_S):
            await task
        before = fate.outcomes["answered"]
        task = asyncio.create_task(probe.run(0.002))
        await until(fate, "answered", before + 5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_silent_socket_is_replaced_and_its_echoes_are_lost() -> None:
    """It may be bound to a deleted pod.  On the next socket, each echo has its outcome."""
    fate = Fate()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        probe = UdpProbe(mute.getsockname(), socket.AF_INET, 64, 50 * MS, fate.report)
        async with asyncio.timeout(PATIENCE_S):
            await probe.run(0.005)
        port = mute.getsockname()[1]
    unanswered = fate.outcomes["sent"]
    echo = EchoServer("127.0.0.1", port, None)
    task = asyncio.create_task(again(probe, 0.005))
    async with asyncio.timeout(PATIENCE_S):
        while not fate.outcomes["answered"] or fate.lost < unanswered:
            echo.serve_once(0)
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    echo.close()
    known = sum(fate.outcomes[fate_of] for fate_of in ("answered", "lost"))
    assert fate.outcomes["sent"] == known + len(probe._echoes._waiting)


async def test_a_long_interval_is_not_silence() -> None:
    """A socket without unanswered echoes is not silent, however old its last answer."""
    fate = Fate()
    later = time.monotonic_ns() + 3600_000 * MS
    with serving() as ports:
        probe = UdpProbe(("127.0.0.1", ports["udp"]), socket.AF_INET, 64, 1000 * MS, fate.report)
        probe.connect()
        probe.send()
        assert probe.is_silent(later)
        assert select.select([probe._link], [], [], 20)[0]
        probe.read()
        probe._link.close()
    assert fate.outcomes == {"sent": 1, "answered": 1}
    assert not probe.is_silent(later)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.0\r\n\r\n" * 4, MAGIC])
def test_a_connection_that_is_no_prober_is_closed(data: bytes) -> None:
    """It gets no answer."""
    with serving() as ports, socket.create_connection(("127.0.0.1", ports["tcp"]), 20) as link:
        link.sendall(data)
        assert link.recv(100) == b""


async def test_held_connections_lock_no_prober_out(attacks: Attacks) -> None:
    """More connections than it keeps displace the oldest, and a probe is answered while all are held."""
    fate = Fate()
    with serving() as ports, ExitStack() as stack:
        address = ("127.0.0.1", ports["tcp"])
        many = [stack.enter_context(socket.create_connection(address, 20)) for _ in range(80)]
        closed = [await asyncio.to_thread(link.recv, 1) for link in many[:16]]
        assert closed == [b""] * 16
        for _ in range(10):
            await probe_tcp(address, socket.AF_INET, PATIENCE_S, fate.report)
    assert (fate.outcomes["answered"], fate.lost) == (10, 0)
    attacks.add("silent and many connections", "80 connections")


def test_two_sidecars_do_not_talk_to_each_other() -> None:
    """A datagram that claims to come from another sidecar is answered once, and that answer never."""
    packet = PACKET.pack(MAGIC, 1, 2, 3, 0, 0)
    with serving() as ports, serving() as others, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as between:
        first, second = ("127.0.0.1", ports["udp"]), ("127.0.0.1", others["udp"])
        between.settimeout(0.5)
        between.sendto(packet, first)
        reply = between.recv(2048)
        between.sendto(reply, second)
        with pytest.raises(TimeoutError):
            between.recv(2048)


def test_the_rate_of_answers_is_bounded(attacks: Attacks) -> None:
    """A flood of large questions gets at most what a second and the time that it took allow."""
    packet = PACKET.pack(MAGIC, 1, 2, 3, 0, 0) + bytes(1360)
    echo = EchoServer("127.0.0.1", 0, None)
    received = 0
    with closing(echo), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.setblocking(False)
        began = time.monotonic()
        for _ in range(2000):
            link.sendto(packet, ("127.0.0.1", echo.ports["udp"]))
            echo.serve_once(0.1)
            with suppress(BlockingIOError):
                received += len(link.recv(2048))
        took = time.monotonic() - began
    assert 0 < received <= 256 * 1024 * (1 + took)
    attacks.add("probe and echo packets", "2000 questions")


def test_no_packet_gets_more_than_it_brings(attacks: Attacks) -> None:
    """Random and mutated packets: an answer is never longer than its question, and is never answered itself."""
    chance, broken = Random(12), 0
    sound = PACKET.pack(MAGIC, 1, 2, 3, 0, 0) + bytes(40)
    count = resize(20_000, 1_000_000)
    fate = Fate()
    prober = echoes(fate)
    for _ in range(count):
        packet = bytearray(sound if chance.random() < 0.7 else chance.randbytes(chance.randrange(2000)))
        for _ in range(chance.randrange(4) if packet else 0):
            packet[chance.randrange(len(packet))] = chance.randrange(256)
        answer = build_answer(
            bytes(packet[: chance.randrange(len(packet) + 1)] if chance.random() < 0.3 else packet), 4, 5
        )
        broken += answer is not None and (len(answer) > len(packet) or build_answer(answer, 4, 5) is not None)
        prober.receive(bytes(packet), T)
    assert fate.latencies == []
    attacks.add("probe and echo packets", f"{count} packets", broken)
