"""Tells people: Kubernetes Events on the Deployment, and notes on ``/readyz``.

Events are a courtesy: they never hold a patch up, and one that cannot be written is only logged.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import structlog

from services.kube.objects import Gone, Refused, Thing, Unavailable

_EVERY_S = 30.0
"""Of one kind on one object, at most one Event in this time; the rest are counted in the next."""
_ALWAYS = frozenset({"LimitPaused", "LimitResumed", "LimitFailSafe", "LimitRestored"})
_MOST = 100

_log = structlog.get_logger()


class Board(Protocol):
    """What this needs of the cluster."""

    async def tell(self, about: Thing, reason: str, message: str, kind: str, at: str) -> None:
        """Write a Kubernetes Event about an object."""


class Events:
    """Events on their way, and notes."""

    def __init__(
        self, board: Board, note: Callable[[str, str | None], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Write Events to ``board`` and hand notes to ``note``; ``clock`` gives seconds."""
        self._board = board
        self._note = note
        self._clock = clock
        self._waiting: deque[tuple[Thing, str, str, str, str]] = deque(maxlen=_MOST)
        self._more = asyncio.Event()
        self._since: dict[tuple[str, str], tuple[float, int]] = {}

    def note(self, target: str, text: str | None) -> None:
        """Say what holds for a target from now on; None: nothing special."""
        self._note(target, text)

    def tell(self, about: Thing, reason: str, message: str, *, warning: bool = False) -> None:
        """Say something about an object, unless the same kind was said a moment ago."""
        last, left_out = self._since.get((about.uid, reason), (float("-inf"), 0))
        if self._clock() - last < _EVERY_S and reason not in _ALWAYS:
            self._since[about.uid, reason] = (last, left_out + 1)
            return
        if left_out:
            message = f"{message} (and {left_out} more since {self._clock() - last:.0f} s)"
        self._forget()
        self._since[about.uid, reason] = (self._clock(), 0)
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._waiting.append((about, reason, message, "Warning" if warning else "Normal", at))
        self._more.set()

    def _forget(self) -> None:
        old = self._clock() - 10 * _EVERY_S
        self._since = {key: kept for key, kept in self._since.items() if kept[0] > old}

    async def run(self) -> None:
        """Write, for ever."""
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            about, reason, message, kind, at = self._waiting.popleft()
            try:
                await self._board.tell(about, reason, message, kind, at)
            except (Gone, Refused, Unavailable) as error:
                _log.warning("event not written", kind=reason, message=message, error=str(error))
