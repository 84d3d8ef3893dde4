"""The bus: publish, read and look up messages on NATS JetStream.

Delivery is at least once.  A publisher repeats until the server has acknowledged, and the server drops
a message whose id it has seen; a reader acknowledges after the effect.  After any failure (of the
connection, the server, a stream or a consumer) the bus waits and sets up again what is missing.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from prometheus_client import Counter

from schemas.config import BusConfig
from schemas.messages import KINDS, InvalidMessage, M, Message, UnknownVersion, decode, encode
from services.bus import envelope, streams
from services.bus.connection import ANSWER_S, ApiError, Denied, Disconnected, ErrorCode, NoResponder, Session, TooLarge
from services.bus.consumer import Consumer, ConsumerSpec, Start
from services.bus.envelope import RawMessage, Received, StreamInfo, Unreadable
from services.bus.sharing import Share
from services.bus.subjects import DEFAULT_PREFIX, Subjects
from services.common.backoff import BackOff

__all__ = ["Bus", "Conflict", "Denied", "Received", "StreamInfo", "TooLarge", "Unreadable"]

_DEAD_LETTER_S = 5.0
_MOST_DELIVERIES = 8
"""A message that is delivered once more has ended its reader so often that it becomes a dead letter."""
_MAX_IN_FLIGHT = 1024
_TURN_S = 0.4
_NAMES: dict[type[Any], str] = {kind: name for name, kind in KINDS.items()}

_log = structlog.get_logger()
_dead = Counter("sluice_dead_letters", "Messages that could not be used and were put aside", ["service", "kind"])


class Conflict(Exception):
    """The expected last sequence of the subject was not the last, or the message was published before."""


class Bus:
    """A service's access to the bus."""

    def __init__(self, config: BusConfig, session: Session) -> None:
        """See ``connect``."""
        self.subjects = Subjects(config.prefix)
        self._streams: dict[type[Any], str] = {kind: self.subjects.stream(name) for kind, name in _NAMES.items()}
        self._config = config
        self._session = session
        self._in_flight = asyncio.Semaphore(_MAX_IN_FLIGHT)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, config: BusConfig, name: str, on_state: Callable[[str | None], None]
    ) -> AsyncIterator["Bus"]:
        """Connect, waiting until a server answers, and reconnect whenever the connection is lost.

        Args:
            config: servers, credentials, prefix.
            name: of the service: letters, digits, ``-``.
            on_state: called with None when the bus works, and with the reason when it does not.
        """
        session = Session(config, name, on_state)
        async with session.keep_connected():
            yield cls(config, session)

    async def ensure_streams(self) -> list[str]:
        """Create missing streams.

        Returns:
            A sentence for each stream that exists with another configuration, which is left as it is, and
            for each that could not be created.
        """
        reports = []
        for config in streams.build_configs(self._config, self.subjects):
            name = config["name"]
            try:
                # Looked up before it is created, because most users may not create streams.
                found = await self._session.find(f"STREAM.INFO.{name}")
                if found is None:
                    found = await self._session.request(f"STREAM.CREATE.{name}", config)
                report = streams.describe_differences(config, found["config"])
            except (ApiError, Denied) as error:
                report = f"stream {name}: {error}"
            if report is not None:
                reports.append(report)
        return reports

    async def delete_streams(self) -> None:
        """Delete this prefix's streams with all their messages: for the temporary prefix of a replay.

        Raises:
            ValueError: the prefix is the default one.
        """
        if self.subjects.prefix == DEFAULT_PREFIX:
            raise ValueError(f"the streams of {DEFAULT_PREFIX!r} are never deleted")
        for config in streams.build_configs(self._config, self.subjects):
            await self._session.find(f"STREAM.DELETE.{config['name']}")

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
            headers: without a ``traceparent`` among them, the message starts a trace.
            expect_last: sequence of the subject's last message, 0 for none: only then is it stored.

        Raises:
            Conflict: with ``expect_last``: another message is last, or this one is stored already.
            TooLarge: the server accepts no message of that size.
            InvalidMessage: it cannot be written as JSON, or could not be read back.
        """
        try:
            body = encode(message)
            # Every reader must be able to read it: numbers in range, and times in order.
            decode(type(message), body)  # type: ignore[type-var]
        except (OverflowError, TypeError, ValueError, RecursionError) as error:
            raise InvalidMessage(f"{msg_id}: {error}") from None
        sent = {**(headers or {}), envelope.MSG_ID: msg_id, envelope.EXPECTED_STREAM: self._streams[type(message)]}
        if envelope.TRACE not in sent:
            sent[envelope.TRACE] = envelope.trace_message(msg_id, {})
        if expect_last is not None:
            sent[envelope.EXPECTED_LAST] = str(expect_last)
        async with self._in_flight:
            answer = await self._store(subject, body, sent)
        if expect_last is not None and answer.get("duplicate"):
            raise Conflict(f"{subject}: {msg_id} was published before")
        return int(answer["seq"])

    async def _store(self, subject: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
        """Send a message until the server stores it, or refuses it for good; gives the server's answer."""
        back_off = BackOff()
        try:
            while True:
                try:
                    connection = await self._session.connection()
                    answer: dict[str, Any] = json.loads(await connection.request(subject, body, ANSWER_S, headers))
                except NoResponder as missing:
                    reason = "; ".join([str(missing), *await self.ensure_streams()])
                except (Disconnected, Denied) as failure:
                    reason = str(failure)
                else:
                    error = answer.get("error")
                    if error is None:
                        self._session.clear_problem(subject)
                        return answer
                    code, text = error.get("err_code", 0), error.get("description", "")
                    if code in (ErrorCode.WRONG_LAST_SEQUENCE, ErrorCode.WRONG_LAST_SEQUENCE_CONSTANT):
                        raise Conflict(f"{subject}: {text}")
                    if code == ErrorCode.MESSAGE_TOO_LARGE:
                        raise TooLarge(f"{subject}: {text}")
                    reason = f"{subject}: {text} ({code})"
                self._session.report_problem(subject, reason)
                await back_off.wait()
        finally:
            # A refusal is an answer, and a caller that was cancelled does not wait any more.
            self._session.clear_problem(subject, recovered=False)

    async def consume(  # noqa: PLR0913 - each is one property of a consumer
        self,
        kind: type[M],
        durable: str | None,
        service: str,
        *,
        start: Start = "all",
        batch: int = 256,
        ack_wait: float = 30.0,
        transient: bool = False,
        once: bool = False,
        share: Share | None = None,
    ) -> AsyncGenerator[Received[M], None]:
        """Read a kind of message, without end.

        A message that cannot be decoded, or was delivered more than eight times, becomes a dead letter and
        is not delivered again; a reader without a durable name skips it.  Use ``contextlib.aclosing`` where
        the loop is left before its task ends.

        Args:
            kind: the type of message.
            durable: the consumer's name.  Its position outlives the reader, several readers may share it,
                and each message is redelivered until it is acknowledged.  None for a private reader that
                begins at ``start``: acknowledging does nothing.
            service: the reader's name in dead letters.
            start: where a new consumer begins: "all" stored messages, "new" ones, the "latest" of each
                subject, a time, after a sequence, or after one that a function computes when it is needed.
            batch: how many messages may be requested or unprocessed at once.
            ack_wait: seconds after which a message without acknowledgement is redelivered.
            transient: whether the server deletes a durable consumer after a minute without a reader.
            once: whether to skip a redelivery while this reader still holds the message.
            share: reads these subjects alone, and only what no reader of a lower priority asks for.
        """
        spec = ConsumerSpec(
            stream=self._streams[kind],
            durable=durable,
            pattern=self.subjects.every(_NAMES[kind]),
            start=start,
            batch=batch,
            ack_wait=ack_wait,
            transient=transient,
            share=share,
        )
        held: set[int] = set()
        async with aclosing(Consumer(self._session, spec, self.ensure_streams).deliver()) as deliveries:
            async for one in deliveries:
                if once and one.raw.seq in held:
                    continue
                try:
                    message = _decode(kind, one.raw, one.delivery.count)
                except Unreadable as error:
                    if durable:
                        await self.dead_letter(service, one.raw, error.reason)
                        await self._session.send(one.reply, b"+TERM")
                    continue
                if once:
                    held.add(one.raw.seq)
                reply = partial(self._reply, held, one.raw.seq, one.reply) if durable else None
                yield Received(message, one.raw, one.delivery.count, one.since, reply)

    async def take_turns(self, name: str, priority: int) -> AsyncGenerator[None, None]:
        """Yield at each of this reader's turns: about every 0.4 s, while no reader of a lower priority asks.

        The server redelivers one stored definition, which is never acknowledged, to the reader whose turn it is.  Where
        no definition is stored, nobody has a turn.  Use ``contextlib.aclosing``.

        Args:
            name: of the consumer whose readers take turns.
            priority: 0 to 9.
        """
        spec = ConsumerSpec(
            stream=self.subjects.stream("definition"),
            durable=name,
            pattern=self.subjects.every("definition"),
            start="all",
            batch=4,
            ack_wait=_TURN_S,
            transient=True,
            share=Share(None, priority, takes_turns=True),
        )
        async with aclosing(Consumer(self._session, spec).deliver()) as deliveries:
            async for _ in deliveries:
                yield

    async def _reply(self, held: set[int], seq: int, subject: str, body: bytes) -> None:
        """Acknowledge or refuse a delivery, which its reader then no longer holds."""
        held.discard(seq)
        await self._session.send(subject, body)

    async def read(
        self, kind: str, *, subject: str | None = None, start: Start = "all", follow: bool = False, batch: int = 1024
    ) -> AsyncGenerator[RawMessage, None]:
        """Read a kind's messages as they are stored, in order and not decoded: for recording and audit.

        Leaves nothing on the bus but a consumer that the server deletes.  A missing stream is not
        created, and counts as empty.  Use ``contextlib.aclosing`` where the loop is left before it ends.

        Args:
            kind: ``sample``, ``definition``, ``decision``, ``action`` or ``dead``.
            subject: only this subject or pattern.
            start: as for ``consume``.
            follow: never end; otherwise end with the message that was last at the beginning.
            batch: how many messages may be requested or unprocessed at once.
        """
        stream = self.subjects.stream(kind)
        pattern = subject or self.subjects.every(kind)
        last = None if follow else await self._get_stored(stream, {"last_by_subj": pattern})
        if not follow:
            if last is None or start == "new" or (isinstance(start, int) and last.seq <= start):
                return
            if isinstance(start, datetime) and last.published < start.timestamp() * 1e9:
                return
        spec = ConsumerSpec(stream=stream, durable=None, pattern=pattern, start=start, batch=batch)
        async with aclosing(Consumer(self._session, spec).deliver()) as deliveries:
            async for one in deliveries:
                yield one.raw
                if last is not None and one.raw.seq >= last.seq:
                    return

    async def get_last(self, kind: type[M], subject: str) -> Received[M] | None:
        """The last message on a subject; None without one.

        Raises:
            Unreadable: it cannot be decoded.
        """
        return await self._get(kind, subject, {"last_by_subj": subject})

    async def get_next(self, kind: type[M], subject: str, seq: int) -> Received[M] | None:
        """The first message on a subject after a stream sequence; None without one.

        Raises:
            Unreadable: it cannot be decoded.
        """
        return await self._get(kind, subject, {"seq": seq + 1, "next_by_subj": subject})

    async def _get(self, kind: type[M], subject: str, request: dict[str, Any]) -> Received[M] | None:
        raw = await self._get_stored(self._streams[kind], request)
        return None if raw is None else Received(_decode(kind, raw), raw)

    async def _get_stored(self, stream: str, request: dict[str, Any]) -> RawMessage | None:
        # STREAM.MSG.GET is answered by the stream's leader; a replica, which answers direct gets, may lag behind.
        answer = await self._session.find(f"STREAM.MSG.GET.{stream}", request)
        return None if answer is None else envelope.parse_stored(answer["message"])

    async def find_next(self, kind: str, subject: str, seq: int) -> RawMessage | None:
        """The first message on a subject or pattern from a stream sequence on, not decoded; None without one."""
        return await self._get_stored(self.subjects.stream(kind), {"seq": seq, "next_by_subj": subject})

    async def stream_info(self, kind: type[M]) -> StreamInfo | None:
        """The state of a kind's stream; None without a stream."""
        answer = await self._session.find(f"STREAM.INFO.{self._streams[kind]}")
        if answer is None:
            return None
        state = answer["state"]
        return StreamInfo(envelope.parse_time(answer["created"]), state["first_seq"], state["last_seq"])

    async def ack_floor(self, kind: type[M], durable: str) -> int:
        """Stream sequence up to which all messages of a durable consumer are acknowledged; 0 without a consumer."""
        answer = await self._session.find(f"CONSUMER.INFO.{self._streams[kind]}.{durable}")
        return 0 if answer is None else int(answer["ack_floor"]["stream_seq"])

    async def dead_letter(self, service: str, message: Received[Any] | RawMessage, reason: str) -> None:
        """Store a message that cannot be used on the dead-letter subject, and count it.

        Where that takes longer than five seconds the letter is logged instead, so that it blocks
        nothing.  The message itself remains in its own stream.
        """
        raw = message if isinstance(message, RawMessage) else message.raw
        try:
            kind = self.subjects.kind_of(raw.subject)
        except ValueError:
            kind = "other"
        _dead.labels(service, kind).inc()
        _log.warning("message put aside", subject=raw.subject, seq=raw.seq, reason=reason)
        letter = envelope.build_dead_letter(raw, service, reason)
        trace = {envelope.TRACE: envelope.trace_message(reason, raw.headers)}
        try:
            async with asyncio.timeout(_DEAD_LETTER_S):
                msg_id = f"{service}:{raw.subject}:{raw.seq}:{raw.published}"
                await self.publish(self.subjects.dead(service), letter, msg_id=msg_id, headers=trace)
        except (TimeoutError, TooLarge, InvalidMessage) as error:
            _log.error("dead letter not stored", error=repr(error), subject=raw.subject, seq=raw.seq)


def _decode(kind: type[M], raw: RawMessage, deliveries: int = 0) -> M:
    if deliveries > _MOST_DELIVERIES:
        raise Unreadable(raw, f"delivered {deliveries} times and never acknowledged")
    if len(raw.body) > envelope.MAX_BODY:
        raise Unreadable(raw, f"{len(raw.body)} bytes, at most {envelope.MAX_BODY} are read")
    try:
        return decode(kind, raw.body)
    except InvalidMessage as error:
        raise Unreadable(raw, str(error), later=isinstance(error, UnknownVersion)) from None
