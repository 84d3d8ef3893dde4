"""Child processes: stopped in order, watched, and ended when their parent is killed."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.plant.harness.processes import ProcessDied, Processes
from tests.support.waiting import PATIENCE_S, until

FOREVER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
PARENT = """
import asyncio, sys
from services.plant.harness.processes import Processes

async def main():
    async with Processes() as processes:
        await processes.start("child", sys.executable, "-c", "import time; time.sleep(600)")
        print(processes.home, processes.pid("child"), flush=True)
        await processes.watch()

asyncio.run(main())
"""


def alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_processes_and_their_folder_end_with_the_context() -> None:
    """Programs get SIGTERM, the last one started first; their files are removed."""
    async with Processes() as processes:
        await processes.start("one", *FOREVER)
        await processes.start("two", *FOREVER)
        home, pids = processes.home, [processes.pid(name) for name in ("one", "two")]
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)
    assert not home.exists()


async def test_a_process_that_ends_early_is_reported_with_the_end_of_its_log() -> None:
    """The error has its name, exit code and last lines."""
    async with Processes() as processes:
        await processes.start("fine", *FOREVER)
        await processes.start("broken", sys.executable, "-c", "print('no such thing'); raise SystemExit(3)")
        with pytest.raises(ProcessDied, match=r"broken ended with exit code 3:\nno such thing"):
            async with asyncio.timeout(PATIENCE_S):
                await processes.watch()
        with pytest.raises(ProcessDied):
            processes.check("broken")
        processes.check("fine")


async def test_a_program_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL follows after some time."""
    monkeypatch.setattr("services.plant.harness.processes._STOP_S", 0.2)
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    async with Processes() as processes:
        await processes.start("stubborn", sys.executable, "-c", stubborn)
        pid = processes.pid("stubborn")
        await until(lambda: "up" in processes.tail("stubborn"))
    assert not alive(pid)


async def test_a_missing_program_is_named() -> None:
    """The error comes before anything is started."""
    async with Processes() as processes:
        with pytest.raises(FileNotFoundError, match="nothing-like-this"):
            await processes.start("x", "nothing-like-this")


async def test_a_folder_to_keep_stays(tmp_path: Path) -> None:
    """It holds the logs."""
    async with Processes(tmp_path / "kept") as processes:
        await processes.start("one", *FOREVER)
        await until(lambda: "up" in processes.tail("one"))
    assert (tmp_path / "kept" / "one.log").read_text() == "up\n"


def test_nothing_is_left_behind_after_sigkill() -> None:
    """The children end with their parent and the folder is removed, although the parent could not clean up."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        home, pid = parent.stdout.readline().split()
        assert alive(int(pid))
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    while alive(int(pid)) or Path(home).exists():
        assert time.monotonic() < deadline, f"child alive: {alive(int(pid))}, folder there: {Path(home).exists()}"
        time.sleep(0.02)
