"""``sluice demo`` as a user starts it: real processes, real NATS, a recording, and nothing else left behind."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import requests

from services.control import POLICIES
from tests.support.demo import find_children, output_until, start, wait_until_clean
from tests.support.waiting import PATIENCE_S


def run_printed_commands(printed: str, recording: Path, folder: Path | None = None) -> None:
    """Run the commands in its last lines, as printed, in the folder where the demo ran (default: here)."""
    commands = [line for line in printed.partition("is recorded in")[2].splitlines() if line.startswith("    ")]
    assert [command.split()[1] for command in commands] == ["replay", "report", "explain", "ui"], printed
    *ending, page = commands
    with subprocess.Popen(
        f"exec {page.strip()} --port 0", cwd=folder, shell=True, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.terminate()
    outputs = []
    for command in ending:
        done = subprocess.run(
            command, cwd=folder, shell=True, capture_output=True, text=True, timeout=5 * PATIENCE_S, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        outputs.append(done.stdout)
    replayed, _, explained = outputs
    assert all(policy in replayed for policy in POLICIES), replayed
    assert "plotly" in recording.with_suffix(".html").read_text(encoding="utf-8")
    assert "Made again from its sample: the same, byte for byte" in explained


@pytest.mark.long
def test_the_demo_plays_its_runs_and_its_last_commands_work(tmp_path: Path) -> None:
    """With its defaults it plays all runs, records one and restarts no pod.

    How well policies do is judged in simulated time (tests/unit/plant/test_closed_loop.py): on a starved machine
    data comes late, and never raises a limit.
    """
    result, recording, home = tmp_path / "demo.json", tmp_path / "demo.rec", tmp_path / "home"
    home.mkdir()
    with start("--json", str(result), "--record", str(recording), home=home) as process:
        printed, _ = process.communicate(timeout=5 * PATIENCE_S)
    assert process.returncode == 0, printed
    assert re.search(r"\d+ of 75 s  no control: SLO broken", printed), printed
    assert "pod restarts" in printed
    assert len(printed.splitlines()) < 50, printed
    run_printed_commands(printed, recording)
    runs = json.loads(result.read_text())["runs"]
    assert set(runs) == {"no control", "learned", "proportional"}
    for run in runs.values():
        assert {"violation_seconds", "goodput", "oracle", "patches", "restarts", "invalid_windows"} <= set(run)
        assert run["seconds"] + run["invalid_windows"] >= 70
        assert run["restarts"] == 0
    wait_until_clean(home)
    free, learned, proportional = runs["no control"], runs["learned"], runs["proportional"]
    assert free["violation"] > 0.8
    assert max(learned["violation"], proportional["violation"]) < free["violation"] / 2
    assert min(learned["critical_throughput"].values()) > 0.9
    assert min(learned["patches"], proportional["patches"]) > 0


def test_an_interrupt_stops_everything_in_order(tmp_path: Path) -> None:
    """While it plays, a page shows its domains.  After Ctrl-C results are printed, and everything is stopped."""
    with start("--seconds", "60", home=tmp_path) as process:
        printed = "".join(output_until(process, "no control"))
        page = re.search(r"Watch it in a browser: (\S+)", printed)
        assert page is not None, printed
        shown = requests.get(f"{page[1]}api/v1/overview", timeout=PATIENCE_S).json()
        assert {one["name"] for one in shown["domains"]} == {"floor", "floor-proportional"}
        assert len(list(find_children(tmp_path))) >= 4
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "seconds with an SLO broken" in rest
    assert "Stopped before the end." in rest
    wait_until_clean(tmp_path)


@pytest.mark.parametrize("phase", ["Starting", "no control"])
def test_sigkill_leaves_nothing_behind(tmp_path: Path, phase: str) -> None:
    """Killed at its start or while it plays, the demo leaves no process and no file."""
    with start("--seconds", "60", home=tmp_path) as process:
        output_until(process, phase)
        os.kill(process.pid, signal.SIGKILL)
    wait_until_clean(tmp_path)


def test_a_service_that_dies_ends_the_demo_with_the_end_of_its_log(tmp_path: Path) -> None:
    """The demo names the service, exits with code 1, and leaves nothing."""
    with start("--seconds", "60", home=tmp_path) as process:
        output_until(process, "no control")
        (victim,) = (pid for pid, line in find_children(tmp_path) if " decision " in line)
        os.kill(victim, signal.SIGKILL)
        rest, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "decision ended with exit code -9" in rest
    wait_until_clean(tmp_path)
