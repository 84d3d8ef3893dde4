"""Features that nats-py's JetStream context lacks: the reasons of docs/decisions/0006-why-not-the-library.md.

A failure here means that the library has improved, and the record may be out of date.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

from nats.aio.client import Client
from nats.errors import Error
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.client import JetStreamContext

from tests.support.nats_server import NatsServer
from tests.support.waiting import until

USERS = """
authorization {
  users: [
    { user: admin, password: secret }
    { user: watcher, password: secret, permissions: { publish: ["$JS.API.STREAM.INFO.*"] } }
  ]
}
"""
FETCH_S = 3.0


@asynccontextmanager
async def open_context(server: NatsServer, user: str = "admin") -> AsyncIterator[tuple[JetStreamContext, list[str]]]:
    """A JetStream context of nats-py with a stream, and the errors that the client's callback received."""
    errors: list[str] = []

    async def on_error(error: Exception) -> None:
        errors.append(str(error))

    client = Client()
    await client.connect(server.url, user=user, password="secret", allow_reconnect=False, error_cb=on_error)
    try:
        yield client.jetstream(timeout=1), errors
    finally:
        await client.close()


async def measure(attempt: Awaitable[object]) -> tuple[float, object]:
    """The duration in seconds, and the error or the result."""
    began = time.monotonic()
    try:
        outcome = await attempt
    except Error as error:
        outcome = error
    return time.monotonic() - began, outcome


async def test_a_denied_publish_times_out_without_a_reason(tmp_path: Path) -> None:
    """The server's refusal reaches the error callback, but not the caller that waits for an answer."""
    with NatsServer(tmp_path / "nats", USERS) as server:
        async with open_context(server, "watcher") as (context, errors):
            seconds, error = await measure(context.publish("s.line", b"x", timeout=1))
            assert isinstance(error, NatsTimeout)
            assert "permission" not in str(error)
            assert seconds > 0.9
            await until(lambda: any("permissions violation" in text for text in errors), lambda: errors)


async def test_a_deleted_consumer_is_not_noticed_while_a_fetch_waits(tmp_path: Path) -> None:
    """Every status 409 counts as temporary: the fetch waits for its whole timeout."""
    with NatsServer(tmp_path / "nats", USERS) as server:
        async with open_context(server) as (context, _):
            await context.add_stream(name="S", subjects=["s.>"])
            reader = await context.pull_subscribe("s.>", "reader", stream="S")
            fetching = asyncio.create_task(measure(reader.fetch(10, FETCH_S, heartbeat=0.5)))
            await asyncio.sleep(0.3)
            await context.delete_consumer("S", "reader")
            seconds, outcome = await fetching
            assert seconds >= FETCH_S - 0.1
            assert "deleted" not in str(outcome).lower()


async def test_missed_heartbeats_do_not_end_a_fetch(tmp_path: Path) -> None:
    """A server that hangs looks like one without messages until the fetch times out."""
    with NatsServer(tmp_path / "nats", USERS) as server:
        async with open_context(server) as (context, _):
            await context.add_stream(name="S", subjects=["s.>"])
            reader = await context.pull_subscribe("s.>", "reader", stream="S")
            server.freeze()
            try:
                seconds, _ = await measure(reader.fetch(10, FETCH_S, heartbeat=0.5))
            finally:
                server.thaw()
            assert seconds >= FETCH_S - 0.1


async def test_a_durable_consumer_that_reads_another_subject_is_taken_as_it_is(tmp_path: Path) -> None:
    """It delivers nothing, and no error shows why."""
    with NatsServer(tmp_path / "nats", USERS) as server:
        async with open_context(server) as (context, _):
            await context.add_stream(name="S", subjects=["s.>"])
            elsewhere = ConsumerConfig(
                name="reader", durable_name="reader", filter_subject="s.nobody", ack_policy=AckPolicy.EXPLICIT
            )
            await context.add_consumer("S", elsewhere)
            await context.publish("s.line", b"x")
            reader = await context.pull_subscribe("s.>", "reader", stream="S")
            _, error = await measure(reader.fetch(1, 1))
            assert isinstance(error, NatsTimeout)
            assert (await context.consumer_info("S", "reader")).config.filter_subject == "s.nobody"
