"""Runs a command in mount, network and process namespaces that end with it.

The command is the first process of its process namespace.  When it ends, the kernel kills every other
process in it, and network and mounts end with the last of them.  So there is nothing to clean up.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

PROGRAMS = ("unshare", "nsenter", "ip", "tc", "chrt")
"""What namespaces and queues need."""


def enclose(command: list[str]) -> list[str]:
    """The command line that runs ``command`` in namespaces of its own, which end when it does.

    A command that reads its standard input to the end ends with the process that holds the other end.
    """
    return ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", *command]


def child_of(pid: int) -> int | None:
    """The first child of a process: ``unshare`` and ``nsenter`` fork what they were asked to run."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except FileNotFoundError:
        return None
    return int(children[0]) if children else None


def find_missing(programs: Iterable[str]) -> list[str]:
    """What this machine lacks to run the testbed and ``programs``, in words; empty if nothing is missing."""
    wrong = [f"the program {name}" for name in (*PROGRAMS, *programs) if shutil.which(name) is None]
    if os.geteuid() != 0:
        return ["root (network namespaces and queues are made)", *wrong]
    if shutil.which("unshare") is None:
        return wrong
    # Root inside a container seldom has this right, so try it.
    tried = subprocess.run(enclose(["true"]), check=False, capture_output=True)
    return ["the right to make namespaces (CAP_SYS_ADMIN)", *wrong] if tried.returncode else wrong
