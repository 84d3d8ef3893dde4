"""Runs blocking calls beside the event loop: one thread, one call at a time, each with a deadline.

A server that dribbles bytes can hold a thread for longer than any socket timeout says.  The caller
then has its answer (none) on time, later calls are refused until the thread is free, so that none
pile up, and as a daemon the thread never keeps the process from ending.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple[Callable[[], Any], asyncio.Future[Any]]


class Busy(Exception):
    """The call before has still not come back."""


class Lane:
    """One thread for blocking calls."""

    def __init__(self, name: str) -> None:
        """Start the thread; ``name`` shows in a debugger."""
        self._busy = False
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def run(self, call: Callable[[], T], within: float) -> T:
        """Run ``call`` in the thread.

        Raises:
            Busy: the call before is still running.
            TimeoutError: it did not come back ``within`` that many seconds; its result will be dropped.
            Exception: whatever the call raised.
        """
        if self._busy:
            raise Busy("the call before has not come back yet")
        self._busy = True
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((call, future))
        return await asyncio.wait_for(future, within)

    def close(self) -> None:
        """Let the thread end once it is free."""
        self._jobs.put(None)

    def _work(self) -> None:
        for call, future in iter(self._jobs.get, None):
            result, error = None, None
            try:
                result = call()
            except Exception as raised:  # noqa: BLE001 - handed to whoever waits
                error = raised
            loop = future.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._settle, future, result, error)

    def _settle(self, future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        self._busy = False
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
