"""How several readers share one consumer, so that one of them gets all its messages: by the server's priorities.

The server sends a message to the request of the lowest priority that waits (policy ``prioritized``, NATS 2.12).  A
reader that is gone has no request, and one that hangs has none after a second: the next one gets the messages then.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass


class SharedSubjects:
    """The subjects that the sharers of a consumer read; all sharers get the same news, though not at once."""

    def __init__(self, subjects: Iterable[str] = ()) -> None:
        """Begin with these."""
        self._wanted = set(subjects)
        self._unwanted: set[str] = set()
        self.version = 0
        """Counts changes."""
        self.some = asyncio.Event()
        """Set while there are any."""
        self._read, self._has_news = 0, asyncio.Event()
        """The version that the server knows; set when that may be another."""
        self._note()

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def add(self, subject: str) -> None:
        """Read a subject from now on."""
        if subject not in self._wanted:
            self._wanted.add(subject)
            self._unwanted.discard(subject)
            self._note()

    def remove(self, subject: str) -> None:
        """Read a subject no longer."""
        if subject in self._wanted:
            self._wanted.discard(subject)
            self._unwanted.add(subject)
            self._note()

    def _note(self) -> None:
        self.version += 1
        if self._wanted:
            self.some.set()
        else:
            self.some.clear()

    def note_read(self, version: int) -> None:
        """Take note that the consumer reads the subjects as they were at a version."""
        self._read = max(self._read, version)
        self._has_news.set()

    async def wait_until_read(self) -> None:
        """Wait until the server knows what is wanted now: what is published on it from then on comes here."""
        version = self.version
        while self._read < version:
            self._has_news.clear()
            await self._has_news.wait()

    def merge(self, found: Iterable[str]) -> list[str]:
        """What the consumer should read that reads ``found``: what another sharer has heard of first stays."""
        known = set(found)
        self._unwanted &= known  # what it no longer reads needs no removal: instances come and go for ever
        return sorted((known - self._unwanted) | self._wanted)


@dataclass(frozen=True)
class Share:
    """How a reader shares a consumer with others."""

    subjects: SharedSubjects | None
    """None: those of the consumer's pattern."""
    priority: int
    """0 to 9: the server sends messages to the reader of the lowest one that asks for them."""
    takes_turns: bool = False
    """Whether the consumer has one message only, which nobody acknowledges: it is redelivered to whose turn it is."""
