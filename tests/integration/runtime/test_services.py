"""The runtime of every service: health, metrics, logs, signals and crash points, as a user sees them."""

import asyncio
import json
import signal
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from services.common import failpoints
from services.runtime.exit_codes import ExitCode
from services.runtime.health import Health, serve
from tests.support.commands import sluice
from tests.support.waiting import PATIENCE_S


async def fetch(port: int, path: str) -> tuple[int, str]:
    """Status and body of a GET."""

    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(get)


async def test_ready_when_every_condition_holds() -> None:
    """503 with the reasons until then, and again when a condition is lost."""
    health = Health("bus", "samples")
    async with serve(health, "127.0.0.1", 0) as port:
        status, body = await fetch(port, "/readyz")
        assert (status, json.loads(body)) == (503, {"ready": False, "wrong": {"bus": "not yet", "samples": "not yet"}})
        health.set_ok("bus")
        health.set_condition("samples", None)
        assert await fetch(port, "/readyz") == (200, '{"ready": true, "wrong": {}}\n')
        health.set_condition("samples", "line: blind: 3 observations, 100 needed")
        status, body = await fetch(port, "/readyz")
        assert status == 503
        assert json.loads(body)["wrong"] == {"samples": "line: blind: 3 observations, 100 needed"}


async def test_healthy_while_the_event_loop_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blocked loop is visible from outside, because the server has a thread of its own."""
    health = Health()
    async with serve(health, "127.0.0.1", 0) as port:
        assert await fetch(port, "/healthz") == (200, '{"healthy": true}\n')
        monkeypatch.setattr("services.runtime.health._STUCK_S", -1.0)
        assert (await fetch(port, "/healthz"))[0] == 503
        status, metrics = await fetch(port, "/metrics")
        assert status == 200
        assert "process_resident_memory_bytes" in metrics
        assert (await fetch(port, "/"))[0] == 404


async def test_a_taken_port_is_an_error_at_once(tmp_path: Path) -> None:
    """The error has the address and the reason; the service neither starts without probes nor prints a traceback."""
    path = tmp_path / "config.yaml"
    target = "{deployment: upload, min: 5M, max: 80M, fail_safe: 10M}"
    async with serve(Health(), "127.0.0.1", 0) as port:
        path.write_text(
            f"domains: [{{name: line, critical: [{{workload: robot}}], targets: [{target}]}}]\n"
            f"listen: {{host: 127.0.0.1, sampler: {port}, decision: {port}, actuator: {port}}}\n"
            "kubernetes: {server: 'http://127.0.0.1:1'}\n"
        )
        for service in ("sampler", "decision", "actuator"):
            done = await asyncio.to_thread(sluice, service, "--config", path)
            assert done.returncode == ExitCode.UNREADABLE
            assert done.stderr == f"Error: listen: 127.0.0.1:{port}: Address already in use\n"


def run(program: str, number: signal.Signals | None = None, crash_at: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program; with a signal, send it after the program's first line."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin", failpoints.VARIABLE: crash_at},
    )
    first = ""
    if number is not None:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    return subprocess.CompletedProcess(command, process.returncode, first + out, err)


SERVICE = """
    import asyncio
    from services.runtime import service

    async def work():
        try:
            print("working", flush=True)
            await asyncio.sleep(60)
        finally:
            print("cleaned up", flush=True)

    service.run(work())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_service_in_order(number: signal.Signals) -> None:
    """It cleans up and its exit code is 0."""
    ended = run(SERVICE, number)
    assert (ended.returncode, ended.stdout) == (0, "working\ncleaned up\n"), ended.stderr


def test_an_error_ends_a_service_with_its_trace() -> None:
    """The error is not swallowed."""
    ended = run(SERVICE.replace("await asyncio.sleep(60)", "1 / 0"))
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr
    assert "cleaned up" in ended.stdout


def test_logs_are_one_json_object_a_line() -> None:
    """Our logs and a library's have the service's name, level and time; records below the level are dropped."""
    ended = run(
        """
        import logging, structlog
        from services.runtime import logging_setup
        logging_setup.configure("decision", "info")
        log = structlog.get_logger()
        log.info("decided", domain="line", limit=5)
        log.debug("not shown")
        logging.getLogger("nats").warning("from %s", "a library")
        try:
            1 / 0
        except ZeroDivisionError:
            log.exception("failed")
        """
    )
    lines: list[dict[str, Any]] = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["decided", "from a library", "failed"]
    assert [line["level"] for line in lines] == ["info", "warning", "error"]
    assert {line["service"] for line in lines} == {"decision"}
    assert (lines[0]["domain"], lines[0]["limit"]) == ("line", 5)
    assert all("timestamp" in line for line in lines)
    assert "ZeroDivisionError" in lines[2]["exception"]


CRASHING = """
    from services.common import failpoints
    for number in range(5):
        print(number, flush=True)
        failpoints.point("here")
        failpoints.point("there")
"""


@pytest.mark.parametrize(("setting", "printed"), [("here:1", 1), ("here:3", 3), ("there:5", 5)])
def test_a_crash_point_kills_on_its_turn(setting: str, printed: int) -> None:
    """SIGKILL ends it, so that no clean-up runs."""
    ended = run(CRASHING, crash_at=setting)
    assert ended.returncode == -signal.SIGKILL
    assert len(ended.stdout.split()) == printed


@pytest.mark.parametrize("setting", ["", "elsewhere:1", "here:6"])
def test_other_points_do_nothing(setting: str) -> None:
    """Neither without a setting nor before the count is reached."""
    ended = run(CRASHING, crash_at=setting)
    assert (ended.returncode, len(ended.stdout.split())) == (0, 5)


@pytest.mark.parametrize("setting", ["here", "here:", "here:x", "here:0", ":"])
def test_an_invalid_setting_is_refused(setting: str) -> None:
    """A crash test that never crashes would prove nothing."""
    with pytest.raises(ValueError, match="expected NAME:COUNT"):
        failpoints.arm(setting)


def test_a_mistake_in_the_file_is_reported() -> None:
    """One line, no trace, exit code 3."""
    ended = run(
        """
        import sys
        from services.cli import main
        sys.argv[1:] = ["decision", "--config", "/nonexistent.yaml"]
        main()
        """
    )
    assert ended.returncode == 3
    assert ended.stderr.startswith("Error: /nonexistent.yaml: cannot be read")
    assert "Traceback" not in ended.stderr
