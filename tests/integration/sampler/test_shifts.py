"""Numbered samplers on a real bus: each partition's turn is one sampler's, and the others take over."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from schemas.config import BusConfig
from schemas.definition import Definition, DefinitionSource
from schemas.domain import Critical, Domain, Target
from schemas.units import Rate
from services.bus.bus import Bus
from services.bus.partitions import PARTITIONS, find_partition
from services.sampler.shifts import Shifts
from tests.support.decision_services import join
from tests.support.nats_server import NatsServer
from tests.support.waiting import until

DOMAINS = {find_partition(name): name for name in (f"uplink@node-{n}" for n in range(99))}
"""One of each partition."""
TARGET = Target(deployment="upload", min=Rate(1000), max=Rate(9000), fail_safe=Rate(2000))


@asynccontextmanager
async def sampler(nats: NatsServer, replica: int) -> AsyncIterator[Shifts]:
    """A sampler's part in the sharing, with a connection of its own."""
    shifts = Shifts(replica)
    async with Bus.connect(BusConfig(servers=(nats.url,), prefix="shifts"), "sampler", lambda _: None) as bus:
        task = asyncio.create_task(shifts.run(bus))
        try:
            yield shifts
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def owned(*samplers: Shifts) -> list[int]:
    """How many partitions each one has; fails where one is nobody's or two samplers'."""
    held = [[one.is_mine(DOMAINS[partition]) for one in samplers] for partition in range(PARTITIONS)]
    return [sum(column) for column in zip(*held, strict=True)] if all(sum(row) == 1 for row in held) else []


async def test_turns_are_shared_and_pass_on(nats: NatsServer) -> None:
    """One sampler has all; a second one gets half; when it goes, its half returns at once."""
    async with join(nats.url, "shifts") as bus, sampler(nats, 0) as first:
        await until(lambda: all(first.is_mine(name) for name in DOMAINS.values()))  # there is no definition yet
        domain = Domain(name="line", critical=(Critical(workload="robot"),), targets=(TARGET,))
        definition = Definition("line", 1, DefinitionSource(name="line"), domain)
        await bus.publish(bus.subjects.definition("line"), definition, msg_id=definition.id)
        await until(lambda: owned(first) == [PARTITIONS])
        async with sampler(nats, 1) as second:
            await until(lambda: owned(first, second) == [PARTITIONS // 2] * 2)
        began = time.monotonic()
        await until(lambda: owned(first) == [PARTITIONS])
        print(f"taken over after {time.monotonic() - began:.2f} s")


async def test_a_lost_bus_changes_nothing() -> None:
    """While the bus is away, nobody knows whose turn it is."""
    now, there = 0.0, True
    shifts = Shifts(1, lambda: there, lambda: now)
    shifts.note_turn(find_partition("line"))
    assert shifts.is_mine("line")
    there, now = False, 60.0
    assert shifts.is_mine("line")
    there = True
    assert not shifts.is_mine("line")
