"""Keeps a connection to the bus while a service runs, and sends requests to JetStream's API over it.

Problems are reported to the service by name and cleared when they are over, so that ``/readyz`` shows
them: no connection, a stream that stores no more, a subject that this user may not publish to.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from enum import IntEnum
from typing import Any

import structlog

from schemas.config import BusConfig
from services.bus.connection import Connection, Disconnected
from services.common.backoff import BackOff

ANSWER_S = 2.0
"""A request without an answer for this long is sent again."""
_SHOWN_PROBLEMS = 3
_HTTP_UNAVAILABLE = 503
_log = structlog.get_logger()


class ErrorCode(IntEnum):
    """The ``err_code`` values of JetStream's API that Sluice handles."""

    CONSUMER_NOT_FOUND = 10014
    MESSAGE_NOT_FOUND = 10037
    MESSAGE_TOO_LARGE = 10054
    STREAM_NOT_FOUND = 10059
    WRONG_LAST_SEQUENCE = 10071
    CONSUMER_EXISTS = 10148
    WRONG_LAST_SEQUENCE_CONSTANT = 10164


NOT_FOUND = (ErrorCode.CONSUMER_NOT_FOUND, ErrorCode.MESSAGE_NOT_FOUND, ErrorCode.STREAM_NOT_FOUND)


class ApiError(Exception):
    """JetStream's API answered with an error; ``code`` is its ``err_code``."""

    def __init__(self, code: int, text: str) -> None:
        """Keep the code."""
        super().__init__(f"{text} ({code})")
        self.code = code


class Session:
    """The current connection, replaced by a new one whenever it ends."""

    def __init__(self, config: BusConfig, name: str, on_state: Callable[[str | None], None]) -> None:
        """See ``Bus.connect``."""
        self._config = config
        self._name = name
        self._on_state = on_state
        self._connection: Connection | None = None
        self._connected = asyncio.Event()
        self._problems: dict[str, str] = {}

    @asynccontextmanager
    async def keep_connected(self) -> AsyncIterator[None]:
        """Stay connected while the context lasts; it is entered with the first connection."""
        task = asyncio.create_task(self._reconnect_forever())
        try:
            await self._connected.wait()
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _reconnect_forever(self) -> None:
        back_off = BackOff()
        while True:
            try:
                async with Connection.open(self._config, self._name) as self._connection:
                    self._connected.set()
                    self._problems.pop("connection", None)
                    _log.info("connected to the bus", servers=self._config.servers)
                    self._notify()
                    back_off = BackOff()
                    await self._connection.closed.wait()
                reason = "the connection was lost"
            except Disconnected as error:
                reason = str(error)
            self._connected.clear()
            self.report_problem("connection", reason)
            await back_off.wait()

    def report_problem(self, what: str, reason: str) -> None:
        """Report that something does not work; the service hears of it when the reason is new."""
        if self._problems.get(what) != reason:
            _log.warning("bus", what=what, reason=reason)
            self._problems[what] = reason
            self._notify()

    def clear_problem(self, what: str, *, recovered: bool = True) -> None:
        """Withdraw a report: it works again, or (not ``recovered``) no caller waits for it any more."""
        if self._problems.pop(what, None) is not None:
            if recovered:
                _log.info("bus works again", what=what)
            self._notify()

    def _notify(self) -> None:
        reasons = list(dict.fromkeys(self._problems.values()))
        more = [f"and {len(reasons) - _SHOWN_PROBLEMS} more"] if len(reasons) > _SHOWN_PROBLEMS else []
        self._on_state("; ".join([*reasons[:_SHOWN_PROBLEMS], *more]) or None)

    async def connection(self) -> Connection:
        """The current connection; waits for one."""
        while self._connection is None or self._connection.closed.is_set():
            self._connected.clear()
            await self._connected.wait()
        return self._connection

    async def send(self, subject: str, body: bytes = b"") -> None:
        """Send without waiting for an answer; without a connection the message is dropped."""
        if self._connection is not None:
            with suppress(Disconnected):
                await self._connection.send(subject, body)

    async def find(self, operation: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Like ``request``, but None where there is no such stream, consumer or message."""
        try:
            return await self.request(operation, body)
        except ApiError as error:
            if error.code in NOT_FOUND:
                return None
            raise

    async def request(self, operation: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request to JetStream's API, again and again until it answers.

        Args:
            operation: the subject below ``$JS.API``, such as ``STREAM.INFO.SLUICE_SAMPLE``.
            body: sent as JSON.

        Raises:
            ApiError: the answer is an error.
            Denied: this user may not send that request.
        """
        back_off = BackOff()
        payload = json.dumps(body).encode() if body else b""
        try:
            while True:
                try:
                    connection = await self.connection()
                    answer: dict[str, Any] = json.loads(
                        await connection.request(f"$JS.API.{operation}", payload, ANSWER_S)
                    )
                    error = answer.get("error")
                    if error is None:
                        self.clear_problem(operation)
                        return answer
                    if error["code"] != _HTTP_UNAVAILABLE:
                        raise ApiError(error.get("err_code", 0), error.get("description", ""))
                    self.report_problem(operation, error.get("description", ""))
                except Disconnected as lost:
                    self.report_problem(operation, str(lost))
                await back_off.wait()
        finally:
            # An error is an answer, and a caller that was cancelled does not wait any more.
            self.clear_problem(operation, recovered=False)
