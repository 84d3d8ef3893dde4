"""Guarantees of the test suite: parts are named, a failure stays isolated, and nothing outlives a run."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import guard, run_hooks
from tests.support.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).parents[3]


def _command(home: Path, text: str, *arguments: str) -> list[str]:
    """A run of pytest on one file of tests, under the hooks of these tests."""
    file = home / "test_inner.py"
    file.write_text(text, encoding="utf-8")
    (home / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\nmarkers = openssl:\n prometheus:\n")
    hooks = ("-p", "tests.support.run_hooks", "-c", str(home / "pytest.ini"), "--rootdir", str(home))
    return [sys.executable, "-m", "pytest", *hooks, "-p", "no:cacheprovider", "-p", "no:asyncio", *arguments, str(file)]


def _run(
    home: Path, text: str, *arguments: str, environment: Mapping[str, str] = os.environ, **more: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        _command(home, text, *arguments),
        cwd=ROOT,
        env={**environment, "SLUICE_ALL_PARTS": "", "COLUMNS": "200", **more},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


LEAKS = """
import gc, os, pathlib, socket, subprocess, sys
PIDS = pathlib.Path(__file__).with_name("pids")

def test_fails():
    line = socket.create_server(("127.0.0.1", 0))
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    PIDS.write_text(str(child.pid))
    assert line is None, "this is why"

def test_next():
    gc.collect()
    state = pathlib.Path("/proc", PIDS.read_text(), "stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_failure_ends_with_itself(tmp_path: Path, workers: str) -> None:
    """The socket and the process of a failed test are gone before the next test, which passes."""
    done = _run(tmp_path, LEAKS, "-n", workers)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "this is why" in done.stdout
    named = [line for line in done.stdout.splitlines() if line.startswith("FAILED test_inner.py::test_fails - ")]
    assert len(named) == 2, "once when it happens, and once at the end"
    assert all("AssertionError: this is why assert <socket" in line for line in named)
    assert done.stdout.splitlines()[-2] == named[1], done.stdout


LEAVES = """
import subprocess, sys

def test_leaves():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).returncode = 0

def test_next():
    pass
"""


def test_a_test_that_leaves_a_process_fails(tmp_path: Path) -> None:
    """It fails even if all its assertions hold; the process is named, and killed."""
    done = _run(tmp_path, LEAVES, "-n", "0", SLUICE_TEST_PATIENCE="1")
    assert "2 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "left running" in done.stdout
    assert "time.sleep(600)" in done.stdout


SETS_UP = """
import pathlib, socket, subprocess, sys, pytest
PIDS = pathlib.Path(__file__).with_name("pids")

def start():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    PIDS.write_text(str(child.pid))
    return child, socket.create_server(("127.0.0.1", 0))

def require_gone():
    state = pathlib.Path("/proc", PIDS.read_text(), "stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"

@pytest.fixture
def fails():
    held = start()
    raise ValueError("this is why")

@pytest.fixture(scope="module")
def fails_for_all():
    held = start()
    raise ValueError("this is why")

@pytest.fixture
def fails_at_its_end():
    held = start()
    yield
    held[1].close()
    raise ValueError("this is why")

@pytest.fixture(scope="module")
def shared():
    child, line = start()
    yield child
    child.kill()
    child.wait()
    line.close()

def test_1(fails): pass
def test_2(): require_gone()
def test_3(fails_for_all): pass
def test_4(): require_gone()
def test_5(fails_at_its_end): pass
def test_6(): require_gone()
def test_7(shared): assert False, "this is why"
def test_8(shared): assert shared.poll() is None
"""


def test_a_fixture_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Whether it is a test's own or a module's, in its set-up or at its end; one that tests share lives on."""
    done = _run(tmp_path, SETS_UP, "-n", "0")
    assert "1 failed, 5 passed, 3 errors" in done.stdout, done.stdout + done.stderr
    named = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    assert all("this is why" in line for line in named), named


IS_KILLED = """
import os, pathlib, signal, subprocess, sys, time
PID = pathlib.Path(__file__).with_name("pid")

def test_1():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    PID.write_text(str(child.pid))
    os.kill(os.getpid(), signal.SIGKILL)

def test_2():
    while not PID.exists() or not PID.read_text():
        time.sleep(0.02)
    state = pathlib.Path("/proc", PID.read_text(), "stat")
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.02)

def test_3(): pass
def test_4(): pass
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_worker_that_is_killed_costs_one_test(tmp_path: Path, workers: str) -> None:
    """As by a kernel that is out of memory: what it left is ended, another worker runs the other tests, none twice."""
    done = _run(tmp_path, IS_KILLED, "-n", workers)
    assert "1 failed, 3 passed" in done.stdout, done.stdout + done.stderr
    named = [line for line in done.stdout.splitlines() if line.startswith("FAILED test_inner.py::test_1 - ")]
    assert len(named) == 2, done.stdout
    assert all("crashed while running" in line for line in named)


PARSES = """
import ast, gc

def parse(phase, info):
    ast.parse("x = " + "-" * 40 + "1")

def test_fails():
    gc.callbacks.append(parse)
    gc.set_threshold(5)
    assert parse is None, "this is why"

def test_next():
    gc.callbacks.remove(parse)
    gc.set_threshold(700)
"""


def test_a_failure_that_cannot_be_shown_does_not_end_the_run(tmp_path: Path) -> None:
    """In CPython 3.11.2 a garbage collection that parses breaks the traceback; the run continues."""
    done = _run(tmp_path, PARSES, "-n", "0")
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "this is why" in done.stdout


CANNOT_BE_COLLECTED = """
import ast, gc

def parse(phase, info):
    ast.parse("x = " + "-" * 40 + "1")

def test_passes():
    pass

gc.callbacks.append(parse)
gc.set_threshold(5)
try:
    assert parse is None, "this is why"
finally:
    gc.set_threshold(700)
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_file_that_cannot_be_collected_is_named(tmp_path: Path, workers: str) -> None:
    """With its reason, once in the last lines, whatever breaks its traceback."""
    done = _run(tmp_path, CANNOT_BE_COLLECTED, "-n", workers)
    assert done.returncode != 0
    assert re.search(r"^ERROR test_inner\.py - .*this is why", done.stdout, re.MULTILINE), done.stdout + done.stderr
    assert "INTERNALERROR" not in done.stdout


FINDS_HOME = """
import os, pathlib

def test_home():
    assert pathlib.Path.home().is_relative_to(os.environ["TMPDIR"])
    assert os.environ["NPM_CONFIG_USERCONFIG"] == os.environ["OLD"] + "/.npmrc"
    assert "DOCKER_CONFIG" not in os.environ
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_programs_keep_their_caches_in_the_run(tmp_path: Path, workers: str) -> None:
    """HOME is a folder of the run; what the user has set up is still found."""
    home = tmp_path / "old"
    home.mkdir()
    (home / ".npmrc").touch()
    kept = {name: value for name, value in os.environ.items() if name not in run_hooks.SETTINGS}
    done = _run(tmp_path, FINDS_HOME, "-n", workers, HOME=str(home), OLD=str(home), environment=kept)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert [path.name for path in home.iterdir()] == [".npmrc"]


FOR_EVER = """
import pathlib, subprocess, sys, time, pytest
PROGRAM = '''
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
'''

@pytest.mark.parametrize("number", [1, 2])
def test_waits(tmp_path, number):
    (tmp_path / "large").write_bytes(bytes(1_000_000))
    child = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, start_new_session=True)
    pids = f"{child.pid} {child.stdout.readline().decode().strip()} {tmp_path}"
    pathlib.Path(__file__).with_name(f"started-{number}").write_text(pids)
    time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_run(tmp_path: Path, end: signal.Signals) -> None:
    """Killed while two workers wait, it leaves no process, not even one in another session, and no file."""
    command = _command(tmp_path, FOR_EVER, "-n", "2")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        wait_until(lambda: len(list(tmp_path.glob("started-*"))) == 2)
        wait_until(lambda: all(len(path.read_text().split()) == 3 for path in tmp_path.glob("started-*")))
        lines = [path.read_text().split() for path in tmp_path.glob("started-*")]
        pids = [int(pid) for *both, _ in lines for pid in both]
        assert not any(guard.has_ended(pid) for pid in pids)
        run.send_signal(end)
        run.wait(PATIENCE_S)
    wait_until(lambda: all(guard.has_ended(pid) for pid in pids), lambda: f"running: {list(map(guard.command, pids))}")
    folders = {guard.HOME / Path(path).relative_to(guard.HOME).parts[0] for *_, path in lines}
    wait_until(lambda: not any(folder.exists() for folder in folders), lambda: f"there: {folders}")


def test_the_next_run_cleans_up_if_the_guard_was_killed_too(tmp_path: Path) -> None:
    """With run and guard killed, nobody ends processes and files but the next run, which leaves those of a live one."""
    command = _command(tmp_path, FOR_EVER, "-n", "0", "-k", "1")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        started = tmp_path / "started-1"
        wait_until(lambda: started.exists() and len(started.read_text().split()) == 3)
        *pids, path = started.read_text().split()
        folder = guard.HOME / Path(path).relative_to(guard.HOME).parts[0]
        (keeper,) = [pid for pid in guard.pids() if guard.command(pid).endswith(f"tests.support.guard {folder}")]
        guard.kill(keeper)
        run.kill()
        run.wait(PATIENCE_S)
    # A run that another test starts may be the next one.
    done = _run(tmp_path, "def test_passes(): pass", "-n", "0")
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert not folder.exists()
    assert all(guard.has_ended(int(pid)) for pid in pids)
    assert Path(os.environ["TMPDIR"]).exists()


NEEDS = """
import shutil, pytest

def test_unmarked():
    assert shutil.which("openssl") is None
    assert shutil.which("plain") is not None

@pytest.mark.openssl
def test_marked():
    assert shutil.which("openssl") is not None
    assert shutil.which("prometheus") is None

@pytest.mark.prometheus
def test_missing():
    assert False
"""


@pytest.fixture
def programs(tmp_path: Path) -> str:
    """A PATH with openssl and one other program only."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("openssl", "plain"):
        shutil.copy("/bin/true", folder / name)
    return str(folder)


def test_a_test_finds_the_programs_of_its_markers_only(tmp_path: Path, programs: str) -> None:
    """A program that the test does not name is not on its PATH, even if the machine has it; the report names it."""
    done = _run(tmp_path, NEEDS, "-n", "2", PATH=programs)
    assert "2 passed, 1 skipped" in done.stdout, done.stdout + done.stderr
    assert re.search(r"^prometheus +1 test +apt install prometheus$", done.stdout, re.MULTILINE), done.stdout


def test_with_every_part_claimed_a_skip_is_a_failure(tmp_path: Path, programs: str) -> None:
    """On a worker, too."""
    done = _run(tmp_path, NEEDS, "-n", "2", PATH=programs, SLUICE_ALL_PARTS="1")
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert "1 error" in done.stdout
    assert "skipped although every part should be here" in done.stdout


CACHES = """
import os, subprocess, sys

def test_caches():
    assert not sys.dont_write_bytecode
    assert subprocess.check_output([sys.executable, "-c", "import sys; print(sys.dont_write_bytecode)"]) == b"False\\n"
"""


def test_processes_of_a_run_keep_what_they_compile(tmp_path: Path) -> None:
    """Even if Python is told not to: hundreds of processes would each compile all that they import."""
    done = _run(tmp_path, CACHES, "-n", "1", PYTHONDONTWRITEBYTECODE="1")
    assert "1 passed" in done.stdout, done.stdout + done.stderr
