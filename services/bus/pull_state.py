"""Counts what a reader has requested and received.  No I/O; ``consumer.py`` sends the requests."""

import time
from collections import deque
from collections.abc import Callable, Mapping

from services.bus.envelope import Delivery

SHARED_EXPIRES_S, SHARED_EVERY_S = 1.0, 0.4
"""A sharer's requests end soon, so that one that hangs is passed over; the next one is sent before that."""

_CONTINUES = frozenset({"100", "404", "408"})
_CONTINUES_409 = ("batch completed", "message size exceeds maxbytes")


class ConsumerLost(Exception):
    """The consumer does not answer as it should: look it up, or create it, again."""


class PullState:
    """Counts one reader's requests and deliveries."""

    def __init__(self, batch: int) -> None:
        """Never hold more than ``batch`` messages at once."""
        self._batch = batch
        self._requested = 0
        self._number = 0
        self._since = 0

    def request_more(self, waiting: int) -> int:
        """Count a request and give its size, with ``waiting`` messages unprocessed; 0: enough are on their way."""
        free = self._batch - self._requested - waiting
        if free < max(self._batch // 2, 1):
            return 0
        self._requested += free
        return free

    def record_delivery(self, delivery: Delivery) -> int:
        """Count a message; gives the sequence since which this reader received every message.

        Deliveries of a consumer are numbered.  While the numbers are consecutive, no other reader of the
        same consumer received a message in between.  A run of numbers counts from its first message that
        was never delivered before: messages after a redelivered one may have gone to another reader long ago.
        """
        self._requested = max(self._requested - 1, 0)
        if delivery.number != self._number + 1:
            self._since = 0
        self._number = delivery.number
        if self._since == 0:
            if delivery.count > 1:
                return delivery.seq
            self._since = delivery.seq
        return self._since

    def record_status(self, headers: Mapping[str, str]) -> bool:
        """Process a status message; returns whether a request has ended for want of messages.

        Raises:
            ConsumerLost: the consumer, its leader or its server is gone.
        """
        code = headers.get("Status", "")
        description = headers.get("Description", "")
        if code not in _CONTINUES and not (code == "409" and description.lower().startswith(_CONTINUES_409)):
            raise ConsumerLost(f"{code} {description}".strip())
        if code in {"404", "408", "409"}:
            unsent = headers.get("Nats-Pending-Messages", "")
            self._requested = max(self._requested - int(unsent), 0) if unsent.isdigit() else 0
        return code == "408"


class SharedPullState(PullState):
    """The same for a reader that shares its consumer: the server sends messages to the request of the lowest priority.

    So there must be a request at every moment, for at least half a batch.  Requests overlap, and may bring several.
    """

    def __init__(self, batch: int, now: Callable[[], float] = time.monotonic) -> None:
        """``now`` is a steady clock, s."""
        super().__init__(batch)
        self._now = now
        self._open: deque[list[float]] = deque()
        """When each request ends, and how many messages it may still bring."""
        self._due = 0.0
        """When to send the next."""

    def request_more(self, waiting: int) -> int:
        """Send a request every 0.4 s, and whenever less than half a batch is requested, unless too much waits."""
        now = self._now()
        while self._open and self._open[0][0] <= now:
            self._open.popleft()
        is_due = now >= self._due
        left = sum(count for _, count in self._open)
        if waiting >= self._batch or (left >= self._batch // 2 and not is_due):
            return 0
        self._open.append([now + SHARED_EXPIRES_S, self._batch])
        self._due = now + SHARED_EVERY_S
        return self._batch

    def record_delivery(self, delivery: Delivery) -> int:
        """Count a message to the oldest request that may bring it."""
        for request in self._open:
            if request[1]:
                request[1] -= 1
                break
        return super().record_delivery(delivery)
