"""Runs blocking HTTP requests beside the event loop: one thread, one request at a time, each with a deadline.

A server that sends single bytes can hold a thread for longer than any socket timeout.  The caller gets
its error on time all the same.  Until the thread is free again further requests fail at once, so that
they do not pile up.  The thread is a daemon and never keeps the process from ending.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

import urllib3

T = TypeVar("T")
_Job = tuple[Callable[[], Any], Future[Any]]


class RequestFailed(Exception):
    """The server gave no usable answer; the text has the reason."""


class HttpWorker:
    """One thread for the requests to one server."""

    def __init__(self, name: str, timeout: float) -> None:
        """Start the thread.

        Args:
            name: shown in a debugger.
            timeout: of each request, seconds.
        """
        self._timeout = timeout
        self._busy = False
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def run(self, request: Callable[[], T]) -> T:
        """Run ``request`` in the thread and return its result.

        Raises:
            RequestFailed: the connection failed, the previous request is still running, or this one did
                not return in time; its result will be dropped.
            Exception: anything else that the request raises.
        """
        if self._busy:
            raise RequestFailed("the previous request is still running")
        self._busy = True
        future: Future[T] = Future()
        self._jobs.put((request, future))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._timeout)
        except (OSError, urllib3.exceptions.HTTPError) as error:
            cause = _find_root_cause(error)
            if isinstance(cause, TimeoutError):
                raise RequestFailed(f"no answer within {self._timeout:g} s") from None
            if isinstance(cause, OSError) and cause.strerror:
                raise RequestFailed(cause.strerror.lower()) from error
            raise RequestFailed(f"{type(cause).__name__}: {cause}") from error

    def close(self) -> None:
        """Let the thread end once it is free."""
        self._jobs.put(None)

    def _work(self) -> None:
        for request, future in iter(self._jobs.get, None):
            if not future.set_running_or_notify_cancel():
                self._busy = False
                continue
            try:
                result = request()
            except Exception as error:  # noqa: BLE001 - raised again in the waiting coroutine
                self._busy = False
                future.set_exception(error)
            else:
                self._busy = False
                future.set_result(result)


def _find_root_cause(error: BaseException) -> BaseException:
    """The error that the client libraries wrapped: as an argument, as ``reason`` or as a cause."""
    wrapped = (*error.args, getattr(error, "reason", None), error.__cause__, error.__context__)
    inner = next((one for one in wrapped if isinstance(one, Exception) and one is not error), None)
    return error if inner is None else _find_root_cause(inner)
