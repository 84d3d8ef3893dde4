"""Whose turn it is to patch: some at a time and so many a second, cuts before raises.

A flap of a whole fleet changes every limit at once.  The API server then gets a steady stream, not a storm: patches
wait here and are built when their turn comes, so that one that was overtaken is not sent at all.
"""

import asyncio
import heapq
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

_LEAST_S = 0.001
"""A shorter wait may not pass by the clock."""
_FOR_CUTS = 0.25
"""Share of a second's patches that raises leave for the cuts of that second."""


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

    @asynccontextmanager
    async def take(self, *, is_cut: bool) -> AsyncIterator[None]:
        """Wait for a turn; it lasts as long as the context."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = next(self._order) if is_cut else random.random()  # noqa: S311 - no secret
        heapq.heappush(self._waiting, (not is_cut, place, turn))
        self._give_turns()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._free += 1
            else:
                turn.cancel()
            self._give_turns()

    def _give_turns(self) -> None:
        now = self._now()
        self._left = min(self._left + (now - self._counted) * self._rate, self._rate)
        self._counted = now
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
