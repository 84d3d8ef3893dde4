"""Waits for something to hold, with a deadline, in tests of parts that run by themselves."""

import asyncio
import os
import time
from collections.abc import Callable

PATIENCE_S = float(os.environ.get("SLUICE_TEST_PATIENCE", "120"))
"""How long anything is waited for: what a machine with ten times its own work to do still keeps."""
_POLL_S = 0.02


def wait_until(holds: Callable[[], bool], state: Callable[[], object] = lambda: "it did not hold in time") -> None:
    """Look every 20 ms; fails after ``PATIENCE_S`` with what ``state`` gives."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, state()
        time.sleep(_POLL_S)


async def until(holds: Callable[[], bool], state: Callable[[], object] = lambda: "it did not hold in time") -> None:
    """The same where an event loop runs."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, state()
        await asyncio.sleep(_POLL_S)
