"""Reads one stream through a JetStream pull consumer: creates it, requests messages, and recreates it when it is lost.

A reader requests messages in batches, and the server answers with messages and with status messages.
``PullState`` is this protocol without I/O.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from services.bus.connection import Denied, Disconnected, Msg
from services.bus.envelope import Delivery, RawMessage
from services.bus.session import ApiError, ErrorCode, Session
from services.common.backoff import BackOff

Start = Literal["all", "new", "latest"] | int | datetime | Callable[[], Awaitable[int]]
"""Where a new consumer begins; see ``Bus.consume``."""

_HEARTBEAT_S = 5.0
"""How often an idle server sends a status message; after twice this silence the consumer counts as lost."""
_EXPIRES_S = 30.0
"""The server ends a request after this time."""
_INACTIVE_NS = 60 * 10**9
"""The server deletes a transient consumer whose reader was away for this long."""
_MAX_UNACKNOWLEDGED = 8192

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


@dataclass(frozen=True, slots=True)
class PulledMessage:
    """One delivery."""

    raw: RawMessage
    delivery: Delivery
    since: int
    """Stream sequence since which this reader received every message."""
    reply: str
    """Subject that acknowledges it."""


@dataclass(frozen=True)
class ConsumerSpec:
    """What to read, and how; see ``Bus.consume``."""

    stream: str
    durable: str | None
    pattern: str
    start: Start
    batch: int
    ack_wait: float = 0.0
    transient: bool = False


class Consumer:
    """One reader of one stream."""

    def __init__(
        self, session: Session, spec: ConsumerSpec, ensure_streams: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """``ensure_streams`` is called when the stream is missing."""
        self._session = session
        self._spec = spec
        self._ensure_streams = ensure_streams
        self._what = f"reading {spec.stream}"
        self._after: int | None = None

    async def deliver(self) -> AsyncGenerator[PulledMessage, None]:
        """Every message; resumes after the connection, the server, the stream or the consumer was lost."""
        back_off = BackOff()
        while True:
            after = self._after
            try:
                connection = await self._session.connection()
                name = await self._bind()
                incoming: asyncio.Queue[Msg | Exception] = asyncio.Queue()
                subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._spec.stream}.{name}"
                async with (
                    connection.subscribe_replies(subject, incoming.put_nowait) as request,
                    aclosing(self._pull(request, incoming)) as deliveries,
                ):
                    async for one in deliveries:
                        self._after = one.raw.seq
                        yield one
            except (ConsumerLost, Disconnected, ApiError, Denied) as error:
                if isinstance(error, ApiError) and error.code == ErrorCode.STREAM_NOT_FOUND and self._ensure_streams:
                    await self._ensure_streams()
                self._session.report_problem(self._what, str(error))
            if self._after != after:
                back_off = BackOff()
            await back_off.wait()

    async def _pull(
        self, request: Callable[[bytes], Awaitable[None]], incoming: "asyncio.Queue[Msg | Exception]"
    ) -> AsyncGenerator[PulledMessage, None]:
        state = PullState(self._spec.batch)
        limits = {"expires": int(_EXPIRES_S * 1e9), "idle_heartbeat": int(_HEARTBEAT_S * 1e9)}
        try:
            while True:
                if batch := state.request_more(incoming.qsize()):
                    await request(json.dumps({"batch": batch, **limits}).encode())
                if incoming.empty():
                    try:
                        async with asyncio.timeout(2 * _HEARTBEAT_S):
                            message = await incoming.get()
                    except TimeoutError:
                        silence = f"no message and no heartbeat from the server for {2 * _HEARTBEAT_S:g} s"
                        raise ConsumerLost(silence) from None
                else:
                    message = incoming.get_nowait()
                if isinstance(message, Exception):
                    raise message
                headers = message.headers or {}
                if not message.reply and state.record_status(headers) and self._spec.durable:
                    await self._bind()  # somebody may have paused the consumer, or pointed it elsewhere
                self._session.clear_problem(self._what)
                if message.reply:
                    delivery = Delivery.parse(message.reply)
                    raw = RawMessage(message.subject, headers, message.data, delivery.seq, delivery.published)
                    yield PulledMessage(raw, delivery, state.record_delivery(delivery), message.reply)
        finally:
            # Return what was not processed, so that another reader gets it now and not after ``ack_wait``.
            while self._spec.durable and not incoming.empty():
                rest = incoming.get_nowait()
                if isinstance(rest, Msg) and rest.reply:
                    await self._session.send(rest.reply, b"-NAK")

    async def _bind(self) -> str:
        """Create the consumer, or correct the subject of the one that exists; gives its name."""
        spec, durable = self._spec, self._spec.durable
        name = durable or f"reader-{secrets.token_hex(8)}"
        info = await self._session.find(f"CONSUMER.INFO.{spec.stream}.{name}") if durable else None
        if info is None:
            action, config = "create", await self._build_config(name)
        else:
            action, config = "update", info["config"]
            subject = config.pop("filter_subjects", None) or config.get("filter_subject")
            if info.get("paused"):
                # Paused, or with another subject, the reader would receive nothing, and no error would show it.
                self._session.report_problem(self._what, f"consumer {name} is paused: it goes on")
                await self._session.request(f"CONSUMER.PAUSE.{spec.stream}.{name}")
            if subject == spec.pattern:
                return name
            self._session.report_problem(
                self._what, f"consumer {name} reads {subject} instead of {spec.pattern}: it is corrected"
            )
            config["filter_subject"] = spec.pattern
        request = {"stream_name": spec.stream, "config": config, "action": action}
        try:
            await self._session.request(f"CONSUMER.CREATE.{spec.stream}.{name}.{spec.pattern}", request)
        except ApiError as error:
            if error.code != ErrorCode.CONSUMER_EXISTS:
                raise
        return name

    async def _build_config(self, name: str) -> dict[str, Any]:
        spec = self._spec
        config: dict[str, Any] = {"name": name, "filter_subject": spec.pattern, "ack_policy": "none"}
        if spec.durable:
            config |= {"durable_name": name, "ack_policy": "explicit", "ack_wait": int(spec.ack_wait * 1e9)}
            config |= {"max_deliver": -1, "max_ack_pending": _MAX_UNACKNOWLEDGED}
        if spec.transient or not spec.durable:
            config |= {"inactive_threshold": _INACTIVE_NS, "mem_storage": True}
        start = spec.start if spec.durable or self._after is None else self._after
        if start == "latest":
            return {**config, "deliver_policy": "last_per_subject"}
        if start == "all":
            return {**config, "deliver_policy": "all"}
        if isinstance(start, datetime):
            return {**config, "deliver_policy": "by_start_time", "opt_start_time": start.isoformat()}
        last = int((await self._session.request(f"STREAM.INFO.{spec.stream}"))["state"]["last_seq"])
        after = last if start == "new" else start if isinstance(start, int) else await start()
        # A position beyond the end belongs to a stream that has been deleted since.
        self._after = 0 if after > last else after
        return {**config, "deliver_policy": "by_start_sequence", "opt_start_seq": self._after + 1}
