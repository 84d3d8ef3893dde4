"""``sluice sampler``: wires the source, the loop and the bus."""

import asyncio

from schemas.config import Config
from services.bus.bus import Bus
from services.runtime.health import Health
from services.runtime.service import service_command
from services.sampler.loop import Outbox, Sampler
from services.sampler.source_factory import check_source, open_source


@service_command("sampler", "clock", "source", check=check_source)
async def command(config: Config, bus: Bus, health: Health) -> None:
    """Measure: publish one sample per domain and signal period."""
    signal = config.signal
    subjects = {domain.name: bus.subjects.sample(domain.name) for domain in config.domains}
    outbox = Outbox(
        subjects,
        lambda sample: bus.publish(subjects[sample.domain], sample, msg_id=sample.id),
        keep=signal.window // signal.period,
        timeout=signal.window.seconds,
    )
    with open_source(config) as source:
        sampler = Sampler(config, source.measure, outbox.put, health)
        async with asyncio.TaskGroup() as group:
            group.create_task(outbox.run())
            group.create_task(sampler.run())
