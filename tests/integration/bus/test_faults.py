"""Faults of the bus from outside: no acknowledged message is lost, other work continues, and the fault is reported."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from nats.aio.client import Client

from schemas.config import BusConfig
from schemas.messages import DeadLetter, Sample, encode
from services.bus import consumer
from services.bus.bus import Bus, Conflict, Received, TooLarge, Unreadable
from services.bus.connection import ApiError
from services.bus.envelope import RawMessage
from tests.support.bus_keys import join, publish, sample, take
from tests.support.fault_tally import Broken, Tally
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S


@asynccontextmanager
async def stranger(server: NatsServer) -> AsyncIterator[Client]:
    """A plain client, for operations that Sluice does not perform."""
    client = Client()
    await client.connect(server.url)
    try:
        yield client
    finally:
        await client.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for an effect of another task or the server."""
    while not condition():  # noqa: ASYNC110 - what changes is no event of ours
        await asyncio.sleep(0.02)


async def send_request(client: Client, what: str, request: dict[str, object] | None = None) -> dict[str, object]:
    """Send a request to JetStream's API."""
    answer = await client.request(
        f"$JS.API.{what}", json.dumps(request).encode() if request else b"", timeout=PATIENCE_S
    )
    answer_body: dict[str, object] = json.loads(answer.data)
    assert "error" not in answer_body, answer_body
    return answer_body


def make_malformed(chance: random.Random) -> bytes:
    """An invalid sample: noise, half a sample, a sample with one wrong value, or too deep."""
    good = encode(sample(chance.randrange(1, 1000)))
    match chance.randrange(6):
        case 0:
            return chance.randbytes(chance.randrange(200))
        case 1:
            return good[: chance.randrange(len(good))]
        case 2:
            return good.replace(b'"end":', b'"end":"x",', 1)
        case 3:
            return good[:-1] + b',"v":7}'
        case 4:
            return good.replace(b'"test"', chance.choice([b"null", b"1", b"[]", b"{}", b'"\xff"']), 1)
    return b'{"domain":' + b"[" * chance.randrange(1, 100_000)


async def test_unreadable_messages_are_put_aside_and_stop_nothing(nats: NatsServer, tally: Tally) -> None:
    """Malformed messages between good ones: each becomes a dead letter once, and each good one arrives."""
    chance = random.Random(1)
    bad = [make_malformed(chance) for _ in range(10_000)]
    async with join(nats) as (bus, _), stranger(nats) as client:
        for n, body in enumerate(bad, start=1):
            await client.publish(bus.subjects.sample("line"), body)
            if n % 100 == 0:
                await publish(bus, sample(n // 100))
        await client.drain()
        await publish(bus, sample(101))
        received = await take(bus, 101)
        assert [one.message for one in received] == [sample(n) for n in range(1, 102)]
        async with asyncio.timeout(PATIENCE_S):
            while await bus.ack_floor(Sample, "reader") < len(bad) + 101:  # noqa: ASYNC110 - the server's
                await asyncio.sleep(0.05)
        letters = await bus.stream_info(DeadLetter)
        assert letters is not None
        assert letters.last == len(bad)
        last = await bus.get_last(DeadLetter, bus.subjects.dead("test"))
        assert last is not None
        assert last.message.service == "test"
        assert "Sample" in last.message.reason
    tally.add("malformed and adversarial messages", f"{len(bad)} samples", Broken(lost=101 - len(received)))


async def test_a_reader_of_its_own_passes_over_what_it_cannot_read(nats: NatsServer) -> None:
    """A read-only reader leaves nothing on the bus."""
    async with join(nats) as (bus, _):
        await publish(bus, sample(1))
        await bus._session.send(bus.subjects.sample("line"), b"nonsense")
        await publish(bus, sample(2))
        assert [one.message for one in await take(bus, 2, durable=None)] == [sample(1), sample(2)]
        letters = await bus.stream_info(DeadLetter)
        assert letters is not None
        assert letters.last == 0


async def test_looking_up_an_unreadable_message_gives_its_position(nats: NatsServer) -> None:
    """The caller can make it a dead letter and continue after it."""
    async with join(nats) as (bus, _):
        await publish(bus, sample(1))
        await bus._session.send(bus.subjects.sample("line"), b"nonsense")
        await publish(bus, sample(2))
        with pytest.raises(Unreadable) as caught:
            await bus.get_next(Sample, bus.subjects.sample("line"), 1)
        assert caught.value.raw.body == b"nonsense"
        assert caught.value.raw.seq == 2


async def test_a_message_that_is_too_large_is_refused_at_both_ends(nats: NatsServer) -> None:
    """The server's stream refuses it when published, and the reader refuses it from a foreign stream."""
    large = Sample("line", 0, 1, 1, "x" * 600_000)
    async with join(nats) as (bus, _):
        with pytest.raises(TooLarge, match="maximum"):
            await publish(bus, large)
        with pytest.raises(TooLarge):
            await publish(bus, Sample("line", 0, 1, 1, "x" * 2_000_000))
        await publish(bus, sample(1))
    nats.stop()
    nats.wipe()
    nats.start()
    settings = BusConfig(servers=(nats.url,))
    async with stranger(nats) as client, Bus.connect(settings, "test", lambda _: None) as bus:
        await send_request(
            client, "STREAM.CREATE.SLUICE_SAMPLE", {"name": "SLUICE_SAMPLE", "subjects": ["sluice.sample.v1.>"]}
        )
        await bus.ensure_streams()
        await publish(bus, large, sample(1))
        assert [one.message for one in await take(bus, 1)] == [sample(1)]
        letter = await bus.get_last(DeadLetter, bus.subjects.dead("test"))
        assert letter is not None
        assert letter.message.reason == f"{len(encode(large))} bytes, at most 524288 are read"


async def test_a_stream_with_another_configuration_is_reported_and_left_alone(nats: NatsServer) -> None:
    """A stream that was set up by hand stays, with its messages."""
    async with stranger(nats) as client:
        theirs = {
            "name": "SLUICE_SAMPLE",
            "subjects": ["sluice.sample.v1.>"],
            "max_age": 60 * 10**9,
            "max_bytes": 10**6,
        }
        await send_request(client, "STREAM.CREATE.SLUICE_SAMPLE", {**theirs, "duplicate_window": 10**9})
        await client.publish("sluice.sample.v1.line", encode(sample(1)))
        await client.flush()
        async with Bus.connect(BusConfig(servers=(nats.url,)), "test", lambda _: None) as bus:
            reports = await bus.ensure_streams()
            assert len(reports) == 1
            assert "stream SLUICE_SAMPLE exists with max_age 60000000000, max_bytes 1000000" in reports[0]
            assert "max_age 86400000000000, max_bytes 268435456" in reports[0]
            info = await send_request(client, "STREAM.INFO.SLUICE_SAMPLE")
            assert info["config"]["max_age"] == 60 * 10**9  # type: ignore[index]
            assert (await take(bus, 1))[0].message == sample(1)


async def test_a_stream_that_cannot_be_made_is_reported(nats: NatsServer) -> None:
    """More replicas than servers, or a subject that belongs to another stream."""
    async with stranger(nats) as client:
        await send_request(client, "STREAM.CREATE.OTHER", {"name": "OTHER", "subjects": ["sluice.decision.>"]})
        async with Bus.connect(BusConfig(servers=(nats.url,)), "test", lambda _: None) as bus:
            reports = await bus.ensure_streams()
            assert [report.split(":")[0] for report in reports] == ["stream SLUICE_DECISION"]
            assert "overlap" in reports[0]
    async with Bus.connect(BusConfig(servers=(nats.url,), prefix="three", replicas=3), "t", lambda _: None) as bus:
        assert all("replicas > 1 not supported" in report for report in await bus.ensure_streams())


Break = Callable[[NatsServer, Client], Awaitable[None]]


async def restart(server: NatsServer, _: Client) -> None:
    """The server stops in order and starts again."""
    server.stop()
    server.start()


async def crash(server: NatsServer, _: Client) -> None:
    """The server is killed and starts again."""
    server.stop(kill=True)
    server.start()


async def no_consumer(_: NatsServer, client: Client) -> None:
    """Another client deletes the durable consumer."""
    await send_request(client, "CONSUMER.DELETE.SLUICE_SAMPLE.reader")


async def lame_duck(server: NatsServer, client: Client) -> None:
    """The server disconnects every client."""
    server.stop()
    await asyncio.sleep(0.3)
    server.start()


@pytest.mark.parametrize("fault", [restart, crash, no_consumer, lame_duck])
async def test_nothing_is_lost_over_a_fault(nats: NatsServer, tally: Tally, fault: Break) -> None:
    """Publisher and reader continue; every acknowledged sample is read."""
    read: set[int] = set()
    total = 300
    async with join(nats) as (bus, states), join(nats, "reader") as (reader, _):

        async def reading() -> None:
            async with aclosing(reader.consume(Sample, "reader", "test", ack_wait=2)) as messages:
                async for one in messages:
                    read.add(one.message.end)
                    await one.ack()
                    if len(read) == total:
                        return

        async def publishing() -> None:
            for n in range(1, total + 1):
                await publish(bus, sample(n))
                await asyncio.sleep(0.005)

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            group.create_task(reading())
            group.create_task(publishing())
            for _ in range(3):
                await asyncio.sleep(0.3)
                # A separate client, because the server disconnects this one, too.
                async with stranger(nats) as client:
                    await fault(nats, client)
        lost = {sample(n).end for n in range(1, total + 1)} - read
        assert states[-1] is None
        stored = await bus.stream_info(Sample)
        assert stored is not None
        assert stored.last == total
    tally.add("nats-server killed and restarted", f"3 faults, {total} samples", Broken(lost=len(lost)))


async def test_a_deleted_stream_is_recreated_by_publisher_and_reader(nats: NatsServer) -> None:
    """Its old messages are lost; later ones are read."""
    async with join(nats) as (bus, states), stranger(nats) as client:
        async with asyncio.timeout(PATIENCE_S), aclosing(bus.consume(Sample, "reader", "test")) as messages:
            await publish(bus, sample(1))
            assert (await anext(messages)).message == sample(1)
            await send_request(client, "STREAM.DELETE.SLUICE_SAMPLE")
            next_one = asyncio.create_task(anext(messages))
            assert await publish(bus, sample(2)) == [1]
            assert (await next_one).message == sample(2)
        # The first to notice reports it: the reader's missing consumer, or the publisher's missing stream.
        assert any(state is not None and ("no stream" in state or "Consumer Deleted" in state) for state in states)
        assert states[-1] is None


async def test_a_server_that_is_not_there_yet_is_waited_for(nats: NatsServer) -> None:
    """A service may start before its bus; it reports why it waits."""
    nats.stop()
    states: list[str | None] = []
    async with asyncio.timeout(PATIENCE_S):
        waiting = asyncio.create_task(_join_at_last(nats, states))
        await until(lambda: bool(states))
        assert states[0] is not None
        assert nats.url in states[0]
        nats.start()
        await waiting
    assert states[-1] is None


async def _join_at_last(server: NatsServer, states: list[str | None]) -> None:
    async with Bus.connect(BusConfig(servers=(server.url,)), "test", states.append) as bus:
        await bus.ensure_streams()
        await publish(bus, sample(1))


async def test_the_second_server_is_taken_where_the_first_is_gone(nats: NatsServer) -> None:
    """The addresses are alternatives."""
    settings = BusConfig(servers=(f"nats://127.0.0.1:{free_port()}", nats.url))
    async with asyncio.timeout(PATIENCE_S), Bus.connect(settings, "test", lambda _: None) as bus:
        await bus.ensure_streams()
        assert await publish(bus, sample(1)) == [1]


async def test_what_is_not_acknowledged_comes_again(nats: NatsServer) -> None:
    """After the wait, or at once on request; the number of deliveries shows it."""
    async with join(nats) as (bus, _):
        await publish(bus, sample(1))
        # Far longer than the test's timeout, so a redelivery before then was requested.
        patient = bus.consume(Sample, "patient", "test", ack_wait=10 * PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S), aclosing(patient) as messages:
            await (await anext(messages)).nak()
            again = await anext(messages)
            assert (again.seq, again.deliveries) == (1, 2)
            await again.nak(0.05)
            third = await anext(messages)
            assert (third.seq, third.deliveries) == (1, 3)
            await third.ack()
        brief = bus.consume(Sample, "brief", "test", ack_wait=0.2)
        async with asyncio.timeout(PATIENCE_S), aclosing(brief) as messages:
            assert (await anext(messages)).deliveries == 1
            late = await anext(messages)
            assert (late.seq, late.deliveries) == (1, 2)
            await late.ack()


async def test_two_readers_of_one_consumer_know_what_went_to_the_other(nats: NatsServer) -> None:
    """Each message goes to one of them, and ``since`` never covers a message that went to the other."""
    async with join(nats) as (bus, _), join(nats, "other") as (other, _):
        own: dict[str, list[Received[Sample]]] = {"one": [], "two": []}

        async def reading(name: str, at: Bus) -> None:
            async with aclosing(at.consume(Sample, "shared", "test", batch=4)) as messages:
                async for one in messages:
                    own[name].append(one)
                    await one.ack()
                    if sum(map(len, own.values())) == 200:
                        return

        readers = [asyncio.create_task(reading("one", bus)), asyncio.create_task(reading("two", other))]
        await publish(bus, *(sample(n) for n in range(1, 201)))
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
        for reader in readers:
            reader.cancel()
        assert sorted(one.seq for received in own.values() for one in received) == list(range(1, 201))
        assert all(own.values()), {name: len(received) for name, received in own.items()}
        for received in own.values():
            seen = {one.seq for one in received}
            for one in received:
                assert set(range(one.since, one.seq + 1)) <= seen


@pytest.mark.parametrize(
    ("start", "expected"), [("all", [1, 2, 3, 4]), ("latest", [3, 4]), (2, [3, 4]), (99, [1, 2, 3, 4])]
)
async def test_where_a_new_consumer_begins(nats: NatsServer, start: str | int, expected: list[int]) -> None:
    """At the beginning, at the latest of each subject, or after a sequence, if the stream has that sequence."""
    async with join(nats) as (bus, _):
        await publish(bus, sample(1), sample(2), sample(3), sample(1, "other"))
        for begin in (start, _make_start(start)) if isinstance(start, int) else (start,):
            durable = f"r-{isinstance(begin, int)}"
            received = []
            async with asyncio.timeout(PATIENCE_S):
                async with aclosing(bus.consume(Sample, durable, "test", start=begin)) as messages:  # type: ignore[arg-type]
                    async for one in messages:
                        received.append(one.seq)
                        await one.ack()
                        if len(received) == len(expected):
                            break
            assert received == expected


def _make_start(start: int) -> Callable[[], Awaitable[int]]:
    async def compute() -> int:
        return start

    return compute


async def test_a_computed_start_is_asked_for_only_when_the_consumer_is_made(nats: NatsServer) -> None:
    """Afterwards the durable consumer stores its position."""
    asked_for = 0

    async def compute() -> int:
        nonlocal asked_for
        asked_for += 1
        return 0

    async with join(nats) as (bus, _):
        await publish(bus, sample(1), sample(2))
        for _ in range(2):
            async with asyncio.timeout(PATIENCE_S), aclosing(bus.consume(Sample, "r", "t", start=compute)) as messages:
                await (await anext(messages)).ack()
    assert asked_for == 1


async def test_a_reader_of_its_own_goes_on_where_it_was(nats: NatsServer) -> None:
    """Its consumer does not survive the server's restart, but its position does."""
    async with join(nats) as (bus, _):
        await publish(bus, sample(1), sample(2))
        async with asyncio.timeout(PATIENCE_S), aclosing(bus.consume(Sample, None, "test")) as messages:
            assert [(await anext(messages)).message for _ in range(2)] == [sample(1), sample(2)]
            nats.stop(kill=True)
            nats.start()
            next_one = asyncio.create_task(anext(messages))
            await publish(bus, sample(3))
            assert (await next_one).message == sample(3)


async def test_a_consumer_that_was_pointed_elsewhere_is_put_right(nats: NatsServer) -> None:
    """It would receive nothing: the service reports and corrects it, and reads the messages that arrived meanwhile."""
    async with join(nats) as (bus, states), stranger(nats) as client, asyncio.timeout(PATIENCE_S):
        await publish(bus, sample(1))
        await take(bus, 1)
        config = (await send_request(client, "CONSUMER.INFO.SLUICE_SAMPLE.reader"))["config"]
        unused = "sluice.sample.v1.nobody"
        request: dict[str, object] = {"stream_name": "SLUICE_SAMPLE", "action": "update"}
        request["config"] = {**config, "filter_subject": unused}  # type: ignore[dict-item]
        await send_request(client, f"CONSUMER.CREATE.SLUICE_SAMPLE.reader.{unused}", request)
        await publish(bus, sample(2), sample(3))
        assert [one.message for one in await take(bus, 2)] == [sample(2), sample(3)]
        assert states[-2:] == [f"consumer reader reads {unused} instead of sluice.sample.v1.>: it is corrected", None]


@pytest.mark.parametrize("reads", [False, True])
async def test_a_paused_consumer_goes_on(nats: NatsServer, monkeypatch: pytest.MonkeyPatch, reads: bool) -> None:
    """Paused for an hour, it delivers nothing, and sends heartbeats: the service reports it, and lifts the pause."""
    monkeypatch.setattr(consumer, "_EXPIRES_S", 1.0)
    monkeypatch.setattr(consumer, "_HEARTBEAT_S", 0.4)
    pause: dict[str, object] = {"pause_until": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
    async with join(nats) as (bus, states), stranger(nats) as client, asyncio.timeout(PATIENCE_S):
        await publish(bus, sample(1))
        await take(bus, 1)
        if not reads:
            await send_request(client, "CONSUMER.PAUSE.SLUICE_SAMPLE.reader", pause)
        reading = asyncio.create_task(take(bus, 1))
        if reads:
            await asyncio.sleep(0.3)
            await send_request(client, "CONSUMER.PAUSE.SLUICE_SAMPLE.reader", pause)
        await publish(bus, sample(2))
        assert [one.message for one in await reading] == [sample(2)]
        assert any("consumer reader is paused" in str(state) for state in states)


async def test_retries_of_a_lost_acknowledgement_store_one_message(nats: NatsServer) -> None:
    """The publisher retries with the same id; with an expected last sequence the retry is a conflict."""
    async with join(nats) as (bus, _):
        first = await publish(bus, sample(1))
        assert await publish(bus, sample(1)) == first
        subject = bus.subjects.sample("line")
        await bus.publish(subject, sample(2), msg_id="x", expect_last=first[0])
        with pytest.raises(Conflict):
            await bus.publish(subject, sample(2), msg_id="x", expect_last=first[0])
        stored = await bus.stream_info(Sample)
        assert stored is not None
        assert stored.last == 2


async def test_a_full_server_is_reported_until_it_takes_messages_again(nats: NatsServer) -> None:
    """The publisher waits, reports the reason, and continues."""
    async with join(nats) as (bus, states), stranger(nats) as client:
        info = await send_request(client, "STREAM.INFO.SLUICE_SAMPLE")
        config = info["config"]
        full = {**config, "discard": "new", "max_msgs": 1}  # type: ignore[dict-item]
        await send_request(client, "STREAM.UPDATE.SLUICE_SAMPLE", full)
        await publish(bus, sample(1))
        waiting = asyncio.create_task(publish(bus, sample(2)))
        async with asyncio.timeout(PATIENCE_S):
            await until(lambda: states[-1] is not None)
            assert "maximum messages exceeded" in str(states[-1])
            await send_request(client, "STREAM.UPDATE.SLUICE_SAMPLE", config)  # type: ignore[arg-type]
            assert await waiting == [2]
        assert states[-1] is None


async def test_a_permanent_api_error_is_raised(nats: NatsServer) -> None:
    """A wrong request is a programming error, not a reason to wait."""
    async with join(nats) as (bus, _):
        with pytest.raises(ApiError):
            await bus._session.request("CONSUMER.CREATE.SLUICE_SAMPLE.x", {"stream_name": "OTHER", "config": {}})


async def test_problems_of_finished_requests_are_cleared(nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that hangs is reported only while a caller waits for it: a dead letter, a request, a late writer."""
    monkeypatch.setattr("services.bus.bus._DEAD_LETTER_S", 4.0)
    async with join(nats) as (bus, states), asyncio.timeout(PATIENCE_S):
        (seq,) = await publish(bus, sample(1))
        subject = bus.subjects.sample("line")
        letter = RawMessage(subject, {}, b"junk", seq, 1)
        nats.freeze()
        burying = asyncio.create_task(bus.dead_letter("test", letter, "not a Sample"))
        asking = asyncio.create_task(bus.ack_floor(Sample, "nobody"))
        writing = asyncio.create_task(bus.publish(subject, sample(2), msg_id="late", expect_last=seq + 1))
        for what in (bus.subjects.dead("test"), "CONSUMER.INFO", subject):
            await until(lambda: any(what in (state or "") for state in states))  # noqa: B023
        await burying
        assert bus.subjects.dead("test") not in (states[-1] or "")
        nats.thaw()
        assert await asking == 0
        with pytest.raises(Conflict):
            await writing
        assert states[-1] is None
