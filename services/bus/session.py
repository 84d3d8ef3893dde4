"""Keeps a connection to the bus for as long as a service runs, and asks JetStream's API over it.

What goes wrong is told to the service by name and taken back when it is over, so that ``/readyz``
shows it: no connection, a stream that takes no more, a subject that this user may not publish to.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog

from schemas.config import Bus as Settings
from services.bus.connection import Link, LinkDown

ANSWER_S = 2.0
"""A server that takes longer to answer is asked again."""
_UNAVAILABLE = 503
_NAMED = 3
"""So many reasons are told at once."""
_log = structlog.get_logger()


class ApiError(Exception):
    """JetStream's answer is an error; ``code`` is its ``err_code``."""

    def __init__(self, code: int, text: str) -> None:
        """Keep the code."""
        super().__init__(f"{text} ({code})")
        self.code = code


class BackOff:
    """Waits that double up to a limit, each a random part of the full length."""

    def __init__(self, first_s: float = 0.1, most_s: float = 5.0) -> None:
        """Begin with at most ``first_s`` seconds."""
        self._next_s = first_s
        self._most_s = most_s

    def next_s(self) -> float:
        """How long to wait now, seconds: longer than the last time."""
        wait_s = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing
        self._next_s = min(2 * self._next_s, self._most_s)
        return wait_s

    async def wait(self) -> None:
        """Wait longer than the last time."""
        await asyncio.sleep(self.next_s())


class Session:
    """The current link, and a new one whenever it ends."""

    def __init__(self, config: Settings, name: str, on_state: Callable[[str | None], None]) -> None:
        """See ``Bus.connected``."""
        self._config = config
        self._name = name
        self._on_state = on_state
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._troubles: dict[str, str] = {}

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Hold a connection while the context lasts; enters it as soon as there is one."""
        keeper = asyncio.create_task(self._keep())
        try:
            await self._up.wait()
            yield
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper

    async def _keep(self) -> None:
        back_off = BackOff()
        while True:
            try:
                async with Link.opened(self._config, self._name) as self._link:
                    self._up.set()
                    self._troubles.pop("connection", None)
                    _log.info("connected to the bus", servers=self._config.servers)
                    self._tell()
                    back_off = BackOff()
                    await self._link.ended()
                reason = "the connection was lost"
            except LinkDown as error:
                reason = str(error)
            self._up.clear()
            self.troubled("connection", reason)
            await back_off.wait()

    def troubled(self, what: str, reason: str) -> None:
        """Something does not work; told to the service when it is new."""
        if self._troubles.get(what) != reason:
            _log.warning("bus", what=what, reason=reason)
            self._troubles[what] = reason
            self._tell()

    def recovered(self, what: str) -> None:
        """It works again."""
        if self._troubles.pop(what, None) is not None:
            _log.info("bus works again", what=what)
            self._tell()

    def given_up(self, what: str) -> None:
        """Nobody waits for it any more: it may not work, but nothing depends on it."""
        if self._troubles.pop(what, None) is not None:
            self._tell()

    def _tell(self) -> None:
        reasons = list(dict.fromkeys(self._troubles.values()))
        more = [f"and {len(reasons) - _NAMED} more"] if len(reasons) > _NAMED else []
        self._on_state("; ".join([*reasons[:_NAMED], *more]) or None)

    async def link(self) -> Link:
        """The current link; waits for one."""
        while self._link is None or self._link.down:
            self._up.clear()
            await self._up.wait()
        return self._link

    async def send(self, subject: str, body: bytes = b"") -> None:
        """Send without waiting for anything; without a connection it is dropped."""
        if self._link is not None:
            with suppress(LinkDown):
                await self._link.send(subject, body)

    async def api(self, what: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask JetStream's API, again and again until it answers.

        Raises:
            ApiError: it answered that it cannot be done.
            Denied: this user may not ask that.
        """
        try:
            return await self._answer(what, json.dumps(request).encode() if request else b"")
        finally:
            # An error is an answer, and who was cancelled does not ask again.
            self.given_up(what)

    async def _answer(self, what: str, body: bytes) -> dict[str, Any]:
        back_off = BackOff()
        while True:
            try:
                link = await self.link()
                answer: dict[str, Any] = json.loads(await link.ask(f"$JS.API.{what}", body, ANSWER_S))
                error = answer.get("error")
                if error is None:
                    self.recovered(what)
                    return answer
                if error["code"] != _UNAVAILABLE:
                    raise ApiError(error.get("err_code", 0), error.get("description", ""))
                self.troubled(what, error.get("description", ""))
            except LinkDown as error:
                self.troubled(what, f"{error}")
            await back_off.wait()
