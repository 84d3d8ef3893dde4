"""What travels around a message: headers, trace, and what the server adds.  Pure.

A trace begins at a sample and runs through its decision to the actions that follow from it
(W3C ``traceparent``).  Its ids are made from the message ids, so that a message published again
after a crash carries the same ones.
"""

import base64
import re
from calendar import timegm
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b

from schemas.messages import DeadLetter

TRACE = "traceparent"
MSG_ID = "Nats-Msg-Id"
EXPECTED_STREAM = "Nats-Expected-Stream"
EXPECTED_LAST = "Nats-Expected-Last-Subject-Sequence"
SAMPLE_SEQ = "Sluice-Sample-Seq"
"""On a decision: the stream sequence of the sample that it answers, the position to go on from."""

MAX_BODY = 512 * 1024
"""No message is larger, bytes: a reader puts a larger one aside."""
_KEPT_BODY = 4096

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def begun(msg_id: str) -> str:
    """The ``traceparent`` of a message that begins a trace."""
    return f"00-{_digest(msg_id, 16)}-{_digest('span ' + msg_id, 8)}-01"


def continued(headers: Mapping[str, str], msg_id: str) -> str:
    """The ``traceparent`` of a message caused by one with ``headers``: the same trace, a span of its own.

    A cause without a readable trace gives a new one.
    """
    cause = headers.get(TRACE, "")
    if not _TRACEPARENT.fullmatch(cause):
        return begun(msg_id)
    version, trace, span, flags = cause.split("-")
    return f"{version}-{trace}-{_digest(span + msg_id, 8)}-{flags}"


def _digest(text: str, size: int) -> str:
    return blake2b(text.encode(), digest_size=size).hexdigest()


@dataclass(frozen=True, slots=True)
class Delivery:
    """What JetStream says of one delivered message, in the subject that acknowledges it."""

    seq: int
    """Sequence in the stream."""
    count: int
    """Which delivery of this message: 1 is the first."""
    number: int
    """Which delivery of this consumer, over all messages and all its readers."""
    published: int
    """When the server stored it, ns."""

    @classmethod
    def parse(cls, reply: str) -> "Delivery":
        """Read ``$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<count>.<seq>.<number>.<ns>.<pending>[.<token>]``.

        Raises:
            ValueError: the subject is another.
        """
        tokens = reply.split(".")
        first = {9: 4, 11: 6, 12: 6}.get(len(tokens))
        if first is None or tokens[:2] != ["$JS", "ACK"]:
            raise ValueError(f"{reply!r} is no acknowledgement subject")
        count, seq, number, published = (int(token) for token in tokens[first : first + 4])
        return cls(seq, count, number, published)


@dataclass(frozen=True, slots=True)
class Raw:
    """A stored message before anybody has read it."""

    subject: str
    headers: Mapping[str, str]
    body: bytes
    seq: int
    """Sequence in its stream."""
    published: int
    """When the server stored it, ns."""


def dead_letter(raw: Raw, service: str, reason: str) -> DeadLetter:
    """What is kept of a message that cannot be used."""
    body = base64.b64encode(raw.body[:_KEPT_BODY]).decode()
    return DeadLetter(subject=raw.subject, service=service, reason=reason, body=body, seq=raw.seq)


def stored(message: Mapping[str, str]) -> Raw:
    """Read a message as ``STREAM.MSG.GET`` returns it: base64 inside JSON."""
    return Raw(
        subject=message["subject"],
        headers=_headers(base64.b64decode(message.get("hdrs", ""))),
        body=base64.b64decode(message.get("data", "")),
        seq=int(message["seq"]),
        published=nanoseconds(message["time"]),
    )


def _headers(block: bytes) -> dict[str, str]:
    lines = block.decode("utf-8", "replace").split("\r\n")[1:]
    return {name.strip(): value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon}


def nanoseconds(time: str) -> int:
    """Read the server's RFC 3339 times, which have up to nine decimals and end in ``Z``."""
    whole, _, fraction = time.removesuffix("Z").partition(".")
    seconds = timegm(datetime.fromisoformat(whole).timetuple())
    return seconds * 10**9 + int(fraction.ljust(9, "0") or 0)
