"""Clients that hold a health port's connections: neither the service's work nor its probes stop."""

import asyncio
import os
import resource
import socket
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.meter.server import PageAnswer, PageServer
from services.plant.kube_emulator.emulator import Emulator
from services.runtime.health import Health, serve
from services.ui.server import UiServer
from services.ui.server import serve as serve_page
from services.ui.sources import Recordings
from tests.support.actuators import ActuatorProcess, Decider, Scene
from tests.support.attack_tally import Attacks
from tests.support.decision_services import join
from tests.support.kube import servers
from tests.support.nats_server import NatsServer
from tests.support.waiting import PATIENCE_S, until

HELD = 1000
DESCRIPTORS = 128
"""What the service may open: far fewer than the clients do."""


def hold(port: int, count: int, stack: ExitStack, sent: bytes = b"") -> None:
    """Open connections, send part of a request on each, and leave them open."""
    for _ in range(count):
        link = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S))
        # Whoever is displaced hears of it.
        try:
            link.sendall(sent)
        except OSError:
            continue


def status(pid: int, field: str) -> int:
    """A number from the kernel's status of a process."""
    return int(Path(f"/proc/{pid}/status").read_text(encoding="utf-8").partition(f"{field}:")[2].split()[0])


async def test_silent_connections_keep_no_fail_safe_away(nats: NatsServer, tmp_path: Path, attacks: Attacks) -> None:
    """A thousand silent connections, and few descriptors: memory stays, probes are answered, the fail-safe comes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    async with servers.emulate(Emulator(starts_after=None)) as server, join(nats.url, "sluice") as bus:
        scene = Scene(server, bus)
        await server.deploy("app", replicas=1)
        await server.pods_of("app", 1)
        with ActuatorProcess(tmp_path, nats.url, server, dead_man="5s") as process, ExitStack() as stack:
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
            await process.is_ready()
            await scene.enforce(Decider(bus, server.namespace), "60M", ["60M"], good_for=5 * 10**9)
            decided = time.monotonic()
            before = status(process.pid, "VmRSS")
            for part in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"):
                await asyncio.to_thread(hold, process.port, HELD // 3, stack, part)
            await scene.wait_for_limits("10M", ["10M"])
            safe_s = time.monotonic() - decided
            assert (await asyncio.to_thread(process.ready))[0]
            assert status(process.pid, "Threads") < 40
            assert len(os.listdir(f"/proc/{process.pid}/fd")) < DESCRIPTORS // 2  # noqa: PTH208 - asynchronous code
            assert status(process.pid, "VmRSS") - before < 6 * 1024
            assert "Traceback" not in process.log
            peak = status(process.pid, "VmHWM") / 1024
    attacks.add("silent and many connections", f"{HELD} connections", safe_s=safe_s, peak_mib=peak)
    attacks.add("descriptors used up", f"1 limits of {DESCRIPTORS}", safe_s=safe_s)


async def test_a_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, whatever was sent on it."""
    monkeypatch.setattr("services.runtime.health._QuietHandler.timeout", 0.2)
    async with serve(Health(), "127.0.0.1", 0) as port:
        with ExitStack() as stack:
            for sent in (b"", b"GET /hea", b"GET /healthz HTTP/1.1\r\n"):
                link = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S))
                link.sendall(sent)
                assert await asyncio.to_thread(link.recv, 1) == b""


async def test_silent_connections_lock_nobody_out_of_the_page(
    monkeypatch: pytest.MonkeyPatch, attacks: Attacks
) -> None:
    """The oldest are displaced; open pages and requests go on."""
    monkeypatch.setattr("services.ui.server._MOST_CONNECTIONS", 20)
    application = UiServer(None, None, Recordings(uploads=False)).build_application(("127.0.0.1",))
    async with serve_page(application, "127.0.0.1", 0) as port:
        with ExitStack() as stack:
            for part in (b"", b"GET /heal", b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n"):
                await asyncio.to_thread(hold, port, 40, stack, part)
            await until(lambda: count_open(port) <= 20, lambda: f"{count_open(port)} are open")
            assert await asyncio.to_thread(ask_health, port) == 200
    attacks.add("silent and many connections", "120 connections")


async def test_silent_connections_lock_nobody_out_of_the_meter(attacks: Attacks) -> None:
    """Its page is asked twice a second."""
    server = PageServer("127.0.0.1", 0, lambda _path, _query: PageAnswer(200, "text/plain", b"x"))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        with ExitStack() as stack:
            for part in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"):
                await asyncio.to_thread(hold, server.server_port, 40, stack, part)
            assert len(server._open) <= 33
            assert await asyncio.to_thread(ask_health, server.server_port) == 200
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
    attacks.add("silent and many connections", "120 connections")


def ask_health(port: int) -> int:
    """The status of a probe."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE_S) as answer:
        return int(answer.status)


def count_open(port: int) -> int:
    """Connections that the server has at a port, as the kernel lists them."""
    lines = Path("/proc/self/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return sum(words[1].endswith(f":{port:04X}") and words[3] == "01" for words in map(str.split, lines))


async def test_both_families_are_served() -> None:
    """The default address answers on IPv4 and on IPv6."""
    async with serve(Health(), "::", 0) as port:
        for host in ("127.0.0.1", "[::1]"):
            with await asyncio.to_thread(urllib.request.urlopen, f"http://{host}:{port}/readyz") as answer:
                assert answer.status == 200


async def test_without_ipv6_the_default_is_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that has no IPv6 refuses the family."""
    made = socket.socket.__init__

    def refuse(self: socket.socket, family: int = -1, *more: int, **named: object) -> None:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        made(self, family, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "__init__", refuse)
    async with serve(Health(), "::", 0) as port:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()


@pytest.mark.parametrize(
    ("listens", "answers"),
    [
        ("::", ("127.0.0.1", "::1")),
        ("0.0.0.0", ("127.0.0.1",)),
        ("127.0.0.1", ("127.0.0.1",)),
        ("::1", ("::1",)),
        ("127.0.0.2", ("127.0.0.2",)),
        ("localhost", ("127.0.0.1",)),
    ],
)
async def test_an_address_of_either_family_can_be_listened_on(listens: str, answers: tuple[str, ...]) -> None:
    """And only that one answers."""
    async with serve(Health(), listens, 0) as port:
        for host in ("127.0.0.1", "127.0.0.2", "::1"):
            if host in answers or listens in ("::", "0.0.0.0"):
                if listens == "0.0.0.0" and host == "::1":
                    continue
                socket.create_connection((host, port), timeout=PATIENCE_S).close()
            elif listens != "localhost":
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((host, port), timeout=PATIENCE_S)
