"""Runs a service until it is told to stop, and stops it in order."""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any

import click

from services.runtime.health import CannotListen


def run(service: Coroutine[Any, Any, None]) -> None:
    """Run a service's coroutine; SIGTERM and SIGINT cancel it, so that it cleans up, and end with exit code 0.

    Raises:
        click.ClickException: its health page's port is taken.
        Exception: whatever else the service raised.
    """
    try:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(_until_signalled(service))
    except CannotListen as error:
        raise click.ClickException(str(error)) from None


async def _until_signalled(service: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(service)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await task
