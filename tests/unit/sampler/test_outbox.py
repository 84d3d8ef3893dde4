"""Samples for a bus that is slow, away or available."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import REGISTRY

from schemas.messages import Sample
from services.sampler.loop import Outbox


def sample(domain: str, end: int) -> Sample:
    """A sample without content."""
    return Sample(domain=domain, start=end - 1, end=end, period=1, source="test", no_data="test")


def read_dropped(domain: str) -> float:
    """The value of the metric."""
    return REGISTRY.get_sample_value("sluice_sampler_dropped_total", {"domain": domain}) or 0.0


class ManualBus:
    """Accepts samples while it is up."""

    def __init__(self) -> None:
        """Start up."""
        self.up = asyncio.Event()
        self.up.set()
        self.offered = asyncio.Event()
        self.taken: list[Sample] = []
        self.news = asyncio.Condition()

    async def publish(self, one: Sample) -> None:
        """Wait until the bus is up, then accept it."""
        self.offered.set()
        await self.up.wait()
        self.taken.append(one)
        async with self.news:
            self.news.notify_all()

    async def wait(self, count: int) -> None:
        """Wait until so many were accepted."""
        async with self.news:
            await self.news.wait_for(lambda: len(self.taken) >= count)


@asynccontextmanager
async def running(outbox: Outbox) -> AsyncIterator[None]:
    """A running outbox."""
    task = asyncio.create_task(outbox.run())
    yield
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_samples_of_a_domain_go_out_in_order() -> None:
    """One after another, and each once."""
    bus = ManualBus()
    outbox = Outbox(["order"], bus.publish, keep=10, timeout=60)
    async with running(outbox):
        for end in range(5):
            outbox.put(sample("order", end))
        await bus.wait(5)
    assert [one.end for one in bus.taken] == list(range(5))


async def test_only_the_newest_are_kept_while_the_bus_is_away() -> None:
    """Dropped samples are counted; the others are published in order when the bus returns."""
    bus = ManualBus()
    bus.up.clear()
    outbox = Outbox(["away", "other"], bus.publish, keep=3, timeout=60)
    async with running(outbox):
        outbox.put(sample("away", 0))
        await bus.offered.wait()
        for end in range(1, 11):
            outbox.put(sample("away", end))
        bus.up.set()
        await bus.wait(4)
    assert [one.end for one in bus.taken] == [0, 8, 9, 10]
    assert read_dropped("away") == 7


async def test_an_unacknowledged_sample_is_dropped() -> None:
    """It would be outdated, and a newer one waits."""
    taken: list[int] = []
    done = asyncio.Event()

    async def publish(one: Sample) -> None:
        if one.end == 0:
            await asyncio.Event().wait()
        taken.append(one.end)
        done.set()

    outbox = Outbox(["late"], publish, keep=3, timeout=0.01)
    async with running(outbox):
        outbox.put(sample("late", 0))
        outbox.put(sample("late", 1))
        await done.wait()
    assert taken == [1]
    assert read_dropped("late") == 1


async def test_one_domain_does_not_hold_up_another() -> None:
    """Order matters within a domain only."""
    held = asyncio.Event()
    taken: list[str] = []
    free = asyncio.Event()

    async def publish(one: Sample) -> None:
        if one.domain == "held":
            await held.wait()
        taken.append(one.domain)
        free.set()

    outbox = Outbox(["held", "free"], publish, keep=3, timeout=60)
    async with running(outbox):
        outbox.put(sample("held", 0))
        outbox.put(sample("free", 0))
        await free.wait()
    assert taken == ["free"]
