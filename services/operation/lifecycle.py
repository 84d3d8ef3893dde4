"""Runs a service until it is told to stop, and stops it in order."""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any


def run(service: Coroutine[Any, Any, None]) -> None:
    """Run a service's coroutine; SIGTERM and SIGINT cancel it, so that it cleans up, and end with exit code 0.

    Raises:
        Exception: whatever the service raised.
    """
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_until_signalled(service))


async def _until_signalled(service: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(service)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await task
