"""The reader's side of a JetStream pull consumer, without I/O.

A reader asks for messages in batches, and the server answers with messages and with status
messages.  ``Pull`` keeps count of what is still to come, says when to ask again and when the
consumer has to be looked up anew, and knows since when the reader has received every message.
"""

from collections.abc import Mapping

from services.bus.envelope import Delivery

HEARTBEAT_S = 5.0
"""The server says that often that it is still there; twice as long without a word, and it is not."""
EXPIRES_S = 30.0
"""A request that long unanswered is over."""

_GOES_ON = frozenset({"100", "404", "408"})
_GOES_ON_409 = ("batch completed", "message size exceeds maxbytes")


class Lost(Exception):
    """The consumer does not answer as it should: look it up, or create it, anew."""


class Pull:
    """Counts one reader's requests and deliveries."""

    def __init__(self, batch: int) -> None:
        """Never hold more than ``batch`` messages at once."""
        self._batch = batch
        self._coming = 0
        self._number = 0
        self._since = 0

    def wanted(self, waiting: int) -> int:
        """How many messages to ask for now, with ``waiting`` in hand; 0 while enough are on their way."""
        free = self._batch - self._coming - waiting
        if free < max(self._batch // 2, 1):
            return 0
        self._coming += free
        return free

    def arrived(self, delivery: Delivery) -> int:
        """Count a message; gives the sequence since which this reader received everything.

        Deliveries of a consumer are numbered.  While the numbers follow one another, no other reader
        of the same consumer received a message in between.  A run of numbers counts from its first
        message that was never delivered before: what came after a message that comes again may have
        gone to somebody else long ago.
        """
        self._coming = max(self._coming - 1, 0)
        if delivery.number != self._number + 1:
            self._since = 0
        self._number = delivery.number
        if self._since == 0:
            if delivery.count > 1:
                return delivery.seq
            self._since = delivery.seq
        return self._since

    def status(self, headers: Mapping[str, str]) -> None:
        """Take note of a status message.

        Raises:
            Lost: the consumer, its leader or its server is gone.
        """
        code = headers.get("Status", "")
        description = headers.get("Description", "")
        if code not in _GOES_ON and not (code == "409" and description.lower().startswith(_GOES_ON_409)):
            raise Lost(f"{code} {description}".strip())
        if code in {"404", "408", "409"}:
            unsent = headers.get("Nats-Pending-Messages", "")
            self._coming = max(self._coming - int(unsent), 0) if unsent.isdigit() else 0
