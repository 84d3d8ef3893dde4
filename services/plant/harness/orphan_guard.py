"""Leaves no process and no file behind, however the parent process ends.

    python -m services.plant.harness.orphan_guard tie PARENT COMMAND...   become COMMAND; be killed when the parent ends
    python -m services.plant.harness.orphan_guard sweep FOLDER            remove FOLDER when standard input closes

Both also work when the parent was killed by SIGKILL and can no longer clean up.
"""

import ctypes
import os
import shutil
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1


def tie_command(command: list[str]) -> list[str]:
    """Wrap a command line, so that the command does not outlive this process."""
    return [sys.executable, "-m", __name__, "tie", str(os.getpid()), *command]


def sweep_command(folder: str) -> list[str]:
    """Build the command line of a process that removes ``folder`` once its standard input is closed."""
    return [sys.executable, "-m", __name__, "sweep", folder]


def become_child_of(parent: int, command: list[str]) -> None:
    """Replace this process by the command; the kernel kills it when the parent ends."""
    # Only Linux signals a parent's death; elsewhere only an orderly end stops the children.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(f"the parent process {parent} has already ended")
    os.execvp(command[0], command)  # noqa: S606 - no shell on purpose


def remove_when_closed(folder: str) -> None:
    """Wait until standard input is closed, then remove the folder, whatever signals arrive."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    # A process that is being killed may still write.
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):  # noqa: PTH110 - pathlib is not needed for anything else here
            return
        time.sleep(0.02)


if __name__ == "__main__":
    if sys.argv[1] == "tie":
        become_child_of(int(sys.argv[2]), sys.argv[3:])
    else:
        remove_when_closed(sys.argv[2])
