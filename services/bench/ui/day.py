"""Fills streams with messages of the past, each at its time, in minutes instead of a day.

JetStream gives a message the time at which it arrives, but a mirror keeps the times of its origin.  So each stream
begins as a mirror, this module plays the origin over the leaf node protocol, and the stream is promoted at the end.
See ``processInboundMirrorMsg`` in nats-server, and ADR-60 of NATS's architecture for the promotion.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from schemas.config import BusConfig
from schemas.domain import Domain
from schemas.messages import Action, Decision, State, encode
from services.bench.ui.traffic import measure
from services.bus import envelope, streams
from services.bus.connection import Session
from services.bus.subjects import Subjects
from services.control import Controller

_API, _DELIVER = "DAY.API", "DAY.DELIVER"
_PAUSE_BYTES = 4 * 1024 * 1024
_PATIENCE_S = 120.0

Line = tuple[str, int, dict[str, str], bytes]
"""Subject, time in UTC ns, headers, body."""


class _Origin:
    """One stream as it is filled.

    A server that hears nothing from an origin for ten seconds asks for another consumer, from the first message that it
    lacks.  So what is not known to be stored is kept, and sent again.
    """

    def __init__(self, session: Session, leaf: "_Leaf", config: dict[str, Any]) -> None:
        self._session = session
        self._leaf = leaf
        self._config = config
        self._name = f"ORIGIN_{config['name']}"
        self._target = ""
        self._consumer = ""
        self._delivered = 0
        self._kept: list[Line] = []
        """The last of those that were sent."""
        self.sent = 0

    async def open(self) -> None:
        """Create the stream as a mirror, and answer its request for a consumer."""
        left_out = ("subjects", "duplicate_window", "max_age", "allow_direct")
        kept = {key: value for key, value in self._config.items() if key not in left_out}
        mirror = {"name": self._name, "external": {"api": _API, "deliver": _DELIVER}}
        await self._session.request(f"STREAM.CREATE.{self._config['name']}", kept | {"mirror": mirror})
        async with asyncio.timeout(_PATIENCE_S):
            while not self._consumer:
                self._answer()
                await asyncio.sleep(0.01)

    def _answer(self) -> None:
        """If the server has asked for a consumer, create it, and deliver what the server lacks."""
        if (asked := self._leaf.asked.pop(self._name, None)) is None:
            return
        reply, config = asked
        self._target, self._consumer, self._delivered = config["deliver_subject"], config["name"], 0
        none = {"consumer_seq": 0, "stream_seq": 0}
        created = {"type": "io.nats.jetstream.api.v1.consumer_create_response", "created": "2026-01-01T00:00:00Z"}
        consumer = {"stream_name": self._name, "name": self._consumer, "config": config, "num_pending": 0}
        answer = json.dumps(created | consumer | {"delivered": none, "ack_floor": none}).encode()
        self._leaf.writer.write(f"LMSG {reply} {len(answer)}\r\n".encode() + answer + b"\r\n")
        first = self.sent - len(self._kept) + 1
        wanted = max(first, config.get("opt_start_seq", first))
        for number, line in enumerate(self._kept[wanted - first :], wanted):
            self._deliver(number, line)

    def send(self, line: Line) -> None:
        """Deliver one message as a consumer of the origin would."""
        self.sent += 1
        self._kept.append(line)
        self._deliver(self.sent, line)

    def _deliver(self, number: int, line: Line) -> None:
        subject, at, headers, body = line
        self._delivered += 1
        reply = f"$JS.ACK.origin.{self._consumer}.1.{number}.{self._delivered}.{at}.0@{subject}"
        head = "".join(["NATS/1.0\r\n", *(f"{key}: {value}\r\n" for key, value in headers.items()), "\r\n"]).encode()
        start = f"HMSG {self._target} {reply} {len(head)} {len(head) + len(body)}\r\n"
        self._leaf.writer.write(b"".join([start.encode(), head, body, b"\r\n"]))

    async def wait_for_all(self) -> None:
        """Wait until the server has stored all that was sent."""
        info = f"STREAM.INFO.{self._config['name']}"
        async with asyncio.timeout(_PATIENCE_S):
            while (await self._session.request(info))["state"]["last_seq"] < self.sent:
                self._answer()
                await asyncio.sleep(0.1)
        self._kept.clear()

    async def promote(self) -> None:
        """Make a stream of its own of the mirror."""
        await self.wait_for_all()
        await self._session.request(f"STREAM.UPDATE.{self._config['name']}", self._config)


async def fill_streams(bus: BusConfig, leaf_port: int, domains: tuple[Domain, ...], period: int, span: range) -> int:
    """Fill the streams with what the domains would have published.

    Args:
        bus: the server, without streams, and how much they keep.
        leaf_port: where it takes leaf nodes, without compression.
        domains: who speaks.
        period: time between samples of a domain, ns.
        span: from and until when, UTC ns.

    Returns:
        Messages that were sent.
    """
    subjects = Subjects(bus.prefix)
    session = Session(bus, "day", lambda _: None)
    async with session.keep_connected(), _connect_leaf(leaf_port) as leaf:
        configs = {one["name"]: one for one in streams.build_configs(bus, subjects)}
        origins = {
            kind: _Origin(session, leaf, configs[subjects.stream(kind)]) for kind in ("sample", "decision", "action")
        }
        for origin in origins.values():
            await origin.open()
        pending = 0
        for kind, line in _speak(domains, subjects, period, span):
            origins[kind].send(line)
            pending += len(line[3])
            if pending > _PAUSE_BYTES:
                pending = 0
                await leaf.writer.drain()
                for origin in origins.values():
                    await origin.wait_for_all()
        await leaf.writer.drain()
        for origin in origins.values():
            await origin.promote()
        return sum(origin.sent for origin in origins.values())


def _speak(domains: tuple[Domain, ...], subjects: Subjects, period: int, span: range) -> Iterator[tuple[str, Line]]:
    """All messages in the order of their times."""
    chance = random.Random(0)  # noqa: S311 - made-up latencies are no secret
    controllers = [Controller(domain) for domain in domains]
    states: list[State | None] = [None] * len(domains)
    counted = 0
    for end in range(span.start, span.stop, period):
        for index, domain in enumerate(domains):
            at = end + index * period // len(domains)
            sample = measure(domain, at, period, chance)
            decision = controllers[index].step(states[index], sample)
            states[index] = decision.state
            counted += 1
            yield "sample", (subjects.sample(domain.name), at, {envelope.MSG_ID: sample.id}, encode(sample))
            headers = {envelope.MSG_ID: decision.id, envelope.SAMPLE_SEQ: str(counted)}
            yield "decision", (subjects.decision(domain.name), at + 2_000_000, headers, encode(decision))
            for action in _act(decision, at + 10_000_000):
                headers = {envelope.MSG_ID: action.id}
                yield "action", (subjects.action(domain.name, action.target), at + 12_000_000, headers, encode(action))


def _act(decision: Decision, applied: int) -> Iterator[Action]:
    for one in decision.targets:
        if one.limit != one.was:
            yield Action(
                id=f"{decision.id}:{one.target}",
                domain=decision.domain,
                target=one.target,
                cause="decision",
                outcome="applied",
                limit=one.limit,
                was=one.was,
                reason=decision.reason,
                decision=decision.id,
                sampled=decision.end,
                applied=applied,
            )


class _Leaf:
    """A connection as a leaf node."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.asked: dict[str, tuple[str, dict[str, Any]]] = {}
        """By origin, the last request for a consumer: reply subject, its configuration."""
        self._reader = reader

    async def listen(self) -> None:
        """Answer the server's pings, and take its requests."""
        while line := await self._reader.readline():
            command, *words = line.decode().split()
            if command == "PING":
                self.writer.write(b"PONG\r\n")
            elif command == "-ERR":
                raise RuntimeError(f"the server refuses a leaf node: {line.decode().strip()}")
            elif command in ("LMSG", "HMSG"):
                body = (await self._reader.readexactly(int(words[-1]) + 2))[:-2]
                headed = int(words[-2]) if command == "HMSG" else 0
                if ".CONSUMER.CREATE." in words[0]:
                    asked = json.loads(body[headed:])
                    self.asked[asked["stream_name"]] = words[1], asked["config"]


@asynccontextmanager
async def _connect_leaf(port: int) -> AsyncIterator[_Leaf]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    await reader.readline()
    hello = {"server_id": "DAY", "name": "day", "headers": True, "compression": "off", "proto": 1}
    writer.write(b"CONNECT " + json.dumps(hello).encode() + f"\r\nPING\r\nLS+ {_API}.>\r\n".encode())
    leaf = _Leaf(reader, writer)
    listening = asyncio.create_task(leaf.listen())
    try:
        await asyncio.sleep(0.5)
        yield leaf
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        writer.close()
