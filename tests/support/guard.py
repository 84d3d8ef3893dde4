"""Nothing of a test run outlives it, however it ends: SIGKILL of pytest included.

A run's temporary files are in a folder of its own below the checkout, and TMPDIR names it, so that whatever a test
starts carries the folder's name in its environment.  A guard in a session of its own waits until the run has ended,
ends every process with that name, and removes the folder.

    python -m tests.support.guard FOLDER   do so when standard input closes; say what was still running
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
"""Short, because the paths of Unix sockets are."""
_GIVE_UP_S = 30.0
LABEL = "sluice.tests"
LASTING: set[int] = set()
"""Processes of this one that several tests share, and that outlive the test that starts them."""


class Run:
    """The folder and the guard of one run of pytest."""

    def __init__(self) -> None:
        """Make the folder, point TMPDIR at it, and start the guard."""
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
        """Let the guard do its work; gives a line for each process that it had to end."""
        tempfile.tempdir = None
        os.environ.pop("TMPDIR", None)
        said, _ = self._guard.communicate()
        return said


def label() -> str:
    """What containers and networks of this run carry: the value of ``LABEL``, or the name of a compose project."""
    return _label(HOME / Path(os.environ["TMPDIR"]).relative_to(HOME).parts[0])


def _label(folder: Path) -> str:
    return f"sluice-{folder.name.lower().replace('_', '-')}"


def enter(folder: Path) -> None:
    """Make a folder the place of temporary files for this process and its children."""
    folder.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None


def marked(folder: Path, besides: frozenset[int] = frozenset()) -> Iterator[int]:
    """Processes whose environment or command line names a folder or what is below it, but for ``besides``."""
    name = str(folder).encode()
    for pid in pids() - besides - {os.getpid()}:
        with contextlib.suppress(OSError):
            place = Path("/proc") / str(pid)
            said = (place / "environ").read_bytes() + b"\0" + (place / "cmdline").read_bytes()
            if (name + b"\0" in said or name + b"/" in said) and not ended(pid):
                yield pid


def pids() -> frozenset[int]:
    """Every process of this machine; none where there is no /proc."""
    with contextlib.suppress(FileNotFoundError):
        return frozenset(int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208 - for every test
    return frozenset()


def ended(pid: int) -> bool:
    """Whether a process is gone, or only waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in b"ZX"
    except OSError:
        return True


def command(pid: int) -> str:
    """Its command line, for people."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return b" ".join(words).decode(errors="replace").strip()


def kill(pid: int) -> None:
    """SIGKILL; a process that is gone is none the worse for it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _main(folder: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    told: set[int] = set()
    deadline = time.monotonic() + _GIVE_UP_S
    # Again until nothing is found: what is being killed may be starting others, or still writing.
    while time.monotonic() < deadline:
        left = list(marked(folder))
        for pid in left:
            if pid not in told:
                told.add(pid)
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
