"""``sluice factory`` as a user runs it: real packets, three services, and nothing left behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

SLUICE = Path(sys.executable).parent / "sluice"
SMALL = ("--capacity", "45M", "--fifo", "80ms", "--passive", "0", "--policy", "proportional")
"""A bottleneck that two busy processors carry with ease."""


def _factory(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
    command = [str(SLUICE), "factory", *SMALL, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def _played(tmp_path: Path, title: str, *arguments: str) -> dict[str, Any]:
    """The figures of one run; played once more if the machine took more than a fifth of its seconds away."""
    path = tmp_path / "result.json"
    run: dict[str, Any] = {}
    for _ in range(2):
        with _factory(*arguments, "--json", str(path)) as process:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
        print(output)
        run = json.loads(path.read_text(encoding="utf-8"))["runs"][title]
        judged, invalid = run["seconds"], run["invalid_windows"]
        if invalid <= 0.2 * (judged + invalid):
            return run
    pytest.skip(f"needs a machine without CPU steal: {run['invalid_windows']} seconds were disturbed")


def test_without_control_the_slo_is_broken(tmp_path: Path) -> None:
    """Nobody limits telemetry-upload: nearly every second is bad."""
    run = _played(tmp_path, "no control", "--runs", "none", "--scenario", "steady", "--seconds", "8")
    assert run["violation"] > 0.8
    assert run["patches"] == 0


def test_the_loop_keeps_the_slo_on_real_packets(tmp_path: Path) -> None:
    """Scraping, deciding and acting on real packets: few bad seconds, most of the bandwidth, no restart."""
    run = _played(tmp_path, "proportional, scrape", "--runs", "scrape", "--scenario", "steady", "--seconds", "35")
    assert run["violation"] < 0.2
    assert run["share"] > 0.6
    assert run["patches"] > 0
    assert run["restarts"] == 0


def inside(pid: int) -> set[Path]:
    """All processes below a process, which end when it does."""
    found: set[Path] = set()
    with contextlib.suppress(FileNotFoundError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        for child in children:
            found |= {Path(f"/proc/{child}")} | inside(int(child))
    return found


def _folders() -> set[str]:
    return {path.name for path in Path("/tmp").glob("sluice-*")}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_behind(end: signal.Signals) -> None:
    """However the command ends in the middle of a run, its processes and files are gone soon after."""
    folders = _folders()
    with _factory("--runs", "scrape", "--scenario", "steady", "--seconds", "600") as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(" p95 " in line for line in lines), "the run has begun"
        below = inside(process.pid)
        assert len(below) > 10, "services, servers, traffic and instruments"
        os.kill(process.pid, end)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if end == signal.SIGKILL else 130), rest
    deadline = time.monotonic() + 10
    while left := {path for path in below if path.exists()}:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.02)
    assert _folders() <= folders


def test_a_machine_that_lacks_something_is_told_what() -> None:
    """Without iperf3 on PATH, or without root: exit code 2 and a line that names what is missing."""
    done = subprocess.run(
        [SLUICE, "factory"], env={"PATH": "/nonexistent"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "the program iperf3" in done.stderr
    assert "Traceback" not in done.stderr
