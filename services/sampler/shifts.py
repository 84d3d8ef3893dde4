"""Which domains this sampler publishes samples of, where numbered samplers share them.

For each partition of the domains the server gives one of the samplers a turn, again and again: the lowest rank that
asks (``Bus.take_turns``).  A sampler that had a turn of late publishes that partition's samples.  Each sampler measures
all domains, so that one that takes over has a whole window behind it.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

from schemas.definition import Definition
from services.bus.bus import Bus, Denied
from services.bus.connection import ApiError
from services.bus.partitions import PARTITIONS, find_partition, find_rank

_LATELY_S = 1.2
"""Three turns: redelivery may be late."""
_LOOK_S = 1.0


class Shifts:
    """The partitions whose turn is this sampler's."""

    def __init__(
        self,
        replica: int,
        is_connected: Callable[[], bool] = lambda: True,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without a turn.

        Args:
            replica: this sampler's number.
            is_connected: whether the bus is there: while it is not, everything stays as it is.
            now: a steady clock, s.
        """
        self._replica = replica
        self._is_connected = is_connected
        self._now = now
        self._turns = [float("-inf")] * PARTITIONS
        self._mine = [False] * PARTITIONS
        self._has_turns = True

    def is_mine(self, domain: str) -> bool:
        """Whether to publish a domain's samples."""
        if not self._has_turns:
            return True
        partition = find_partition(domain)
        if self._is_connected():
            self._mine[partition] = self._now() - self._turns[partition] < _LATELY_S
        return self._mine[partition]

    def note_turn(self, partition: int) -> None:
        """It is this sampler's turn."""
        self._turns[partition] = self._now()

    async def run(self, bus: Bus) -> None:
        """Take turns, for ever."""
        async with asyncio.TaskGroup() as group:
            for partition in range(PARTITIONS):
                group.create_task(self._take_turns(bus, partition, find_rank(partition, self._replica)))
            while True:
                try:
                    stream = await bus.stream_info(Definition)
                except (ApiError, Denied):
                    stream = None
                # Without a definition there is no turn: then everybody samples everything.
                self._has_turns = stream is not None and stream.last > 0
                await asyncio.sleep(_LOOK_S)

    async def _take_turns(self, bus: Bus, partition: int, rank: int) -> None:
        async with aclosing(bus.take_turns(f"sampler-{partition}", rank)) as turns:
            async for _ in turns:
                self.note_turn(partition)
