"""One connection to a NATS server, from handshake to close.  The only module that imports nats.

A connection never reconnects: ``Session`` opens a new one.  So there is one way to start over, whether
the server restarted, a certificate was renewed or a proxy closed the connection.
"""

import asyncio
import itertools
import os
import re
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

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
from services.common.os_errors import describe_os_error  # noqa: E402

__all__ = ["Connection", "Denied", "Disconnected", "Msg", "NoResponder", "TooLarge"]

_CONNECT_S = 3
_CLOSE_S = 1
_PING_S = 5
"""Three unanswered pings close the connection, so a peer that vanished is noticed within 15 s."""
_DENIED = re.compile(r"permissions violation for (?P<what>\w+) to \"(?P<subject>[^\"]+)\"", re.IGNORECASE)


class Disconnected(ConnectionError):
    """The server does not answer, or the connection is closed."""


class NoResponder(Disconnected):
    """The server answers, but no stream or consumer listens on that subject, or not yet."""


class Denied(Exception):
    """The server does not allow this user to publish or subscribe there."""


class TooLarge(ValueError):
    """The server takes no message of that size."""


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
        self._subscribers: dict[str, tuple[str, Callable[[Msg | Exception], None]]] = {}
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
        self, subject: str, on_message: Callable[[Msg | Exception], None]
    ) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
        """Pass all replies to requests on a subject to ``on_message``; gives the function that sends a request.

        ``on_message`` also receives the reason why no more replies will come: ``Disconnected``, or
        ``Denied`` where this user may not send such requests.

        Raises:
            Disconnected: the connection is closed.
        """

        async def forward(message: Msg) -> None:
            on_message(message)

        try:
            inbox = self._client.new_inbox()
            subscription = await self._client.subscribe(inbox, cb=forward)
        except Error as error:
            raise Disconnected(str(error)) from error
        self._subscribers[inbox] = (subject, on_message)
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
