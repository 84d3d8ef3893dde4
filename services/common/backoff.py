"""Waits between attempts, for loops that never give up."""

import random
from dataclasses import dataclass


@dataclass
class BackOff:
    """Waits that double up to a limit; each is a random share, at least half, of the full length."""

    longest_s: float = 0.1
    """The next wait in seconds at the most."""
    most_s: float = 5.0
    """What that grows to."""

    def next_s(self) -> float:
        """The next wait in seconds, for a caller that waits by itself."""
        wait_s = self.longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, protects no secret
        self.longest_s = min(2 * self.longest_s, self.most_s)
        return wait_s

    async def wait(self) -> None:
        """Sleep for the next wait."""
        # The meter waits by itself, and runs without an event loop.
        import asyncio  # noqa: PLC0415

        await asyncio.sleep(self.next_s())
