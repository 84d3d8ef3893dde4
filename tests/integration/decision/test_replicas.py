"""A replica of the decision service that receives samples and hangs for ever."""

import asyncio
import time
from contextlib import aclosing
from pathlib import Path

from schemas.config import BusConfig
from schemas.messages import Sample
from services.bus.bus import Bus
from services.decision.intake import NAME
from tests.support.decision_services import (
    DecisionProcess,
    S,
    check,
    config_text,
    join,
    parse_config,
    sample,
    send,
    wait_for_decisions,
)
from tests.support.nats_server import NatsServer

ACK_WAIT_S = 3.0


async def test_samples_that_a_frozen_replica_holds_are_not_skipped(nats: NatsServer, tmp_path: Path) -> None:
    """One of its samples is redelivered before the others: the next new sample does not hide those in between."""
    text = config_text(nats.url, "frozen", ("press",))
    begin = time.time_ns() - 3600 * S
    settings = BusConfig(servers=(nats.url,), prefix="frozen")
    async with join(nats.url, "frozen") as bus:
        async with Bus.connect(settings, NAME, lambda _: None) as frozen:
            # The first replica creates the shared consumer.
            taken = frozen.consume(Sample, NAME, NAME, batch=8, ack_wait=ACK_WAIT_S)
            async with aclosing(taken) as samples:
                await send(bus, [sample("press", 1, begin)])
                assert (await anext(samples)).seq == 1
                await asyncio.sleep(ACK_WAIT_S / 2)
                await send(bus, [sample("press", number, begin) for number in (2, 3, 4)])
                new: list[int] = []
                while len(new) < 3:
                    # On a slow machine the first one is due again meanwhile.
                    new += [seq for seq in [(await anext(samples)).seq] if seq != 1]
                assert new == [2, 3, 4]
                held = asyncio.get_running_loop().time()
        with DecisionProcess(tmp_path, text) as process:
            # Meanwhile the first sample is due again, and the others are not yet.
            await asyncio.sleep(max(held + ACK_WAIT_S / 2 + 0.1 - asyncio.get_running_loop().time(), 0))
            await send(bus, [sample("press", 5, begin)])
            await wait_for_decisions(bus, 5)
            assert process.stop() == 0
        assert await check(bus, parse_config(text)) == 5
