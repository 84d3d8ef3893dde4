"""Ends all processes of a test run when the run ends, even after SIGKILL of pytest.

A run's temporary files are in a folder of its own below the checkout.  TMPDIR names it, so every process that a test
starts has the folder's name in its environment.  A guard in a separate session waits until the run has ended,
ends every process with that name, and removes the folder.

    python -m tests.support.guard FOLDER   do so when standard input closes; print what was still running
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = ROOT / "build" / "t"
"""Short, because the paths of Unix sockets are limited."""
_GIVE_UP_S = 30.0
LABEL = "sluice.tests"
LASTING: set[int] = set()
"""Processes that several tests share, and that outlive the test that starts them."""


class Run:
    """The folder and the guard of one run of pytest."""

    def __init__(self) -> None:
        """Create the folder, set TMPDIR to it, and start the guard."""
        HOME.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="", dir=HOME))
        self._guard = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self.folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        enter(self.folder)

    def end(self) -> str:
        """Let the guard clean up; return a line for each process that it had to end."""
        tempfile.tempdir = None
        os.environ.pop("TMPDIR", None)
        text, _ = self._guard.communicate()
        return text


def label() -> str:
    """The label of this run's containers and networks: the value of ``LABEL``, or the name of a compose project."""
    return _label(HOME / Path(os.environ["TMPDIR"]).relative_to(HOME).parts[0])


def _label(folder: Path) -> str:
    return f"sluice-{folder.name.lower().replace('_', '-')}"


def enter(folder: Path) -> None:
    """Use a folder for the temporary files of this process and its children."""
    folder.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None


def find_marked(folder: Path, besides: frozenset[int] = frozenset()) -> Iterator[int]:
    """Find processes whose environment or command line names a folder or a path below it, except ``besides``."""
    name = str(folder).encode()
    for pid in pids() - besides - {os.getpid()}:
        with contextlib.suppress(OSError):
            place = Path("/proc") / str(pid)
            text = (place / "environ").read_bytes() + b"\0" + (place / "cmdline").read_bytes()
            if (name + b"\0" in text or name + b"/" in text) and not has_ended(pid):
                yield pid


def pids() -> frozenset[int]:
    """Every process of this machine; empty without /proc."""
    with contextlib.suppress(FileNotFoundError):
        return frozenset(int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208 - for every test
    return frozenset()


def has_ended(pid: int) -> bool:
    """Whether a process has ended or is a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in b"ZX"
    except OSError:
        return True


def command(pid: int) -> str:
    """Its command line, for messages."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return b" ".join(words).decode(errors="replace").strip()


def kill(pid: int) -> None:
    """Send SIGKILL; ignore a process that has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _main(folder: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    known: set[int] = set()
    deadline = time.monotonic() + _GIVE_UP_S
    # Repeat until nothing is found: a process that is being killed may start others, or still write.
    while time.monotonic() < deadline:
        # The guard of a run within this one finishes its own clean-up and ends.
        left = [pid for pid in find_marked(folder) if __spec__.name not in command(pid)]
        for pid in left:
            if pid not in known:
                known.add(pid)
                with contextlib.suppress(OSError):
                    print(f"{pid}: {command(pid)}", flush=True)
            kill(pid)
        shutil.rmtree(folder, ignore_errors=True)
        if not left and not folder.exists():
            break
        time.sleep(0.05)
    _remove_containers(_label(folder))
    with contextlib.suppress(OSError):
        HOME.rmdir()


def _remove_containers(name: str) -> None:
    if shutil.which("docker") is None:
        return
    for of in (LABEL, "com.docker.compose.project"):
        for kind, remove in (("container", ("rm", "--force", "--volumes")), ("network", ("rm",)), ("volume", ("rm",))):
            everything = ("--all",) if kind == "container" else ()
            listed = _docker(kind, "ls", "--quiet", *everything, "--filter", f"label={of}={name}").split()
            if listed:
                _docker(kind, *remove, *listed)


def _docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
