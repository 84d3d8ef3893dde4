"""The tap on a real bus: filters, JSON, past and live messages."""

import asyncio
import json
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import structs

from schemas.messages import Action, DeadLetter, Decision, State, TargetDecision
from services.bus.bus import Bus
from services.bus.envelope import TRACE
from tests.support.bus_stream import config, record, stream
from tests.support.commands import SLUICE, sluice
from tests.support.decision_services import join, sample, send
from tests.support.nats_server import NatsServer
from tests.support.waiting import PATIENCE_S
from tests.unit.tools.test_hostile_recordings import ESCAPES


def action(n: int, outcome: Any, target: str = "default/upload-a") -> Action:
    """An actuator's report."""
    return Action(f"a{n}", "a", target, "decision", outcome, 5_000 + n, "a test", f"a:{n}:none/1", 1, n)


@asynccontextmanager
async def fill_bus(nats: NatsServer) -> AsyncIterator[Bus]:
    """A bus with samples of two domains, actions and an unreadable message."""
    async with join(nats.url, "sluice") as bus:
        await bus._session.send(bus.subjects.sample("a"), b"nonsense")
        begin = time.time_ns()
        for n in range(1, 6):
            await send(bus, [sample("a", n, begin), sample("b", n, begin)])
        for n, outcome in enumerate(("applied", "failed", "applied"), 1):
            target = "default/upload-a" if n < 3 else "default/other"
            one = action(n, outcome, target)
            await bus.publish(bus.subjects.action("a", target), one, msg_id=one.id)
        yield bus


async def tap(nats: NatsServer, *arguments: str) -> list[dict[str, Any]]:
    """The output of ``sluice tap --json`` for stored messages."""
    command = ("tap", "--nats", nats.url, "--since", "5m", "--no-follow", "--json", *arguments)
    done = await asyncio.to_thread(sluice, *command)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_everything_and_filtered(nats: NatsServer) -> None:
    """Domain, kind, workload and outcome each narrow down the output."""
    async with fill_bus(nats):
        everything = await tap(nats)
        assert len(everything) == 14
        assert [line["time"] for line in everything] == sorted(line["time"] for line in everything)
        assert {line["subject"].split(".")[3] for line in await tap(nats, "--domain", "b")} == {"b"}
        assert {line["kind"] for line in await tap(nats, "--kind", "action")} == {"action"}
        failed = await tap(nats, "--outcome", "failed")
        assert [line["body"]["id"] for line in failed] == ["a2"]
        assert {line["kind"] for line in await tap(nats, "--workload", "robot-control")} == {"sample"}
        assert [line["body"]["id"] for line in await tap(nats, "--workload", "default/other")] == ["a3"]


async def test_what_cannot_be_read_is_shown(nats: NatsServer) -> None:
    """An unreadable message does not stop the tap, and is shown as such."""
    async with fill_bus(nats):
        assert [line["raw"] for line in await tap(nats, "--kind", "sample", "--domain", "a") if "raw" in line]
        process = await asyncio.to_thread(sluice, "tap", "--nats", nats.url, "--since", "5m", "--no-follow")
        assert "cannot be read: not a Sample" in process.stdout


async def test_no_name_on_the_bus_commands_the_terminal(nats: NatsServer) -> None:
    """Reasons, targets, policies, services and headers with control characters are shown escaped."""
    async with join(nats.url, "sluice") as bus:
        begin = time.time_ns()
        one = structs.replace(sample("a", 1, begin), source=ESCAPES)
        await send(bus, [one])
        target = TargetDecision(f"default/{ESCAPES}", 5_000, 5_000, "none", 9_000)
        state = State(one.end, 1, one.end, {}, ESCAPES)
        decision = Decision("a", one.id, one.end, one.end + 10**9, (target,), ESCAPES, state, f"none/1{ESCAPES}")
        headers = {TRACE: "00-\x1b[31m-1-01"}
        await bus.publish(bus.subjects.decision("a"), decision, msg_id="d1", headers=headers)
        done = Action("a1", "a", target.target, "decision", "applied", 5_000, ESCAPES, decision.id, 1, 1)
        await bus.publish(bus.subjects.action("a", done.target), done, msg_id=done.id)
        dead = DeadLetter(f"sluice.{ESCAPES}", f"actuator{ESCAPES}", ESCAPES, "")
        await bus.publish(bus.subjects.dead("actuator"), dead, msg_id="x1")
        stored = ("--nats", nats.url, "--since", "5m", "--no-follow")
        for arguments, lines in (
            (("tap", *stored), 4),
            (("tap", *stored, "--json"), 4),
            (("explain", one.id, "--nats", nats.url), None),
            (("explain", f"a{ESCAPES}", "--nats", nats.url), None),
        ):
            process = await asyncio.to_thread(sluice, *arguments)
            assert not set(process.stdout + process.stderr) & set("\x1b\x07\x9b\u202e\r"), arguments
            assert (
                "\\x1b]0;owned\\x07" in process.stdout + process.stderr or "\\u001b]0;owned\\u0007" in process.stdout
            ), arguments
            assert not [line for line in process.stdout.splitlines() if line.startswith("12:00:00")], arguments
            assert lines is None or len(process.stdout.splitlines()) == lines, arguments


async def test_what_comes_is_followed(nats: NatsServer) -> None:
    """Without an end, messages are printed in words as they arrive."""
    async with join(nats.url, "sluice") as bus:
        process = await asyncio.create_subprocess_exec(
            SLUICE, "tap", "--nats", nats.url, "--since", "1m", stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                begin = time.time_ns()
                for n in range(1, 4):
                    await send(bus, [sample("a", n, begin)])
                    line = (await process.stdout.readline()).decode()
                    assert "robot-control jitter" in line
        finally:
            process.terminate()
            assert await process.wait() == 0


async def test_a_recording_is_tapped_like_the_bus(nats: NatsServer, tmp_path: Path) -> None:
    """Recorded messages are shown with the same filters."""
    file = tmp_path / "x.jsonl.zst"
    config = tmp_path / "config.yaml"
    config.write_text(
        "domains: [{name: a, critical: [{workload: robot-control}], "
        "targets: [{deployment: upload-a, min: 5M, max: 80M, fail_safe: 10M}]}]\n"
        f'bus: {{servers: ["{nats.url}"]}}\n'
    )
    async with fill_bus(nats):
        done = await asyncio.to_thread(sluice, "record", "--config", config, "--since", "5m", "-o", file)
        assert done.returncode == 0, done.stderr
    process = await asyncio.to_thread(sluice, "tap", file, "--outcome", "failed")
    assert "5.0M failed: a test" in process.stdout
    assert len(process.stdout.splitlines()) == 1


async def test_no_bus_is_an_error(nats: NatsServer) -> None:
    """A tap without a bus ends with the address and the reason."""
    nats.stop()
    done = await asyncio.to_thread(sluice, "tap", "--nats", nats.url, "--since", "1m", "--no-follow")
    assert done.returncode == 4
    assert nats.url in done.stderr
    assert "refused" in done.stderr or "Connect call failed" in done.stderr


def test_a_recording_is_played_on_a_terminal(tmp_path: Path) -> None:
    """Keys change what is shown while it plays, and ``q`` ends it; the terminal is left as it was."""
    of = config(2)
    file = record(tmp_path / "run.rec", of, stream(of, 400))
    master, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "50"}
    shown = b""
    with subprocess.Popen(
        [SLUICE, "tap", file, "--live"], stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    ) as process:

        def read_until(text: bytes) -> None:
            nonlocal shown
            deadline = time.monotonic() + PATIENCE_S
            while text not in shown:
                assert time.monotonic() < deadline, shown[-2000:]
                if select.select([master], [], [], 0.1)[0]:
                    shown += os.read(master, 65536)

        read_until(b"q quits")
        os.write(master, b"+++++?")
        read_until(b"this help")
        read_until(b"times as fast")
        os.write(master, b"?/cell-1\r")
        read_until(b"filter /cell-1")
        os.write(master, b"q")
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None:
            assert time.monotonic() < deadline
            if select.select([master], [], [], 0.1)[0]:
                shown += os.read(master, 65536)
    assert process.returncode == 0
    assert termios.tcgetattr(terminal) == before
    os.close(master)
    os.close(terminal)
