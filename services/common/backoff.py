"""Waits between attempts, for loops that never give up."""

import asyncio
import random


class BackOff:
    """Waits that double up to a limit; each is a random share, at least half, of the full length."""

    def __init__(self, first_s: float = 0.1, most_s: float = 5.0) -> None:
        """Begin with at most ``first_s`` seconds, and never exceed ``most_s``."""
        self._next_s = first_s
        self._most_s = most_s

    def next_s(self) -> float:
        """The next wait in seconds, for a caller that waits by itself."""
        wait_s = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, protects no secret
        self._next_s = min(2 * self._next_s, self._most_s)
        return wait_s

    async def wait(self) -> None:
        """Sleep for the next wait."""
        await asyncio.sleep(self.next_s())
