"""Numbered replicas of the decision service: a partition is answered by one, and moves when it dies, hangs or joins."""

import asyncio
import time
from collections import Counter
from pathlib import Path

from schemas.messages import Decision, Sample
from services.bus.bus import Bus
from services.bus.partitions import PARTITIONS, find_partition
from tests.support.decision_services import (
    S,
    ServiceProcess,
    check,
    config_text,
    join,
    parse_config,
    read_stream,
    sample,
    send,
    wait_for_decisions,
)
from tests.support.fault_tally import Broken, Tally
from tests.support.nats_server import NatsServer
from tests.support.waiting import until

DOMAINS = tuple(
    next(name for n in range(999) if find_partition(name := f"uplink@node-{n}") == partition)
    for partition in range(PARTITIONS)
)
"""One of each partition."""


def start(home: Path, text: str, replica: int, crash_at: str | None = None) -> ServiceProcess:
    """Start the replica of that number, as a StatefulSet would name it."""
    environment = {"SLUICE_REPLICA": f"sluice-decision-{replica}"}
    return ServiceProcess("decision", home / str(replica), text, crash_at, environment).start()


async def test_partitions_move_and_no_sample_is_lost(nats: NatsServer, tmp_path: Path, tally: Tally) -> None:
    """A crash at an injected point, a kill, a freeze and two joins: the decisions are those of one process."""
    text = config_text(nats.url, "shards", DOMAINS)
    begin, number, faults = time.time_ns() - 3600 * S, 0, Counter[str]()
    ends = asyncio.Event()

    async def stream() -> None:
        nonlocal number
        while not ends.is_set():
            number += 1
            await send(bus, [sample(domain, number, begin) for domain in DOMAINS])
            await asyncio.sleep(0.05)

    async def go_on(samples: int = 30) -> None:
        wanted = number + samples
        await until(lambda: number >= wanted)

    async with join(nats.url, "shards") as bus:
        publishing = asyncio.create_task(stream())
        replicas = {0: start(tmp_path, text, 0)}
        try:
            await wait_for_decisions(bus, 2 * len(DOMAINS))
            replicas[1] = start(tmp_path, text, 1, "decision.written:40")
            assert await replicas[1].wait_for_crash(), "it has got partitions, and crashed in the middle of one"
            faults["crash"] += 1
            replicas[2] = start(tmp_path, text, 2)
            await go_on()
            replicas[0].freeze()
            faults["freeze"] += 1
            await go_on(60)
            replicas[2].kill()
            replicas[0].thaw()
            faults["kill"] += 1
            await go_on()
            ends.set()
            await publishing
            await wait_for_decisions(bus, number * len(DOMAINS))
            assert replicas[0].stop() == 0
        finally:
            for one in replicas.values():
                one.kill()
        decisions = await check(bus, parse_config(text))
        worst_s = await find_longest_delay(bus)
    tally.add(
        "kill -9 at random",
        f"{faults.total()} faults of shards, {decisions} decisions",
        Broken(lost=number * len(DOMAINS) - decisions),
    )
    print(f"{decisions} decisions; longest delay of a decision {worst_s:.2f} s")


async def find_longest_delay(bus: Bus) -> float:
    """How long a sample waited for its decision at most, by the server's clock, s."""
    asked = {one.message.id: one.published for one in reversed(await read_stream(bus, Sample))}
    answered = await read_stream(bus, Decision)
    return max(one.published - asked[one.message.sample] for one in answered) / S
