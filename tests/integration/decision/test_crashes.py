"""Decision processes that are killed: no sample is lost or answered twice, and the decisions do not change."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from schemas.messages import Decision, Sample
from services.bus.bus import Bus
from tests.support.decision_services import (
    DecisionProcess,
    S,
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

DOMAINS = ("press", "paint", "weld")
POINTS = (
    "decision.received",
    "decision.loaded",
    "decision.looked-up",
    "decision.stepped",
    "decision.written",
    "decision.dead-lettered",
    "decision.answered",
    "decision.acknowledged",
)


async def stream_of(bus: Bus, numbers: range, begin: int, pause_s: float) -> None:
    """Samples of all domains, one after another, with some unusable ones among them."""
    for number in numbers:
        await send(bus, [sample(domain, number, begin) for domain in DOMAINS])
        if number % 5 == 0:
            ahead = sample("press", number + 10**6, begin)
            await send(bus, [ahead, sample("nobody's", number, begin)])
        await asyncio.sleep(pause_s)


async def stream_until(bus: Bus, begin: int, enough: asyncio.Event) -> int:
    """Samples of all domains, at least 99 each, slower after that, until there are enough; returns the last number."""
    number = 0
    while number < 99 or not enough.is_set():
        number += 1
        await stream_of(bus, range(number, number + 1), begin, 0.02 if number < 100 else 0.1)
    return number


@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_at_any_point_changes_nothing(nats: NatsServer, tmp_path: Path, tally: Tally, point: str) -> None:
    """Three processes are killed, two of them at the point; the fourth completes the same decisions."""
    text = config_text(nats.url, "crash", DOMAINS)
    begin = time.time_ns() - 3600 * S
    crashes = 0
    enough = asyncio.Event()
    async with join(nats.url, "crash") as bus:
        publishing = asyncio.create_task(stream_until(bus, begin, enough))
        # The first one leaves samples that the second has to look up.
        for crash_at in ("decision.answered:7", f"{point}:1", f"{point}:2", None):
            with DecisionProcess(tmp_path, text, crash_at) as process:
                if crash_at is not None:
                    assert await process.wait_for_crash(), process.log
                    crashes += 1
                    continue
                enough.set()
                # Samples of a killed process are redelivered after ten seconds, or looked up when the next sample
                # arrives.
                total = 1 + await publishing
                await stream_of(bus, range(total, total + 1), begin, 0)
                await wait_for_decisions(bus, total * len(DOMAINS))
                assert process.stop() == 0
        decisions = await check(bus, parse_config(text))
    tried = f"{crashes} kills, {decisions} decisions"
    tally.add("kill -9 at injected points", tried, Broken(lost=total * len(DOMAINS) - decisions))


@pytest.mark.parametrize("replicas", [2, 3])
async def test_replicas_share_the_work_and_survive_random_kills(
    nats: NatsServer, tmp_path: Path, tally: Tally, replicas: int
) -> None:
    """Replicas on one durable consumer, one of them killed every 0.4 s, decide as a single one would."""
    text = config_text(nats.url, "many", DOMAINS)
    begin = time.time_ns() - 3600 * S
    total = 250
    chance = random.Random(replicas)
    kills = 0
    async with join(nats.url, "many") as bus:
        processes = [DecisionProcess(tmp_path / str(number), text).start() for number in range(replicas)]
        try:
            publishing = asyncio.create_task(stream_of(bus, range(1, total), begin, 0.015))
            while not publishing.done():
                await asyncio.sleep(0.4)
                victim = chance.randrange(replicas)
                processes[victim].kill()
                processes[victim].start()
                kills += 1
            await publishing
            await stream_of(bus, range(total, total + 1), begin, 0)
            await wait_for_decisions(bus, total * len(DOMAINS))
        finally:
            for process in processes:
                process.kill()
        decisions = await check(bus, parse_config(text))
    tried = f"{kills} kills, {decisions} decisions"
    tally.add("kill -9 at random", tried, Broken(lost=total * len(DOMAINS) - decisions))


async def test_the_server_restarts(nats: NatsServer, tmp_path: Path, tally: Tally) -> None:
    """nats-server is killed and restarted five times while samples arrive; all are answered."""
    text = config_text(nats.url, "again", DOMAINS)
    begin = time.time_ns() - 3600 * S
    async with join(nats.url, "again") as bus:
        with DecisionProcess(tmp_path, text) as process:
            publishing = asyncio.create_task(stream_of(bus, range(1, 201), begin, 0.02))
            for restart in range(5):
                await asyncio.sleep(0.5)
                nats.stop(kill=restart % 2 == 0)
                nats.start()
            await publishing
            await wait_for_decisions(bus, 200 * len(DOMAINS))
            assert process.stop() == 0
        decisions = await check(bus, parse_config(text))
    tried = f"5 restarts, {decisions} decisions"
    tally.add("nats-server killed and restarted", tried, Broken(lost=200 * len(DOMAINS) - decisions))


async def test_a_wiped_server_begins_a_higher_epoch(nats: NatsServer, tmp_path: Path, tally: Tally) -> None:
    """The server loses all streams: decisions continue in a higher epoch, without a restart."""
    text = config_text(nats.url, "wiped", DOMAINS)
    begin = time.time_ns() - 3600 * S
    async with join(nats.url, "wiped") as bus:
        with DecisionProcess(tmp_path, text) as process:
            await stream_of(bus, range(1, 21), begin, 0)
            await wait_for_decisions(bus, 20 * len(DOMAINS))
            before = {one.message.domain: one.message.state for one in await read_stream(bus, Decision)}
            nats.stop()
            nats.wipe()
            nats.start()
            await stream_of(bus, range(21, 41), begin, 0)
            await wait_for_decisions(bus, 20 * len(DOMAINS))
            assert process.stop() == 0
        decisions = await check(bus, parse_config(text))
        for one in await read_stream(bus, Decision):
            assert one.message.epoch > before[one.message.domain].epoch
            assert one.message.epoch == sample(one.message.domain, 21, begin).end
        assert len(await read_stream(bus, Sample)) == 20 * len(DOMAINS) + 8
    tried = f"1 wipes, {decisions} decisions"
    tally.add("nats-server wiped", tried, Broken(lost=20 * len(DOMAINS) - decisions))
