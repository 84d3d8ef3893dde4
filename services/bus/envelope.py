"""Messages with their headers, trace and delivery data.  No I/O.

A trace begins at a sample and runs through its decision to the resulting actions (W3C ``traceparent``).
Trace ids are derived from message ids, so that a message published again after a crash has the same ones.
"""

import base64
import re
from calendar import timegm
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Generic

from schemas.messages import DeadLetter, InvalidMessage, M

TRACE = "traceparent"
MSG_ID = "Nats-Msg-Id"
EXPECTED_STREAM = "Nats-Expected-Stream"
EXPECTED_LAST = "Nats-Expected-Last-Subject-Sequence"
SAMPLE_SEQ = "Sluice-Sample-Seq"
"""On a decision: the stream sequence of the sample that it answers.  A restarted service resumes after it."""

MAX_BODY = 512 * 1024
"""Largest message in bytes; a larger one becomes a dead letter."""
_DEAD_LETTER_BODY = 4096
_DEAD_LETTER_REASON = 1024

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def trace_message(msg_id: str, cause: Mapping[str, str]) -> str:
    """The ``traceparent`` of a message: that of its cause with a new span, or a new trace without a valid one.

    Args:
        msg_id: of the message.
        cause: the headers of the message that caused it; empty where it begins a trace.
    """
    parent = cause.get(TRACE, "")
    if not _TRACEPARENT.fullmatch(parent):
        trace = blake2b(msg_id.encode(), digest_size=16).hexdigest()
        return f"00-{trace}-{blake2b(b'span ' + msg_id.encode(), digest_size=8).hexdigest()}-01"
    version, trace, span, flags = parent.split("-")
    return f"{version}-{trace}-{blake2b((span + msg_id).encode(), digest_size=8).hexdigest()}-{flags}"


@dataclass(frozen=True, slots=True)
class Delivery:
    """JetStream's data about one delivery, read from the subject that acknowledges it."""

    seq: int
    """Sequence in the stream."""
    count: int
    """Number of this delivery among those of this message, from 1."""
    number: int
    """Number of this delivery among all those of the consumer, for all readers together."""
    published: int
    """When the server stored it, UTC ns."""

    @classmethod
    def parse(cls, reply: str) -> "Delivery":
        """Read ``$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<count>.<seq>.<number>.<ns>.<pending>[.<token>]``.

        Raises:
            ValueError: ``reply`` is not an acknowledgement subject.
        """
        tokens = reply.split(".")
        first = {9: 4, 11: 6, 12: 6}.get(len(tokens))
        if first is None or tokens[:2] != ["$JS", "ACK"]:
            raise ValueError(f"{reply!r} is not an acknowledgement subject")
        count, seq, number, published = (int(token) for token in tokens[first : first + 4])
        return cls(seq, count, number, published)


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A stored message that has not been decoded."""

    subject: str
    headers: Mapping[str, str]
    body: bytes
    seq: int
    """Sequence in its stream."""
    published: int
    """When the server stored it, UTC ns."""


class Received(Generic[M]):
    """A decoded message with its delivery data; what ``raw`` holds can be read here, too."""

    __slots__ = ("_reply", "body", "deliveries", "headers", "message", "published", "raw", "seq", "since", "subject")

    def __init__(
        self,
        message: M,
        raw: RawMessage,
        deliveries: int = 0,
        since: int = 0,
        reply: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> None:
        """Keep a message.

        Args:
            message: decoded.
            raw: as it is stored.
            deliveries: 1 at the first delivery, more after redelivery; 0 when it was looked up.
            since: stream sequence since which this reader received every message up to this one.
            reply: sends the acknowledgement; None where none is expected.
        """
        self.message: M = message
        self.raw = raw
        self.subject, self.headers, self.body = raw.subject, raw.headers, raw.body
        self.seq, self.published = raw.seq, raw.published
        self.deliveries = deliveries
        self.since = since
        self._reply = reply

    async def ack(self) -> None:
        """Confirm that its effect is done.  The confirmation may be lost: the message is then redelivered."""
        await self.acknowledgement()

    @property
    def acknowledgement(self) -> Callable[[], Awaitable[None]]:
        """Does what ``ack`` does, without keeping the message in memory."""
        reply = self._reply

        async def acknowledge() -> None:
            if reply is not None:
                await reply(b"+ACK")

        return acknowledge

    async def nak(self, delay: float | None = None) -> None:
        """Request redelivery, after ``delay`` seconds."""
        if self._reply is not None:
            await self._reply(b"-NAK" if delay is None else b'-NAK {"delay": %d}' % int(delay * 1e9))


class Unreadable(InvalidMessage):
    """A message on a stream cannot be decoded."""

    def __init__(self, raw: RawMessage, reason: str, *, later: bool = False) -> None:
        """Keep the message; ``later``: it names a version that only a later build reads."""
        super().__init__(f"{raw.subject} {raw.seq}: {reason}")
        self.raw = raw
        self.reason = reason
        self.later = later


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The state of a stream."""

    created: int
    """UTC ns."""
    first: int
    """Sequence of the oldest message that is still stored."""
    last: int
    """Sequence of the last message, 0 before the first."""


def build_dead_letter(raw: RawMessage, service: str, reason: str) -> DeadLetter:
    """The dead letter for a message that cannot be used: its address, and the first 4096 bytes of its body."""
    body = base64.b64encode(raw.body[:_DEAD_LETTER_BODY]).decode()
    # A reason may quote the message.
    return DeadLetter(subject=raw.subject, service=service, reason=reason[:_DEAD_LETTER_REASON], body=body, seq=raw.seq)


def parse_stored(message: Mapping[str, str]) -> RawMessage:
    """Read a message as ``STREAM.MSG.GET`` returns it: base64 inside JSON."""
    lines = base64.b64decode(message.get("hdrs", "")).decode("utf-8", "replace").split("\r\n")[1:]
    headers = (line.partition(":") for line in lines)
    return RawMessage(
        subject=message["subject"],
        headers={name.strip(): value.strip() for name, colon, value in headers if colon},
        body=base64.b64decode(message.get("data", "")),
        seq=int(message["seq"]),
        published=parse_time(message["time"]),
    )


def parse_time(time: str) -> int:
    """Read the server's RFC 3339 time, which has up to nine decimals and ends in ``Z``, as UTC ns."""
    whole, _, fraction = time.removesuffix("Z").partition(".")
    seconds = timegm(datetime.fromisoformat(whole).timetuple())
    return seconds * 10**9 + int(fraction.ljust(9, "0") or 0)
