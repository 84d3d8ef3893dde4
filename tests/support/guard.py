"""Ends all processes of a test run when the run ends, even after SIGKILL of pytest.

A run's temporary files are in a folder of its own below the checkout.  TMPDIR names it, so every process that a test
starts has the folder's name in its environment.  A guard in a separate session waits until the run has ended,
ends every process with that name, and removes the folder and the run's containers and images.

A run and its guard hold a lock on the folder.  If both were killed, the next run finds the folder unlocked and cleans
up first.

    python -m tests.support.guard FOLDER   do so when standard input closes; print what was still running
"""

import contextlib
import fcntl
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
_ENGINE_S = 60.0
"""How long one command of Docker may take: an engine that hangs must not keep a run from ending."""
LABEL = "sluice.tests"
LASTING: set[int] = set()
"""Processes that several tests share, and that outlive the test that starts them."""


class Run:
    """The folder and the guard of one run of pytest."""

    def __init__(self) -> None:
        """Create the folder, set TMPDIR to it, start the guard, and clean up after runs whose guard was killed, too."""
        self.folder, lock, stale = _claim()
        self._guard = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self.folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
            pass_fds=[lock],
        )
        # From here on the guard alone holds the lock.
        os.close(lock)
        for folder in stale:
            _clean(folder)
        enter(self.folder)

    def end(self) -> str:
        """Let the guard clean up; return a line for each process that it had to end."""
        tempfile.tempdir = None
        os.environ.pop("TMPDIR", None)
        text, _ = self._guard.communicate()
        return text


def _claim() -> tuple[Path, int, list[Path]]:
    """A new folder, the descriptor that locks it, and the folders of runs that nobody cleaned up."""
    while True:
        HOME.mkdir(parents=True, exist_ok=True)
        # The guard of another run removes the parent when it is empty.
        with contextlib.suppress(FileNotFoundError), _locked(HOME, fcntl.LOCK_EX):
            stale = [folder for folder in HOME.iterdir() if folder.is_dir() and not _is_locked(folder)]
            folder = Path(tempfile.mkdtemp(prefix="", dir=HOME))
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            return folder, lock, stale


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)


def _is_locked(folder: Path) -> bool:
    try:
        with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
    except BlockingIOError:
        return True


def label() -> str:
    """The label of this run's containers and networks, and the tag of its images.

    It is the value of ``LABEL``, and the name of a compose project.
    """
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


def end_all(folder: Path) -> None:
    """Kill every process of a folder, also those that others start meanwhile."""
    deadline = time.monotonic() + _GIVE_UP_S
    while (left := list(find_marked(folder))) and time.monotonic() < deadline:
        for pid in left:
            kill(pid)
        time.sleep(0.02)


def _main(folder: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    _clean(folder)
    with contextlib.suppress(OSError):
        HOME.rmdir()


def _clean(folder: Path) -> None:
    """End a run's processes, of which each is printed; remove its folder, containers and images."""
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


def _remove_containers(name: str) -> None:
    if shutil.which("docker") is None:
        return
    for of in (LABEL, "com.docker.compose.project"):
        for kind, remove in (("container", ("rm", "--force", "--volumes")), ("network", ("rm",)), ("volume", ("rm",))):
            everything = ("--all",) if kind == "container" else ()
            listed = _docker(kind, "ls", "--quiet", *everything, "--filter", f"label={of}={name}").split()
            if listed:
                _docker(kind, *remove, *listed)
    # By name: another run may have built the same image.  The engine keeps its build cache.
    tagged = _docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"reference=*:{name}").split()
    registry = _docker(
        "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"reference=*/*:{name}"
    ).split()
    if tagged + registry:
        _docker("image", "rm", "--force", *tagged, *registry)


def _docker(*words: str) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        command = ["docker", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ENGINE_S).stdout
    return ""


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
