"""Connections and samples for tests of the bus itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from msgspec.structs import replace

from schemas.config import BusConfig
from schemas.messages import Sample
from services.bus.bus import Bus, Received
from tests.support.nats_server import NatsServer
from tests.support.waiting import PATIENCE_S, extend

S = 10**9


def sample(n: int, domain: str = "line") -> Sample:
    """The ``n``-th sample of a domain."""
    return Sample(domain=domain, start=(n - 2) * S, end=n * S, period=S, source="test")


@asynccontextmanager
async def join(
    server: NatsServer, name: str = "test", settings: BusConfig | None = None
) -> AsyncIterator[tuple[Bus, list[str | None]]]:
    """A bus with its streams, and the connection states that it reported."""
    states: list[str | None] = []
    settings = replace(settings or BusConfig(), servers=(server.url,))
    async with Bus.connect(settings, name, states.append) as bus:
        assert await bus.ensure_streams() == []
        yield bus, states


async def publish(bus: Bus, *samples: Sample) -> list[int]:
    """Publish samples, in order."""
    return [await bus.publish(bus.subjects.sample(one.domain), one, msg_id=one.id) for one in samples]


async def take(bus: Bus, count: int, durable: str | None = "reader") -> list[Received[Sample]]:
    """Read and acknowledge so many samples."""
    taken: list[Received[Sample]] = []
    async with asyncio.timeout(PATIENCE_S) as limit, aclosing(bus.consume(Sample, durable, "test")) as messages:
        async for one in messages:
            extend(limit)
            taken.append(one)
            await one.ack()
            if len(taken) == count:
                break
    return taken
