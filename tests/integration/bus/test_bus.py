"""The bus on a real nats-server: no message is lost, and an unreadable one does not stop it."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

from schemas.config import BusConfig
from schemas.messages import Decision, Sample
from services.bus.bus import Bus, Conflict
from services.bus.consumer import Start
from services.bus.envelope import RawMessage
from tests.support.bus_keys import join, publish, sample, take
from tests.support.nats_server import NatsServer
from tests.support.waiting import PATIENCE_S


async def test_a_published_message_is_read_with_its_metadata(nats: NatsServer) -> None:
    """Message, headers, sequence, time and number of deliveries arrive."""
    async with join(nats) as (bus, states):
        assert await publish(bus, sample(1), sample(2)) == [1, 2]
        first, second = await take(bus, 2)
        assert (first.message, first.seq, first.deliveries) == (sample(1), 1, 1)
        assert second.subject == "sluice.sample.v1.line"
        assert second.headers["Nats-Msg-Id"] == sample(2).id
        assert second.headers["traceparent"].startswith("00-")
        assert first.published < second.published
        assert states[-1] is None


async def test_the_same_message_id_is_stored_once(nats: NatsServer) -> None:
    """Two samplers of the same window give one sample."""
    async with join(nats) as (bus, _), join(nats, "other") as (other, _):
        assert await publish(bus, sample(1)) == await publish(other, sample(1))
        stream = await bus.stream_info(Sample)
        assert stream is not None
        assert (stream.first, stream.last) == (1, 1)


async def test_compare_and_set_refuses_a_second_writer(nats: NatsServer) -> None:
    """Only the writer that knows the last message of a subject may add to it."""
    async with join(nats) as (bus, _):
        subject = bus.subjects.sample("line")
        seq = await bus.publish(subject, sample(1), msg_id="a", expect_last=0)
        with pytest.raises(Conflict):
            await bus.publish(subject, sample(2), msg_id="b", expect_last=0)
        with pytest.raises(Conflict):
            await bus.publish(subject, sample(1), msg_id="a", expect_last=0)
        assert await bus.publish(subject, sample(2), msg_id="b", expect_last=seq) == seq + 1


async def test_a_transient_consumer_is_a_durable_one_that_the_server_deletes(nats: NatsServer) -> None:
    """A message is redelivered until it is acknowledged; a minute after its reader left, the consumer is deleted."""
    async with join(nats) as (bus, _), asyncio.timeout(PATIENCE_S):
        await publish(bus, sample(1), sample(2))
        async with aclosing(
            bus.consume(Sample, "own", "test", start="latest", ack_wait=0.2, transient=True)
        ) as messages:
            first, again = await anext(messages), await anext(messages)
            assert (first.seq, again.seq, again.deliveries) == (2, 2, 2)
            await again.ack()
        info = await bus._session.request("CONSUMER.INFO.SLUICE_SAMPLE.own")
        assert info["config"]["inactive_threshold"] == 60 * 10**9


async def test_look_up_last_and_next(nats: NatsServer) -> None:
    """The last message of a subject, and the first one after a position, or None."""
    async with join(nats) as (bus, _):
        await publish(bus, sample(1, "a"), sample(1, "b"), sample(2, "a"))
        at = bus.subjects.sample("a")
        last = await bus.get_last(Sample, at)
        following = await bus.get_next(Sample, at, 1)
        assert last is not None
        assert following is not None
        assert (last.message, last.seq, last.headers["Nats-Msg-Id"]) == (sample(2, "a"), 3, "a:2000000000")
        assert (following.message, following.seq) == (sample(2, "a"), 3)
        assert await bus.get_next(Sample, at, 3) is None
        assert await bus.get_last(Decision, bus.subjects.decision("a")) is None


async def test_a_stretch_is_read_as_it_is_stored(nats: NatsServer) -> None:
    """A reader without a durable position gets raw messages, from a position up to the last one."""
    async with join(nats) as (bus, _):
        await publish(bus, *(sample(n) for n in range(1, 5)))
        await bus._session.send(bus.subjects.sample("line"), b"nonsense")
        await publish(bus, sample(1, "other"), sample(6))
        seen = await stretch(bus, start="all")
        assert [raw.seq for raw in seen] == [1, 2, 3, 4, 5, 6, 7]
        assert seen[4].body == b"nonsense"
        assert seen[0].headers["Nats-Msg-Id"] == sample(1).id
        assert [raw.seq for raw in await stretch(bus, start=3)] == [4, 5, 6, 7]
        assert [raw.seq for raw in await stretch(bus, start=3, subject="sluice.sample.v1.other")] == [6]
        since = datetime.fromtimestamp(seen[5].published // 10**6 / 1e3, UTC)
        assert [raw.seq for raw in await stretch(bus, start=since)][-2:] == [6, 7]


async def test_an_empty_stretch_ends(nats: NatsServer) -> None:
    """An empty stream, no message after the position, or no such stream: the reading ends at once."""
    async with join(nats) as (bus, _):
        assert await stretch(bus, start="all") == []
        await publish(bus, sample(1))
        assert await stretch(bus, start=1) == []
        assert await stretch(bus, start="new") == []
        assert await stretch(bus, start=datetime.now(UTC) + timedelta(hours=1)) == []
        assert await stretch(bus, start="all", subject="sluice.sample.v1.other") == []
    async with Bus.connect(BusConfig(servers=(nats.url,), prefix="elsewhere"), "test", lambda _: None) as bus:
        assert await stretch(bus, start="all") == []
        assert await bus.stream_info(Sample) is None


async def stretch(bus: Bus, *, start: Start, subject: str | None = None) -> list[RawMessage]:
    """Read stored samples up to the last one."""
    async with asyncio.timeout(PATIENCE_S):
        return [raw async for raw in bus.read("sample", start=start, subject=subject)]
