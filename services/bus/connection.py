"""The connection to the bus, and the session that keeps one.  The only module that imports nats.

A connection never reconnects: ``Session`` opens a new one.  So there is one way to start over, whether
the server restarted, a certificate was renewed or a proxy closed the connection.

Problems are reported to the service by name and cleared when they are over, so that ``/readyz`` shows
them: no connection, a stream that stores no more, a subject that this user may not publish to.
"""

import asyncio
import itertools
import json
import os
import re
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from enum import IntEnum
from pathlib import Path
from typing import Any

import structlog

# Where aiohttp is installed, nats imports it for websockets, which Sluice does not use: 10 MiB in every pod.
_had_aiohttp = "aiohttp" in sys.modules
if not _had_aiohttp:
    sys.modules["aiohttp"] = None  # type: ignore[assignment]
from nats.aio.client import Client  # noqa: E402
from nats.aio.msg import Msg  # noqa: E402
from nats.errors import ConnectionClosedError, Error, MaxPayloadError  # noqa: E402

if not _had_aiohttp:
    del sys.modules["aiohttp"]

from schemas.config import BusConfig  # noqa: E402
from services.common.backoff import BackOff  # noqa: E402
from services.common.os_errors import describe_os_error  # noqa: E402

__all__ = ["ApiError", "Connection", "Denied", "Disconnected", "ErrorCode", "Msg", "NoResponder", "Session", "TooLarge"]

ANSWER_S = 2.0
"""A request without an answer for this long is sent again."""
_SHOWN_PROBLEMS = 3
_HTTP_UNAVAILABLE = 503
_CONNECT_S = 3
_CLOSE_S = 1
_PING_S = 5
"""Three unanswered pings close the connection, so a peer that vanished is noticed within 15 s."""
_DENIED = re.compile(r"permissions violation for (?P<what>\w+) to \"(?P<subject>[^\"]+)\"", re.IGNORECASE)
_log = structlog.get_logger()


class Disconnected(ConnectionError):
    """The server does not answer, or the connection is closed."""


class NoResponder(Disconnected):
    """The server answers, but no stream or consumer listens on that subject, or not yet."""


class Denied(Exception):
    """The server does not allow this user to publish or subscribe there."""


class TooLarge(ValueError):
    """The server takes no message of that size."""


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


class Connection:
    """Send messages and requests over one connection."""

    def __init__(self) -> None:
        """See ``open``."""
        self.closed = asyncio.Event()
        """Set when the connection has ended."""
        self._client = Client()
        self._inbox = ""
        self._last_error: Exception | None = None
        self._numbers = itertools.count(1)
        self._subscribers: dict[str, tuple[str, Callable[[Exception], None]]] = {}
        self._pending: dict[str, tuple[str, asyncio.Future[Msg | Exception]]] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, config: BusConfig, name: str) -> AsyncIterator["Connection"]:
        """Connect to one of the configured servers; closes when the context ends.

        Replies come to inboxes that begin with ``_INBOX_<user>`` (without a user, ``_INBOX_<name>``), so
        that a server's permissions can keep services from reading each other's replies.

        Raises:
            Disconnected: no server could be reached, or none accepted this user.
        """
        connection = cls()
        client = connection._client
        try:
            await client.connect(
                list(config.servers),
                name=name,
                inbox_prefix=f"_INBOX_{config.user or name}",
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=_CONNECT_S,
                ping_interval=_PING_S,
                error_cb=connection._on_error,
                closed_cb=connection._on_close,
                **_build_credentials(config, client),
            )
            connection._inbox = client.new_inbox()
            await client.subscribe(f"{connection._inbox}.*", cb=connection._on_reply)
        except Exception as error:  # server, certificate or seed: whatever it is, Session reports it and tries again
            await _close(client)
            cause = connection._last_error or error
            text = describe_os_error(cause) if isinstance(cause, OSError) else str(cause)
            raise Disconnected(f"{', '.join(config.servers)}: {text}") from error
        try:
            yield connection
        finally:
            await _close(client)

    async def send(self, subject: str, body: bytes = b"", reply: str = "") -> None:
        """Send without waiting for an answer.

        Raises:
            Disconnected: the connection is closed.
        """
        try:
            await self._client.publish(subject, body, reply=reply)
        except Error as error:
            raise Disconnected(str(error)) from error

    async def request(
        self, subject: str, body: bytes, timeout_s: float, headers: dict[str, str] | None = None
    ) -> bytes:
        """Send a request and wait for its reply.

        Raises:
            NoResponder: nothing answers on that subject.
            Disconnected: no answer within ``timeout_s``, or the connection is closed.
            Denied: this user may not publish there.
            TooLarge: the message is larger than the server accepts.
        """
        if self.closed.is_set():
            raise Disconnected("the connection is over")
        number = str(next(self._numbers))
        reply: asyncio.Future[Msg | Exception] = asyncio.get_running_loop().create_future()
        self._pending[number] = (subject, reply)
        try:
            async with asyncio.timeout(timeout_s):
                await self._client.publish(subject, body, reply=f"{self._inbox}.{number}", headers=headers)
                message = await reply
            if isinstance(message, Exception):
                raise message
        except TimeoutError:
            raise Disconnected(f"{subject}: no answer within {timeout_s:g} s") from None
        except MaxPayloadError as error:
            raise TooLarge(f"{subject}: {len(body)} bytes: {error}") from error
        except Error as error:
            raise Disconnected(str(error)) from error
        finally:
            del self._pending[number]
        if message.headers and message.headers.get("Status") == "503":
            raise NoResponder(f"{subject}: no stream or consumer answers")
        return message.data

    @asynccontextmanager
    async def subscribe_replies(
        self, subject: str, on_message: Callable[[Msg], Awaitable[None]], on_end: Callable[[Exception], None]
    ) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
        """Pass all replies to requests on a subject to ``on_message``; gives the function that sends a request.

        ``on_end`` receives the reason why no more replies will come: ``Disconnected``, or ``Denied`` where this
        user may not send such requests.

        Raises:
            Disconnected: the connection is closed.
        """
        try:
            inbox = self._client.new_inbox()
            subscription = await self._client.subscribe(inbox, cb=on_message)
        except Error as error:
            raise Disconnected(str(error)) from error
        self._subscribers[inbox] = (subject, on_end)
        try:
            yield lambda body: self.send(subject, body, reply=inbox)
        finally:
            del self._subscribers[inbox]
            if not self._client.is_closed:
                await subscription.unsubscribe()

    async def _on_reply(self, message: Msg) -> None:
        request = self._pending.get(message.subject.rpartition(".")[2])
        if request is not None and not request[1].done():
            request[1].set_result(message)

    async def _on_error(self, error: Exception) -> None:
        self._last_error = error
        denied = _DENIED.search(str(error))
        if denied is None:
            return
        pending = [(subject, reply.set_result) for subject, reply in self._pending.values() if not reply.done()]
        for subject, receive in (*pending, *self._subscribers.values()):
            if subject.lower() == denied["subject"].lower():  # nats-py lowers errors
                receive(Denied(f"this user may not {denied['what']} to {subject}"))

    async def _on_close(self) -> None:
        self.closed.set()
        for _, receive in self._subscribers.values():
            receive(Disconnected("the connection is over"))
        for _, reply in self._pending.values():
            if not reply.done():
                reply.set_result(ConnectionClosedError())


async def _close(client: Client) -> None:
    # After a failed handshake nats-py may wait for ever, or raise an error about state that it never set up.
    with suppress(Exception):
        async with asyncio.timeout(_CLOSE_S):
            await client.close()


def _build_credentials(config: BusConfig, client: Client) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if config.ca is not None:
        files = [name for name in (config.ca, config.certificate, config.key) if name is not None]
        for name in files:
            Path(name).read_bytes()  # ssl's own errors do not name the file
        try:
            options["tls"] = ssl.create_default_context(cafile=config.ca)
            if config.certificate is not None:
                options["tls"].load_cert_chain(config.certificate, config.key)
        except ssl.SSLError as error:
            raise Error(f"{', '.join(files)}: {error}") from error
    if config.credentials is not None:
        is_jwt = "BEGIN NATS USER JWT" in Path(config.credentials).read_text(encoding="utf-8")
        options["user_credentials" if is_jwt else "nkeys_seed"] = config.credentials
    elif config.user is not None:
        options["user"] = config.user
        options["password"] = lambda: _read_password(client, encrypted=config.ca is not None)
    return options


def _read_password(client: Client, *, encrypted: bool) -> str:
    # nats-py connects in plain text to a server that offers no TLS, even when it was given a TLS context.
    if encrypted and not client._server_info.get("tls_required"):  # noqa: SLF001 - not published otherwise
        raise Error("the server offers no TLS, but a certificate authority is configured: it gets no password")
    return os.environ.get("SLUICE_NATS_PASSWORD", "")


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
