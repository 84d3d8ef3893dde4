"""Nothing is left behind, however the demo ends: what its helpers run instead of, or beside, a program.

    python -m services.plant.harness.orphan_guard tie PARENT COMMAND...   become COMMAND; die when the parent does
    python -m services.plant.harness.orphan_guard sweep FOLDER            remove FOLDER when standard input closes

Both hold after SIGKILL too, when the parent can no longer do anything.
"""

import ctypes
import os
import shutil
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1


def tied(command: list[str]) -> list[str]:
    """The command line that runs ``command`` as a child that does not outlive this process."""
    return [sys.executable, "-m", __name__, "tie", str(os.getpid()), *command]


def sweeper(folder: str) -> list[str]:
    """The command line of the process that removes ``folder`` once its standard input is closed."""
    return [sys.executable, "-m", __name__, "sweep", folder]


def _tie(parent: int, command: list[str]) -> None:
    # Linux has the signal; elsewhere only an orderly end stops the children.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(f"the parent {parent} is gone already")
    os.execvp(command[0], command)  # noqa: S606 - no shell on purpose


def _sweep(folder: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    # What was killed a moment ago may still be writing.
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):  # noqa: PTH110 - pathlib is not needed for anything else here
            return
        time.sleep(0.02)


if __name__ == "__main__":
    if sys.argv[1] == "tie":
        _tie(int(sys.argv[2]), sys.argv[3:])
    else:
        _sweep(sys.argv[2])
