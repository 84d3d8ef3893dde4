"""``sluice sampler``: the composition root; a source, the loop, the bus."""

import asyncio

from schemas.config import Config
from schemas.messages import Sample
from services.bus.bus import Bus
from services.runtime.health import Health
from services.runtime.service import service_command
from services.sampler.loop import Sampler, WallClock
from services.sampler.outbox import Outbox
from services.sampler.source_factory import source_of


def _check(config: Config) -> None:
    with source_of(config):
        pass


@service_command("sampler", "clock", "source", check=_check)
async def command(config: Config, bus: Bus, health: Health) -> None:
    """Measure: publish one sample per domain and signal period."""

    async def publish(sample: Sample) -> None:
        await bus.publish(bus.subjects.sample(sample.domain), sample, msg_id=sample.id)

    signal = config.signal
    names = [domain.name for domain in config.domains]
    outbox = Outbox(names, publish, keep=signal.window // signal.period, patience=signal.window.seconds)
    with source_of(config) as source:
        sampler = Sampler(config, source, outbox.put, health, WallClock())
        async with asyncio.TaskGroup() as group:
            group.create_task(outbox.run())
            group.create_task(sampler.run())
