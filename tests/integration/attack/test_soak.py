"""Many samples one after another: every one is answered once, and the decision service's memory does not grow."""

import asyncio
import time
from collections import Counter
from contextlib import aclosing
from functools import partial
from pathlib import Path

from schemas.messages import Decision
from tests.support.attack_tally import Attacks, resize
from tests.support.decision_services import PERIOD, DecisionProcess, S, config_text, join, sample
from tests.support.nats_server import NatsServer
from tests.support.waiting import until

DOMAINS = tuple(f"line-{number}" for number in range(20))
LIMIT_MIB = 64
"""Of the decision service in the manifests."""


def memory_mib(pid: int, field: str) -> float:
    """A figure of a process's memory."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


async def test_a_soak(nats: NatsServer, tmp_path: Path, attacks: Attacks) -> None:
    """Samples of 20 domains, as fast as they are taken."""
    rounds = resize(60, 10_000)
    begin = time.time_ns() // S * S - rounds * PERIOD - 60 * S
    answered = Counter[str]()
    resident: list[float] = []
    async with join(nats.url, "sluice") as bus, join(nats.url, "sluice") as reader:
        with DecisionProcess(tmp_path, config_text(nats.url, "sluice", DOMAINS)) as process:

            async def count() -> None:
                async with aclosing(reader.consume(Decision, None, "soak")) as decisions:
                    async for one in decisions:
                        answered[one.message.sample] += 1
                        if answered.total() >= rounds * len(DOMAINS):
                            return

            def is_answered(sent: int) -> bool:
                return len(answered) >= sent

            counting = asyncio.create_task(count())
            for number in range(1, rounds + 1):
                ones = [sample(domain, number, begin) for domain in DOMAINS]
                await asyncio.gather(
                    *(bus.publish(bus.subjects.sample(one.domain), one, msg_id=one.id) for one in ones)
                )
                if number % (rounds // 10) == 0:
                    sent = number * len(DOMAINS)
                    await until(partial(is_answered, sent), lambda: f"{len(answered)} are answered")
                    resident.append(memory_mib(process.pid, "VmRSS"))
            await counting
            peak = memory_mib(process.pid, "VmHWM")
            assert process.stop() == 0
    total = rounds * len(DOMAINS)
    wrong = (total - len(answered)) + sum(count - 1 for count in answered.values())
    assert wrong == 0
    # The first half fills caches and pools.
    assert resident[-1] - resident[4] < 4, resident
    attacks.add("soak", f"{total} samples", peak > LIMIT_MIB, peak_mib=peak)
