"""What a reader of the bus gets: a message with what the bus says of it, or the reason why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

from schemas.messages import InvalidMessage, M
from services.bus.envelope import Raw
from services.bus.session import Session


class Unreadable(InvalidMessage):
    """A message found on the stream cannot be read."""

    def __init__(self, raw: Raw, reason: str, *, later: bool = False) -> None:
        """Keep the message; ``later``: it says that a later build wrote it."""
        super().__init__(f"{raw.subject} {raw.seq}: {reason}")
        self.raw = raw
        self.reason = reason
        self.later = later


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What the server says of a stream.  Times are ns."""

    created: int
    first: int
    """Sequence of the first message that is still kept."""
    last: int
    """Sequence of the last message, 0 before there was one."""


@dataclass(frozen=True, slots=True)
class Received(Generic[M]):
    """A message, and what the bus says of it."""

    message: M
    raw: Raw
    deliveries: int = 0
    """1 at the first delivery, more when it was delivered before; 0 when it was looked up."""
    since: int = 0
    """From this stream sequence on, up to this message, every message came to this reader."""
    _reply: str = ""
    _session: Session | None = None

    @property
    def subject(self) -> str:
        """Where it was published."""
        return self.raw.subject

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers it was published with."""
        return self.raw.headers

    @property
    def body(self) -> bytes:
        """The message as it was published."""
        return self.raw.body

    @property
    def seq(self) -> int:
        """Sequence in its stream."""
        return self.raw.seq

    @property
    def published(self) -> int:
        """When the server stored it, by the server's clock, ns."""
        return self.raw.published

    async def ack(self) -> None:
        """Say that its effect is done.  An acknowledgement may be lost: the message then comes again."""
        await self._answer(b"+ACK")

    async def nak(self, delay: float | None = None) -> None:
        """Ask for it to be delivered again, after ``delay`` seconds."""
        await self._answer(b"-NAK" if delay is None else b'-NAK {"delay": %d}' % int(delay * 1e9))

    async def _answer(self, word: bytes) -> None:
        if self._session is not None and self._reply:
            await self._session.send(self._reply, word)
