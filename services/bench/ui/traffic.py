"""Traffic for ``sluice bench ui``: samples and decisions of many domains in real time, in a process of its own.

``python -m services.bench.ui.traffic CONFIG PERIOD`` publishes until it is stopped.  Domains take turns within a
period, so that messages arrive evenly.
"""

import asyncio
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from schemas.domain import Domain
from schemas.messages import CriticalMeasure, Sample, State, TargetMeasure
from services.bus.bus import Bus
from services.control import Controller
from services.runtime import logging_setup
from services.runtime.config_loader import load

_WINDOW_PERIODS = 4


def measure(domain: Domain, end: int, period: int, chance: random.Random) -> Sample:
    """Make up a sample: mostly good, in one window of fifty over an objective."""
    scale = 3.0 if chance.random() < 0.02 else 1.0
    return Sample(
        domain=domain.name,
        start=end - _WINDOW_PERIODS * period,
        end=end,
        period=period,
        source="simulation",
        critical=tuple(
            CriticalMeasure(
                one.key,
                jitter=chance.uniform(0.0002, 0.0008) * scale,
                p95=chance.uniform(0.0005, 0.0012) * scale,
                observations=500,
                lost=0.0,
                throughput=chance.randrange(20_000, 30_000),
            )
            for one in domain.critical
        ),
        targets=tuple(TargetMeasure(one.key, chance.randrange(1_000, 5_000)) for one in domain.targets),
    )


class Speaker:
    """Publishes one domain's messages."""

    def __init__(self, bus: Bus, domain: Domain, period: int) -> None:
        """Begin without a state; ``period`` is in ns."""
        self._bus = bus
        self._domain = domain
        self._period = period
        self._chance = random.Random(domain.name)  # noqa: S311 - made-up latencies are no secret
        self._controller = Controller(domain)
        self._state: State | None = None

    async def speak(self) -> None:
        """Publish the sample of now, and its decision."""
        sample = measure(self._domain, time.time_ns(), self._period, self._chance)
        decision = self._controller.step(self._state, sample)
        self._state = decision.state
        subjects = self._bus.subjects
        await self._bus.publish(subjects.sample(sample.domain), sample, msg_id=sample.id)
        await self._bus.publish(subjects.decision(sample.domain), decision, msg_id=decision.id)


def take_turns(speakers: list[Speaker], period: float) -> Iterator[tuple[float, Speaker]]:
    """Give each speaker its times within every period, seconds by the monotonic clock."""
    begin, turn = time.monotonic(), 0
    while True:
        yield begin + turn * period / len(speakers), speakers[turn % len(speakers)]
        turn += 1


async def run(path: Path, period: float) -> None:
    """Publish until cancelled."""
    config = load(path)
    async with Bus.connect(config.bus, "bench", lambda _: None) as bus:
        await bus.ensure_streams()
        speakers = [Speaker(bus, domain, round(period * 1e9)) for domain in config.domains]
        async with asyncio.TaskGroup() as group:
            for at, speaker in take_turns(speakers, period):
                if (wait := at - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                group.create_task(speaker.speak())


if __name__ == "__main__":
    logging_setup.configure("bench", "error")
    asyncio.run(run(Path(sys.argv[1]), float(sys.argv[2])))
