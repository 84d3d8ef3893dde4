"""One connection to a NATS server, from its first byte to its end.  The one module that imports nats.

A link never reconnects: ``jetstream`` opens a new one, and so has a single way to begin again,
whether the server restarted, a certificate was renewed or a proxy cut the line.
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

# nats imports aiohttp, where it is installed, for websockets alone: 10 MiB of every pod for nothing.
_had = "aiohttp" in sys.modules
if not _had:
    sys.modules["aiohttp"] = None  # type: ignore[assignment]
from nats.aio.client import Client  # noqa: E402
from nats.aio.msg import Msg  # noqa: E402
from nats.errors import ConnectionClosedError, Error, MaxPayloadError  # noqa: E402

if not _had:
    del sys.modules["aiohttp"]

from schemas.config import Bus as Settings  # noqa: E402

__all__ = ["Denied", "Link", "LinkDown", "Msg", "NoResponder", "TooLarge"]

_CONNECT_S = 3
_CLOSE_S = 1
_PING_S = 5
"""Three pings without an answer end the link: a peer that vanished without a word is noticed in 15 s."""
_DENIED = re.compile(r"permissions violation for (?P<what>\w+) to \"(?P<subject>[^\"]+)\"", re.IGNORECASE)


class LinkDown(ConnectionError):
    """The server does not answer, or the link is over."""


class NoResponder(LinkDown):
    """The server is there, but nothing on it answers on that subject: no such stream or consumer, or not yet."""


class Denied(Exception):
    """The server does not allow this user to do that."""


class TooLarge(ValueError):
    """The server takes no message of that size."""


class Link:
    """Send and ask on one connection."""

    def __init__(self, client: Client) -> None:
        """Take a connected client; see ``opened``."""
        self._client = client
        self._over = asyncio.Event()
        self._inbox = client.new_inbox()
        self._numbers = itertools.count(1)
        self._listeners: dict[str, tuple[str, Callable[[Msg | Exception], None]]] = {}
        self._asked: dict[str, tuple[str, asyncio.Future[Msg | Exception]]] = {}

    @classmethod
    @asynccontextmanager
    async def opened(cls, config: Settings, name: str) -> AsyncIterator["Link"]:
        """Connect to one of the configured servers, and close at the end.

        Replies come to inboxes that begin with ``_INBOX_<user>`` (without a user, ``_INBOX_<name>``), so
        that a server's permissions can keep the services from hearing one another's.

        Raises:
            LinkDown: no server could be reached, or none let this user in.
        """
        client = Client()
        errors: list[Exception] = []
        link: Link | None = None

        async def on_error(error: Exception) -> None:
            errors.append(error)
            if link is not None:
                link._on_error(error)

        async def on_closed() -> None:
            if link is not None:
                link._on_closed()

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
                error_cb=on_error,
                closed_cb=on_closed,
                **_credentials(config, client),
            )
            link = cls(client)
            await client.subscribe(f"{link._inbox}.*", cb=link._on_reply)
        except Exception as error:  # server, certificate, seed: whatever it is, it is said and tried again
            await _close(client)
            raise LinkDown(f"{', '.join(config.servers)}: {errors[-1] if errors else error}") from error
        try:
            yield link
        finally:
            await _close(client)

    @property
    def down(self) -> bool:
        """Whether the link is over."""
        return self._over.is_set()

    async def ended(self) -> None:
        """Wait until the link is over."""
        await self._over.wait()

    async def send(self, subject: str, body: bytes = b"", reply: str = "") -> None:
        """Send without waiting for anything.

        Raises:
            LinkDown: the link is over.
        """
        try:
            await self._client.publish(subject, body, reply=reply)
        except Error as error:
            raise LinkDown(str(error)) from error

    async def ask(self, subject: str, body: bytes, timeout_s: float, headers: dict[str, str] | None = None) -> bytes:
        """Send a request and wait for its reply.

        Raises:
            NoResponder: nothing answers there.
            LinkDown: no answer in time, or the link is over.
            Denied: this user may not send there.
            TooLarge: the message is larger than the server takes.
        """
        if self.down:
            raise LinkDown("the connection is over")
        number = str(next(self._numbers))
        reply: asyncio.Future[Msg | Exception] = asyncio.get_running_loop().create_future()
        self._asked[number] = (subject, reply)
        try:
            async with asyncio.timeout(timeout_s):
                await self._client.publish(subject, body, reply=f"{self._inbox}.{number}", headers=headers)
                message = await reply
            if isinstance(message, Exception):
                raise message
        except TimeoutError:
            raise LinkDown(f"{subject}: no answer within {timeout_s:g} s") from None
        except MaxPayloadError as error:
            raise TooLarge(f"{subject}: {len(body)} bytes: {error}") from error
        except Error as error:
            raise LinkDown(str(error)) from error
        finally:
            del self._asked[number]
        if message.headers and message.headers.get("Status") == "503":
            raise NoResponder(f"{subject}: no stream or consumer answers")
        return message.data

    @asynccontextmanager
    async def asking(
        self, subject: str, take: Callable[[Msg | Exception], None]
    ) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
        """Hand all that comes in answer to requests on a subject to ``take``; gives what sends a request.

        ``take`` is also given the reason why nothing more will come: ``LinkDown``, or ``Denied`` where this
        user may not ask.

        Raises:
            LinkDown: the link is over.
        """

        async def taken(message: Msg) -> None:
            take(message)

        try:
            inbox = self._client.new_inbox()
            subscription = await self._client.subscribe(inbox, cb=taken)
        except Error as error:
            raise LinkDown(str(error)) from error
        self._listeners[inbox] = (subject, take)
        try:
            yield lambda body: self.send(subject, body, reply=inbox)
        finally:
            del self._listeners[inbox]
            if not self._client.is_closed:
                await subscription.unsubscribe()

    async def _on_reply(self, message: Msg) -> None:
        asked = self._asked.get(message.subject.rpartition(".")[2])
        if asked is not None and not asked[1].done():
            asked[1].set_result(message)

    def _on_error(self, error: Exception) -> None:
        denied = _DENIED.search(str(error))
        if denied is None:
            return
        waiting = [(subject, reply.set_result) for subject, reply in self._asked.values() if not reply.done()]
        for subject, take in (*waiting, *self._listeners.values()):
            if subject.lower() == denied["subject"].lower():  # the library lowers errors
                take(Denied(f"this user may not {denied['what']} to {subject}"))

    def _on_closed(self) -> None:
        self._over.set()
        for _, take in self._listeners.values():
            take(LinkDown("the connection is over"))
        for _, reply in self._asked.values():
            if not reply.done():
                reply.set_result(ConnectionClosedError())


async def _close(client: Client) -> None:
    # After a failed handshake the library may wait for ever, or trip over what it never set up.
    with suppress(Exception):
        async with asyncio.timeout(_CLOSE_S):
            await client.close()


def _credentials(config: Settings, client: Client) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if config.ca is not None:
        options["tls"] = _tls(config.ca, config.certificate, config.key)
    if config.credentials is not None:
        is_jwt = "BEGIN NATS USER JWT" in Path(config.credentials).read_text(encoding="utf-8")
        options["user_credentials" if is_jwt else "nkeys_seed"] = config.credentials
    elif config.user is not None:
        options["user"] = config.user
        options["password"] = lambda: _password(client, encrypted=config.ca is not None)
    return options


def _tls(authority: str, certificate: str | None, key: str | None) -> ssl.SSLContext:
    files = [name for name in (authority, certificate, key) if name is not None]
    for name in files:
        Path(name).read_bytes()  # ssl's own errors name no file
    try:
        context = ssl.create_default_context(cafile=authority)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise Error(f"{', '.join(files)}: {error}") from error
    return context


def _password(client: Client, *, encrypted: bool) -> str:
    # The client speaks plain text to a server that does not ask for TLS, whatever it was given.
    if encrypted and not client._server_info.get("tls_required"):  # noqa: SLF001 - not published otherwise
        raise Error("the server offers no TLS, but a certificate authority is configured: it gets no password")
    return os.environ.get("SLUICE_NATS_PASSWORD", "")
