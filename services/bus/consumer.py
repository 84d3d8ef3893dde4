"""Reads one stream through a pull consumer, for ever: creates it, asks, and starts over when it is gone."""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from services.bus.connection import Denied, LinkDown, Msg
from services.bus.envelope import Delivery, Raw
from services.bus.pull_state import EXPIRES_S, HEARTBEAT_S, Lost, Pull
from services.bus.session import ApiError, BackOff, Session

Start = Literal["all", "new", "latest"] | int | datetime | Callable[[], Awaitable[int]]
"""Where a new consumer begins; see ``Bus.consume``."""

_EXISTS = 10148
_NOT_FOUND = 10014
_STREAM_NOT_FOUND = 10059
_UNWATCHED_NS = 60 * 10**9
"""A consumer that outlives no reader is dropped by the server when that was away so long."""
_MAX_UNACKNOWLEDGED = 8192


@dataclass(frozen=True, slots=True)
class Taken:
    """One delivery."""

    raw: Raw
    delivery: Delivery
    since: int
    reply: str


@dataclass(frozen=True)
class Reading:
    """What is read, and how."""

    stream: str
    durable: str | None
    pattern: str
    start: Start
    batch: int
    ack_wait: float
    fleeting: bool = False
    """Whether a durable consumer does not outlive its reader, either."""


class Consumer:
    """One reader of one stream."""

    def __init__(self, session: Session, reading: Reading, mend: Callable[[], Awaitable[object]]) -> None:
        """``mend`` is called when the stream is missing, to create it."""
        self._session = session
        self._reading = reading
        self._mend = mend
        self._what = f"reading {reading.stream}"
        self._after: int | None = None

    async def taken(self) -> AsyncGenerator[Taken, None]:
        """Every message; comes back by itself when connection, server, stream or consumer were gone."""
        back_off = BackOff()
        while True:
            try:
                link = await self._session.link()
                name = await self._bound()
                incoming: asyncio.Queue[Msg | Exception] = asyncio.Queue()
                subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._reading.stream}.{name}"
                async with (
                    link.asking(subject, incoming.put_nowait) as ask,
                    aclosing(self._pulled(ask, incoming)) as deliveries,
                ):
                    async for one in deliveries:
                        back_off = BackOff()
                        self._after = one.raw.seq
                        yield one
            except (Lost, LinkDown, ApiError, Denied) as error:
                if isinstance(error, ApiError) and error.code == _STREAM_NOT_FOUND:
                    await self._mend()
                self._session.troubled(self._what, str(error))
            await back_off.wait()

    async def _pulled(
        self, ask: Callable[[bytes], Awaitable[None]], incoming: "asyncio.Queue[Msg | Exception]"
    ) -> AsyncGenerator[Taken, None]:
        pull = Pull(self._reading.batch)
        try:
            while True:
                wanted = pull.wanted(incoming.qsize())
                if wanted:
                    await ask(_request(wanted))
                message = await _next(incoming)
                headers = message.headers or {}
                if not message.reply:
                    pull.status(headers)
                self._session.recovered(self._what)
                if message.reply:
                    delivery = Delivery.parse(message.reply)
                    raw = Raw(message.subject, headers, message.data, delivery.seq, delivery.published)
                    yield Taken(raw, delivery, pull.arrived(delivery), message.reply)
        finally:
            await self._return(incoming)

    async def _return(self, incoming: "asyncio.Queue[Msg | Exception]") -> None:
        """Give back what nobody took, so that it does not wait to be missed before another reader gets it."""
        while self._reading.durable and not incoming.empty():
            message = incoming.get_nowait()
            if isinstance(message, Msg) and message.reply:
                await self._session.send(message.reply, b"-NAK")

    async def _bound(self) -> str:
        """The consumer's name; creates it when it is not there, and puts right what it reads."""
        reading = self._reading
        found = await self._found(reading.durable) if reading.durable else None
        if reading.durable and found is not None:
            await self._put_right(reading.durable, found)
            return reading.durable
        name = reading.durable or f"reader-{secrets.token_hex(8)}"
        config: dict[str, Any] = {"name": name, "filter_subject": reading.pattern, **await self._beginning()}
        if reading.durable:
            config |= {"durable_name": name, "ack_policy": "explicit", "ack_wait": int(reading.ack_wait * 1e9)}
            config |= {"max_deliver": -1, "max_ack_pending": _MAX_UNACKNOWLEDGED}
        else:
            config |= {"ack_policy": "none"}
        if reading.fleeting or not reading.durable:
            config |= {"inactive_threshold": _UNWATCHED_NS, "mem_storage": True}
        try:
            await self._write(name, config, "create")
        except ApiError as error:
            if error.code != _EXISTS:
                raise
        return name

    async def _found(self, name: str) -> dict[str, Any] | None:
        """The configuration of a consumer that exists."""
        try:
            answer = await self._session.api(f"CONSUMER.INFO.{self._reading.stream}.{name}")
        except ApiError as error:
            if error.code != _NOT_FOUND:
                raise
            return None
        config: dict[str, Any] = answer["config"]
        return config

    async def _put_right(self, name: str, found: dict[str, Any]) -> None:
        """A consumer that reads other subjects would be silent for ever, and nothing would look wrong."""
        reads = found.pop("filter_subjects", None) or found.get("filter_subject")
        if reads == self._reading.pattern:
            return
        self._session.troubled(
            self._what, f"consumer {name} read {reads}, not {self._reading.pattern}: it is put right"
        )
        await self._write(name, {**found, "filter_subject": self._reading.pattern}, "update")

    async def _write(self, name: str, config: dict[str, Any], action: Literal["create", "update"]) -> None:
        reading = self._reading
        request = {"stream_name": reading.stream, "config": config, "action": action}
        await self._session.api(f"CONSUMER.CREATE.{reading.stream}.{name}.{reading.pattern}", request)

    async def _beginning(self) -> dict[str, Any]:
        start = self._reading.start
        if not self._reading.durable and self._after is not None:
            start = self._after
        if start == "latest":
            return {"deliver_policy": "last_per_subject"}
        if start == "all":
            return {"deliver_policy": "all"}
        if isinstance(start, datetime):
            return {"deliver_policy": "by_start_time", "opt_start_time": start.isoformat()}
        last = int((await self._session.api(f"STREAM.INFO.{self._reading.stream}"))["state"]["last_seq"])
        after = last if start == "new" else start if isinstance(start, int) else await start()
        # A position beyond the end is one in a stream that was there before.
        self._after = 0 if after > last else after
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": self._after + 1}


def _request(batch: int) -> bytes:
    return json.dumps(
        {"batch": batch, "expires": int(EXPIRES_S * 1e9), "idle_heartbeat": int(HEARTBEAT_S * 1e9)}
    ).encode()


async def _next(incoming: "asyncio.Queue[Msg | Exception]") -> Msg:
    if incoming.empty():
        try:
            async with asyncio.timeout(2 * HEARTBEAT_S):
                message = await incoming.get()
        except TimeoutError:
            raise Lost(f"not a word from the server for {2 * HEARTBEAT_S:g} s") from None
    else:
        message = incoming.get_nowait()
    if isinstance(message, Exception):
        raise message
    return message
