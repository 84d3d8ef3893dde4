"""The demo as a process of its own, as a user starts it."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.commands import SLUICE
from tests.support.waiting import PATIENCE_S


def start(*arguments: str, home: Path) -> "subprocess.Popen[str]":
    """Start the demo in a process of its own, with its temporary files below ``home``."""
    environment = {**os.environ, "TMPDIR": str(home), "COLUMNS": "160"}
    return subprocess.Popen(
        [SLUICE, "demo", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def output_until(process: "subprocess.Popen[str]", text: str) -> list[str]:
    """Read its output up to the first line with ``text``."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError("".join(lines))


def find_children(home: Path) -> Iterator[tuple[int, str]]:
    """Find processes whose command line names the demo's temporary folder."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(home) in line:
            yield int(entry.parent.name), line


def wait_until_clean(home: Path) -> None:
    """Wait until no process and no file of the demo remains."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        processes, files = list(find_children(home)), list(home.iterdir())
        if not processes and not files:
            return
        assert time.monotonic() < deadline, (processes, files)
        time.sleep(0.05)
