"""Waits with a deadline, for tests of parts that run on their own."""

import asyncio
import os
import time
from collections.abc import Callable

PATIENCE_S = float(os.environ.get("SLUICE_TEST_PATIENCE", "120"))
"""How long a test waits for anything; enough for a machine with ten times its capacity of work."""
_POLL_S = 0.02


def extend(limit: asyncio.Timeout) -> None:
    """Wait for as long again, since something came: how much there is to do must not matter."""
    limit.reschedule(asyncio.get_running_loop().time() + PATIENCE_S)


def wait_until(holds: Callable[[], bool], state: Callable[[], object] = lambda: "it did not hold in time") -> None:
    """Poll every 20 ms; fail after ``PATIENCE_S`` with the text of ``state``."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, state()
        time.sleep(_POLL_S)


async def until(holds: Callable[[], bool], state: Callable[[], object] = lambda: "it did not hold in time") -> None:
    """The same for an event loop."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, state()
        await asyncio.sleep(_POLL_S)
