"""Sends requests to one API server, and raises for everything that is not the answer asked for.

Patches go out some at a time and so many a second, cuts before raises.  A flap of a whole fleet changes every limit at
once.  The API server then gets a steady stream, not a storm: patches wait here and are built when their turn comes, so
that one that was overtaken is not sent at all.
"""

import asyncio
import heapq
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from schemas.decode_errors import DECODE_ERRORS, describe_decode_error
from services.kube.access import Access, KubeConfigError, read_token
from services.kube.objects import Superseded, Unavailable, raise_for_status, read_body

_READ_BUFFER = 2**21
"""Bytes; a line of a watch holds a whole object."""
_LEAST_S = 0.001
"""A shorter wait may not pass by the clock."""
_FOR_CUTS = 0.25
"""Share of a second's patches that raises leave for the cuts of that second."""


class Transport:
    """Connections to one server, each of which is used again."""

    def __init__(self, access: Access, session: aiohttp.ClientSession, timeout_s: float) -> None:
        """See ``open``."""
        self._access = access
        self._session = session
        self._limits = aiohttp.ClientTimeout(total=timeout_s)

    @classmethod
    @asynccontextmanager
    async def open(cls, access: Access, timeout_s: float) -> AsyncIterator["Transport"]:
        """Prepare to reach a server; it need not be there yet.

        Raises:
            KubeConfigError: the authority or the client's certificate cannot be used.
        """
        try:
            tls = access.build_tls()
        except OSError as error:
            raise KubeConfigError(f"kubernetes: {access.authority or access.certificate}: {error}") from None
        # Every namespace holds two watches open: patches must not wait for one of a limited number of connections.
        connector = aiohttp.TCPConnector(limit=0, ssl=True if tls is None else tls)
        async with aiohttp.ClientSession(connector=connector, trust_env=True, read_bufsize=_READ_BUFFER) as session:
            # Requests whose connection is closed have delays of their own.
            session._retry_connection = False  # noqa: SLF001 - aiohttp has no setting
            yield cls(access, session, timeout_s)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        *,
        query: list[tuple[str, str]] | None = None,
        limits: aiohttp.ClientTimeout | None = None,
        account: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request once, and follow no redirect, which a sign-in page before the server may send.

        Args:
            method: of HTTP.
            path: below the server's address.
            body: is sent as JSON.
            content_type: of the body.
            query: options.
            limits: instead of the client's own.
            account: in whose place it is sent.

        Raises:
            NotFound, StaleObject, Rejected or Unavailable: up to the end of the context.
        """
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": "sluice-actuator"}
        headers |= {"Impersonate-User": account} if account is not None else {}
        access = self._access
        try:
            authorization = access.authorization if access.token_file is None else read_token(access.token_file)
            headers |= {"Authorization": authorization} if authorization else {}
            response = await self._session.request(
                method,
                access.url + path,
                params=query,
                headers=headers,
                data=None if body is None else msgspec.json.encode(body),
                timeout=limits or self._limits,
                allow_redirects=False,
                proxy=access.proxy,
                server_hostname=access.server_name,
            )
            try:
                if response.status >= 300:
                    await _refuse(response)
                yield response
            finally:
                response.close()  # a connection whose response was read to its end is kept
        except KubeConfigError as error:
            raise Unavailable(str(error)) from None
        except (*DECODE_ERRORS, aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _explain(error) from None


async def _refuse(response: aiohttp.ClientResponse) -> None:
    if "Location" in response.headers and response.status < 400:
        host = urlsplit(response.headers["Location"]).hostname or response.url.host
        raise Unavailable(f"HTTP status {response.status} to {host}", status=response.status)
    raise_for_status(response.status, await read_body(response.content), response.headers.get("Retry-After"))


def _explain(error: Exception) -> Unavailable:
    """What it means that a request failed without an answer that can be read."""
    if isinstance(error, DECODE_ERRORS):
        text = f"the server's answer is not what was asked for: {describe_decode_error(error)}"
        return Unavailable(text, status=200)
    is_unreached = isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError)
    return Unavailable(f"{type(error).__name__}: {error}".removesuffix(": "), is_unreached=is_unreached)


class PatchTurns:
    """Turns to patch."""

    def __init__(self, at_once: int, per_second: float, now: Callable[[], float] = time.monotonic) -> None:
        """Allow so many at once, and so many a second; ``now`` is a steady clock, s."""
        self._free = at_once
        self._rate = per_second
        self._now = now
        self._left, self._counted = per_second, now()
        """How many may be sent at once, and when that was counted: after a pause, those of a second."""
        self._waiting: list[tuple[bool, float, asyncio.Future[None]]] = []
        """Cuts in order; raises in any order, so that no target is always the last."""
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._hopeful: dict[asyncio.Future[None], None] = {}
        """Who waits for room, in order."""
        self.room = at_once
        """How many more could be sent at once; 0 while others wait."""

    async def wait_for_room(self) -> None:
        """Wait until there is room, which others may take.  Whoever waits here does not stand in line."""
        if not self.room:
            hope: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._hopeful[hope] = None
            try:
                await hope
            finally:
                self._hopeful.pop(hope, None)

    @asynccontextmanager
    async def take(self, *, is_cut: bool) -> AsyncIterator[None]:
        """Wait for a turn; it lasts as long as the context.  One that ends with ``Superseded`` was not used."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = next(self._order) if is_cut else random.random()  # noqa: S311 - no secret
        heapq.heappush(self._waiting, (not is_cut, place, turn))
        self._give_turns()
        try:
            await turn
            yield
        except Superseded:
            # Otherwise decisions that come faster than their patches are sent would use up all turns unsent.
            self._left = min(self._left + 1, self._rate)
            raise
        finally:
            if turn.done() and not turn.cancelled():
                self._free += 1
            else:
                turn.cancel()
            self._give_turns()

    def _give_turns(self) -> None:
        now = self._now()
        self._left = min(self._left + (now - self._counted) * self._rate, self._rate)
        self._counted, self.room = now, 0
        while self._waiting and self._free:
            is_raise, _, turn = self._waiting[0]
            if turn.done():
                heapq.heappop(self._waiting)
                continue
            missing = 1 + (_FOR_CUTS * (self._rate - 1) if is_raise else 0) - self._left
            if missing > 0:
                if self._timer is not None:
                    self._timer.cancel()
                wait_s = max(missing / self._rate, _LEAST_S)
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._give_turns)
                return
            heapq.heappop(self._waiting)
            self._left -= 1
            self._free -= 1
            turn.set_result(None)
        self.room = 0 if self._waiting else self._free
        # One for each turn: all at once would find it taken.
        for hope in list(self._hopeful)[: self.room]:
            del self._hopeful[hope]
            if not hope.done():
                hope.set_result(None)
