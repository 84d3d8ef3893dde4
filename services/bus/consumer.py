"""Reads one stream through a JetStream pull consumer: creates it, requests messages, and recreates it when it is lost.

A reader requests messages in batches, and the server answers with messages and with status messages.
``PullState`` counts them, without I/O.  Readers that share a consumer have priorities (``Share``).
"""

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from services.bus.connection import ApiError, Denied, Disconnected, ErrorCode, Msg, Session
from services.bus.envelope import Delivery, RawMessage
from services.bus.sharing import Share
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
_SHARED_CHECK_S = 30.0
_GROUP = "replicas"
_SHARED_EXPIRES_S, _SHARED_EVERY_S = 1.0, 0.4
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
        self._open.append([now + _SHARED_EXPIRES_S, self._batch])
        self._due = now + _SHARED_EVERY_S
        return self._batch

    def record_delivery(self, delivery: Delivery) -> int:
        """Count a message to the oldest request that may bring it."""
        for request in self._open:
            if request[1]:
                request[1] -= 1
                break
        return super().record_delivery(delivery)


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
    share: Share | None = None


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
        self._bound = 0
        """The version of shared subjects that the consumer was given."""
        self._check_at = 0.0
        """When to look at the consumer's subjects again, s by a steady clock."""

    async def deliver(self) -> AsyncGenerator[PulledMessage, None]:
        """Every message; resumes after the connection, the server, the stream or the consumer was lost."""
        back_off = BackOff()
        while True:
            after, share = self._after, self._spec.share
            try:
                if share is not None and share.subjects is not None:
                    await share.subjects.some.wait()  # without a subject, a consumer reads all of them
                connection = await self._session.connection()
                name = await self._bind_subjects()
                incoming: asyncio.Queue[Msg | Exception] = asyncio.Queue()
                subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._spec.stream}.{name}"
                async with (
                    connection.subscribe_replies(subject, incoming.put, incoming.put_nowait) as request,
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
        share = self._spec.share
        state = PullState(self._spec.batch) if share is None else SharedPullState(self._spec.batch)
        limits, pause_s, silence_s = _build_limits(share)
        heard = time.monotonic()
        self._check_at = heard + _SHARED_CHECK_S
        try:
            while share is None or await self._keep_subjects(share):
                if batch := state.request_more(incoming.qsize()):
                    await request(json.dumps({"batch": batch, **limits}).encode())
                try:
                    if incoming.empty():
                        async with asyncio.timeout(pause_s):
                            message = await incoming.get()
                    else:
                        message = incoming.get_nowait()
                except TimeoutError:
                    if time.monotonic() - heard > silence_s:
                        silence = f"no message and no heartbeat from the server for {max(pause_s, silence_s):g} s"
                        raise ConsumerLost(silence) from None
                    continue
                heard = time.monotonic()
                if isinstance(message, Exception):
                    raise message
                headers = message.headers or {}
                if not message.reply and state.record_status(headers) and self._spec.durable and share is None:
                    await self._bind()  # somebody may have paused the consumer, or pointed it elsewhere
                self._session.clear_problem(self._what)
                if message.reply:
                    delivery = Delivery.parse(message.reply)
                    raw = RawMessage(message.subject, headers, message.data, delivery.seq, delivery.published)
                    yield PulledMessage(raw, delivery, state.record_delivery(delivery), message.reply)
        finally:
            if self._spec.durable and not (share is not None and share.takes_turns):
                await self._give_back(incoming)

    async def _give_back(self, incoming: "asyncio.Queue[Msg | Exception]") -> None:
        """Return what was not processed, so that another reader gets it now and not after ``ack_wait``."""
        while not incoming.empty():
            rest = incoming.get_nowait()
            if isinstance(rest, Msg) and rest.reply:
                await self._session.send(rest.reply, b"-NAK")

    async def _keep_subjects(self, share: Share) -> bool:
        """Let the consumer read what is shared by now, and look again now and then; gives whether there is anything."""
        subjects = share.subjects
        has_any = subjects is None or bool(subjects)
        is_other = subjects is not None and subjects.version != self._bound
        if has_any and (is_other or time.monotonic() > self._check_at):
            await self._bind_subjects()
            self._check_at = time.monotonic() + _SHARED_CHECK_S
        return has_any

    async def _bind_subjects(self) -> str:
        """Bind, and tell who waits for it that the consumer reads its subjects."""
        name = await self._bind()
        if self._spec.share is not None and self._spec.share.subjects is not None:
            self._spec.share.subjects.note_read(self._bound)
        return name

    async def _bind(self) -> str:
        """Create the consumer, or correct the subject of the one that exists; gives its name."""
        spec, durable = self._spec, self._spec.durable
        name = durable or f"reader-{secrets.token_hex(8)}"
        info = await self._session.find(f"CONSUMER.INFO.{spec.stream}.{name}") if durable else None
        if info is None:
            action, config = "create", await self._build_config(name)
        else:
            action, config = "update", info["config"]
            if info.get("paused"):
                # Paused, or with another subject, the reader would receive nothing, and no error would show it.
                self._session.report_problem(self._what, f"consumer {name} is paused: it goes on")
                await self._session.request(f"CONSUMER.PAUSE.{spec.stream}.{name}")
            if not self._correct_subjects(name, config):
                return name
        request = {"stream_name": spec.stream, "config": config, "action": action}
        where = name if "filter_subjects" in config else f"{name}.{spec.pattern}"
        try:
            await self._session.request(f"CONSUMER.CREATE.{spec.stream}.{where}", request)
        except ApiError as error:
            if error.code != ErrorCode.CONSUMER_EXISTS:
                raise
            if spec.share is not None:
                return await self._bind()  # another sharer was faster, and may read other subjects
        return name

    def _correct_subjects(self, name: str, config: dict[str, Any]) -> bool:
        """Set what an existing consumer should read in its configuration; gives whether it reads something else."""
        found, share = config.pop("filter_subjects", None) or config.get("filter_subject"), self._spec.share
        if share is not None and share.subjects is not None:
            self._bound = share.subjects.version
            config.pop("filter_subject", None)
            known = [found] if isinstance(found, str) else found or []
            config["filter_subjects"] = share.subjects.merge(known)
            return bool(config["filter_subjects"] != sorted(known))
        if found == self._spec.pattern:
            return False
        self._session.report_problem(
            self._what, f"consumer {name} reads {found} instead of {self._spec.pattern}: it is corrected"
        )
        config["filter_subject"] = self._spec.pattern
        return True

    async def _build_config(self, name: str) -> dict[str, Any]:
        spec = self._spec
        config: dict[str, Any] = {"name": name, "filter_subject": spec.pattern, "ack_policy": "none"}
        if spec.durable:
            config |= {"durable_name": name, "ack_policy": "explicit", "ack_wait": int(spec.ack_wait * 1e9)}
            config |= {"max_deliver": -1, "max_ack_pending": _MAX_UNACKNOWLEDGED}
        if spec.transient or not spec.durable:
            config |= {"inactive_threshold": _INACTIVE_NS, "mem_storage": True}
        if spec.share is not None:
            config |= {"priority_groups": [_GROUP], "priority_policy": "prioritized"}
            if spec.share.takes_turns:
                config["max_ack_pending"] = 1
            if spec.share.subjects is not None:
                self._bound = spec.share.subjects.version
                del config["filter_subject"]
                config["filter_subjects"] = spec.share.subjects.merge(())
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


def _build_limits(share: Share | None) -> tuple[dict[str, Any], float, float]:
    """What each request says, how long to wait before the next, and after which silence the consumer is lost, s."""
    if share is None:
        # The server breaks every silence.
        limits = {"expires": int(_EXPIRES_S * 1e9), "idle_heartbeat": int(_HEARTBEAT_S * 1e9)}
        return limits, 2 * _HEARTBEAT_S, 1.9 * _HEARTBEAT_S
    shared = {"expires": int(_SHARED_EXPIRES_S * 1e9), "group": _GROUP, "priority": share.priority}
    return shared, _SHARED_EVERY_S / 2, 3 * _SHARED_EXPIRES_S
