"""The ``sluice`` command in separate processes, as a user runs it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import PATIENCE_S

SLUICE = Path(sys.executable).parent / "sluice"


def sluice(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a subcommand until it ends; ``environment`` is added to this process's environment."""
    variables = {**_environment(), **(environment or {})}
    return subprocess.run(
        [SLUICE, *arguments], capture_output=True, text=True, env=variables, timeout=PATIENCE_S, check=False
    )


@contextmanager
def running(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run a subcommand while the context lasts, then interrupt it as Ctrl-C does."""
    with subprocess.Popen(
        [SLUICE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE_S)


def _environment() -> dict[str, str]:
    return {**{key: value for key, value in os.environ.items() if not key.startswith("SLUICE_")}, "COLUMNS": "160"}
