"""Waits for something to hold, with a deadline, in tests of parts that run by themselves."""

import asyncio
import time
from collections.abc import Callable

PATIENCE_S = 20.0


async def until(holds: Callable[[], bool], state: Callable[[], object] = lambda: "it did not hold in time") -> None:
    """Look every 20 ms; fails after 20 s with what ``state`` gives."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, state()
        await asyncio.sleep(0.02)
