"""``sluice bench factory`` as a user runs it: real packets, one short run, its table and its JSON."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.test_factory import inside
from tests.support.waiting import PATIENCE_S

SLUICE = Path(sys.executable).parent / "sluice"


def _bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(SLUICE), "bench", "factory", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=5 * PATIENCE_S)


@pytest.mark.root
@pytest.mark.realtime
def test_a_quick_run_is_measured_saved_and_not_repeated(tmp_path: Path) -> None:
    """The table has the run, the JSON has its figures, and --continue finds no run left."""
    path = tmp_path / "bench.json"
    quick = ("--quick", "--policies", "learned", "--scenarios", "demo", "--json", str(path))
    done = _bench(*quick)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "learned on demo" in done.stdout
    assert "Goals of learned" in done.stdout
    tree = json.loads(path.read_text(encoding="utf-8"))
    (run,) = tree["runs"]
    assert run["failed"] is None
    assert run["restarts"] == 0
    assert run["steady"]["seconds"] + run["steady"]["invalid"] >= 12
    assert run["steady"]["patches"] > 0
    assert len(tree["goals"]) >= 8
    if run["steady"]["invalid"] <= 0.2 * run["steady"]["seconds"]:
        again = _bench(*quick, "--continue")
        assert again.returncode == 0, again.stdout + again.stderr
        assert "1/1" not in again.stdout
        assert json.loads(path.read_text(encoding="utf-8"))["runs"] == tree["runs"]


@pytest.mark.root
def test_an_interrupted_run_leaves_nothing_and_prints_its_goals(tmp_path: Path) -> None:
    """SIGINT in a run gives exit code 130 and the goals so far, and leaves no process of a testbed."""
    command = [str(SLUICE), "bench", "factory", "--quick", "--policies", "learned", "--seconds", "600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        deadline = time.monotonic() + PATIENCE_S
        while len(within := inside(process.pid)) < 12:
            assert process.poll() is None
            assert time.monotonic() < deadline, f"services, servers, traffic and instruments: {within}"
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=5 * PATIENCE_S)
    assert process.returncode == 130, output
    assert "not measured" in output
    deadline = time.monotonic() + PATIENCE_S
    while left := {path for path in within if path.exists()}:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def test_continue_needs_a_file_of_the_same_conditions(tmp_path: Path) -> None:
    """--continue without a file is an error that says that the file is missing."""
    done = _bench("--continue")
    assert done.returncode == 2
    assert "--json" in done.stderr


def test_missing_requirements_are_named() -> None:
    """Without iperf3 on PATH, or without root, exit code 2 and a line that names what is missing."""
    done = subprocess.run(
        [SLUICE, "bench", "factory"], env={"PATH": "/nonexistent"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "the program iperf3" in done.stderr
    assert "Traceback" not in done.stderr
