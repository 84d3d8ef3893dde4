"""The bus: publish, read and look up messages on NATS JetStream.

Delivery is at least once.  A publisher repeats until the server has acknowledged, and the server
drops what it has seen under the same id; a reader acknowledges after the effect.  Whatever breaks
(the connection, the server, a stream, a consumer) is waited for and set up anew.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Any

import structlog
from prometheus_client import Counter

from schemas.config import Bus as Settings
from schemas.messages import KINDS as TYPES
from schemas.messages import InvalidMessage, M, Message, UnknownVersion, decode, encode
from services.bus import envelope, streams
from services.bus.connection import Denied, TooLarge
from services.bus.consumer import Consumer, Reading, Start
from services.bus.envelope import Raw, stored
from services.bus.message import Received, StreamInfo, Unreadable
from services.bus.publisher import Conflict, Publisher
from services.bus.session import ApiError, Session
from services.bus.subjects import DEFAULT_PREFIX, Subjects

__all__ = ["Bus", "Conflict", "Denied", "Received", "StreamInfo", "TooLarge", "Unreadable"]

_STREAM_NOT_FOUND = 10059
_CONSUMER_NOT_FOUND = 10014
_NO_MESSAGE = 10037
_BURY_S = 5.0
_KINDS: dict[type[Any], str] = {kind: name for name, kind in TYPES.items()}

_log = structlog.get_logger()
_dead = Counter("sluice_dead_letters", "Messages that could not be used and were put aside", ["service", "kind"])


class Bus:
    """One service's place on the bus."""

    def __init__(self, config: Settings, session: Session) -> None:
        """See ``connected``."""
        self.subjects = Subjects(config.prefix)
        self._config = config
        self._session = session
        self._publisher = Publisher(session, self.subjects, self.ensure_streams)

    @classmethod
    @asynccontextmanager
    async def connected(
        cls, config: Settings, name: str, on_state: Callable[[str | None], None]
    ) -> AsyncIterator["Bus"]:
        """Join the bus: waits until a server is there, and comes back whenever the connection is lost.

        Args:
            config: servers, credentials, prefix.
            name: of the service: letters, digits, ``-``.
            on_state: called with None when the bus works, and with the reason when it does not.
        """
        session = Session(config, name, on_state)
        async with session.kept():
            yield cls(config, session)

    async def ensure_streams(self) -> list[str]:
        """Create the streams that are missing.

        Returns:
            What is otherwise than configured: streams that exist with another configuration, which
            are left alone, and streams that could not be created.
        """
        reports = [await self._ensure(want) for want in streams.wanted(self._config, self.subjects)]
        return [report for report in reports if report is not None]

    async def _ensure(self, want: dict[str, Any]) -> str | None:
        name = want["name"]
        # Looked for before it is made: most users of the bus may not make streams.
        try:
            try:
                answer = await self._session.api(f"STREAM.INFO.{name}")
            except ApiError as error:
                if error.code != _STREAM_NOT_FOUND:
                    raise
                answer = await self._session.api(f"STREAM.CREATE.{name}", want)
        except (ApiError, Denied) as error:
            return f"stream {name}: {error}"
        return streams.differences(want, answer["config"])

    async def drop_streams(self) -> None:
        """Delete this prefix's streams with all that is on them: for a prefix that was made for a moment.

        Raises:
            ValueError: the prefix is the default one.
        """
        if self.subjects.prefix == DEFAULT_PREFIX:
            raise ValueError(f"the streams of {DEFAULT_PREFIX!r} are never deleted")
        for want in streams.wanted(self._config, self.subjects):
            try:
                await self._session.api(f"STREAM.DELETE.{want['name']}")
            except ApiError as error:
                if error.code != _STREAM_NOT_FOUND:
                    raise

    async def publish(
        self,
        subject: str,
        message: Message,
        *,
        msg_id: str,
        headers: Mapping[str, str] | None = None,
        expect_last: int | None = None,
    ) -> int:
        """Publish, again and again until the server has acknowledged; gives the stream sequence.

        Args:
            subject: of the message's kind.
            message: the payload.
            msg_id: deterministic, so that the server drops a repetition.
            headers: without a ``traceparent`` among them, the message begins a trace.
            expect_last: sequence of the subject's last message, 0 for none: only then is it stored.

        Raises:
            Conflict: with ``expect_last``: something else is last, or the message is there already.
            TooLarge: the server takes no message of that size.
            InvalidMessage: it cannot be written as JSON.
        """
        return await self._publisher.publish(subject, message, msg_id, headers or {}, expect_last)

    async def consume(
        self,
        kind: type[M],
        durable: str | None,
        service: str,
        *,
        start: Start = "all",
        batch: int = 256,
        ack_wait: float = 30.0,
        fleeting: bool = False,
    ) -> AsyncGenerator[Received[M], None]:
        """Read a kind of message, for ever.

        A message that cannot be read goes to the dead-letter subject and is not delivered again; a
        reader without a durable name passes over it.  Use ``contextlib.aclosing`` where the loop is left
        before its task ends.

        Args:
            kind: what to expect.
            durable: the consumer's name: its position outlives the reader, and several readers share
                it; each message comes again until it is acknowledged.  None for a reader of its own
                that begins at ``start``, and that nobody waits for: acknowledging does nothing.
            service: who reads, for dead letters.
            start: where a new consumer begins: "all" that is kept, "new", the "latest" of each
                subject, after a sequence, or after one that is only computed when it is needed.
            batch: how many messages may be on their way or waiting at once.
            ack_wait: seconds after which a message without acknowledgement comes again.
            fleeting: whether the server drops a durable consumer whose reader was away for a minute.
        """
        name = _KINDS[kind]
        stream = self.subjects.stream(name)
        pattern = self.subjects.every(name)
        reading = Reading(stream, durable, pattern, start, batch, ack_wait, fleeting)
        async with aclosing(Consumer(self._session, reading, self.ensure_streams).taken()) as deliveries:
            async for taken in deliveries:
                try:
                    message = self._read(kind, taken.raw)
                except Unreadable as error:
                    if durable:
                        await self.bury(service, taken.raw, error.reason)
                        await self._session.send(taken.reply, b"+TERM")
                    continue
                session = self._session if durable else None
                yield Received(message, taken.raw, taken.delivery.count, taken.since, taken.reply, session)

    def _read(self, kind: type[M], raw: Raw) -> M:
        if len(raw.body) > envelope.MAX_BODY:
            raise Unreadable(raw, f"{len(raw.body)} bytes, at most {envelope.MAX_BODY} are read")
        try:
            return decode(kind, raw.body)
        except InvalidMessage as error:
            raise Unreadable(raw, str(error), later=isinstance(error, UnknownVersion)) from None

    async def read(
        self, kind: str, *, subject: str | None = None, start: Start = "all", follow: bool = False, batch: int = 1024
    ) -> AsyncGenerator[Raw, None]:
        """Read a kind's messages as they are stored, in order and unexamined: for those who record or audit.

        Leaves nothing on the bus but a consumer that the server drops by itself.  A missing stream is
        not created, and is empty.  Use ``contextlib.aclosing`` where the loop is left before it ends.

        Args:
            kind: ``sample``, ``decision``, ``action`` or ``dead``.
            subject: only this subject or pattern.
            start: as for ``consume``.
            follow: go on for ever; otherwise end with the last message that was there at the beginning.
            batch: how many messages may be on their way or waiting at once.
        """
        stream = self.subjects.stream(kind)
        pattern = subject or self.subjects.every(kind)
        last = None if follow else await self._stored(stream, {"last_by_subj": pattern})
        if not follow and (last is None or _beyond(start, last)):
            return
        reading = Reading(stream, None, pattern, start, batch, 0)
        async with aclosing(Consumer(self._session, reading, _nothing).taken()) as messages:
            async for taken in messages:
                yield taken.raw
                if last is not None and taken.raw.seq >= last.seq:
                    return

    async def last(self, kind: type[M], subject: str) -> Received[M] | None:
        """The last message on a subject; None when there is none.

        Raises:
            Unreadable: there is one, but it cannot be read.
        """
        return await self._looked_up(kind, subject, {"last_by_subj": subject})

    async def next_after(self, kind: type[M], subject: str, seq: int) -> Received[M] | None:
        """The first message on a subject after a stream sequence; None when there is none.

        Raises:
            Unreadable: there is one, but it cannot be read.
        """
        return await self._looked_up(kind, subject, {"seq": seq + 1, "next_by_subj": subject})

    async def _looked_up(self, kind: type[M], subject: str, request: dict[str, Any]) -> Received[M] | None:
        raw = await self._stored(self.subjects.stream(self.subjects.kind_of(subject)), request)
        return None if raw is None else Received(self._read(kind, raw), raw)

    async def _stored(self, stream: str, request: dict[str, Any]) -> Raw | None:
        # Asked of the stream's leader: a replica may not have seen the latest messages.
        try:
            answer = await self._session.api(f"STREAM.MSG.GET.{stream}", request)
        except ApiError as error:
            if error.code in (_NO_MESSAGE, _STREAM_NOT_FOUND):
                return None
            raise
        return stored(answer["message"])

    async def stream(self, kind: type[M]) -> StreamInfo | None:
        """The state of the stream of a kind; None when there is no stream."""
        try:
            answer = await self._session.api(f"STREAM.INFO.{self.subjects.stream(_KINDS[kind])}")
        except ApiError as error:
            if error.code == _STREAM_NOT_FOUND:
                return None
            raise
        state = answer["state"]
        return StreamInfo(envelope.nanoseconds(answer["created"]), state["first_seq"], state["last_seq"])

    async def acknowledged(self, kind: type[M], durable: str) -> int:
        """Stream sequence up to which a durable consumer's messages are all acknowledged; 0 without one."""
        stream = self.subjects.stream(_KINDS[kind])
        try:
            answer = await self._session.api(f"CONSUMER.INFO.{stream}.{durable}")
        except ApiError as error:
            if error.code in (_STREAM_NOT_FOUND, _CONSUMER_NOT_FOUND):
                return 0
            raise
        return int(answer["ack_floor"]["stream_seq"])

    async def bury(self, service: str, message: Received[Any] | Raw, reason: str) -> None:
        """Keep a message that cannot be used on the dead-letter subject, and count it.

        When that does not work within seconds it is logged instead, and remains in its own stream:
        a dead letter holds nothing up.
        """
        raw = message if isinstance(message, Raw) else message.raw
        _dead.labels(service, self._kind_of(raw.subject)).inc()
        _log.warning("message put aside", subject=raw.subject, seq=raw.seq, reason=reason)
        letter = envelope.dead_letter(raw, service, reason)
        trace = {envelope.TRACE: envelope.continued(raw.headers, reason)}
        subject = self.subjects.dead(service)
        try:
            async with asyncio.timeout(_BURY_S):
                msg_id = f"{service}:{raw.subject}:{raw.seq}:{raw.published}"
                await self.publish(subject, letter, msg_id=msg_id, headers=trace)
        except TimeoutError:
            _log.error("dead letter not kept", letter=encode(letter).decode())
            self._session.given_up(subject)

    def _kind_of(self, subject: str) -> str:
        try:
            return self.subjects.kind_of(subject)
        except ValueError:
            return "other"


def _beyond(start: Start, last: Raw) -> bool:
    """Whether a reading would begin after the last message."""
    if isinstance(start, datetime):
        return last.published < start.timestamp() * 1e9
    return start == "new" or (isinstance(start, int) and last.seq <= start)


async def _nothing() -> None:
    """A reader creates no streams."""
