"""Wraps a command in namespaces that die with the process that started it.

The outermost skin of everything on real packets: mount, network and process namespaces of its own.
When the command, the first process of its namespace, ends, the kernel kills every other process in it;
network and mounts go with the last of them.  Nothing has to be cleaned up, so nothing can be forgotten.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

PROGRAMS = ("unshare", "nsenter", "ip", "tc", "chrt")
"""What namespaces and queues need."""


def enclosed(command: list[str]) -> list[str]:
    """The command line that runs ``command`` in namespaces of its own, which end when it does.

    A command that reads its standard input to the end dies with whoever holds the other end of it.
    """
    return ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", *command]


def child_of(pid: int) -> int | None:
    """The first child of a process: ``unshare`` and ``nsenter`` fork what they were asked to run."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except FileNotFoundError:
        return None
    return int(children[0]) if children else None


def lacking(programs: Iterable[str]) -> list[str]:
    """What this machine lacks to run the bed and ``programs``, in words; empty when nothing."""
    wrong = [f"the program {name}" for name in (*PROGRAMS, *programs) if shutil.which(name) is None]
    if os.geteuid() != 0:
        return ["root (network namespaces and queues are made)", *wrong]
    if shutil.which("unshare") is not None and not _allowed():
        # Root inside a container has seldom the right to.
        return ["the right to make namespaces (CAP_SYS_ADMIN)", *wrong]
    return wrong


def _allowed() -> bool:
    """Whether the kernel lets this process make the namespaces."""
    return subprocess.run(enclosed(["true"]), check=False, capture_output=True).returncode == 0
