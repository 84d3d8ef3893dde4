"""``sluice sampler``: wires a source to the bus, and runs."""

import asyncio
import contextlib
from pathlib import Path

import click

from schemas.config import Config
from schemas.messages import Sample
from services.bus.jetstream import Bus
from services.operation import logs
from services.operation.config import ConfigError, load
from services.operation.health import Health, serve
from services.operation.lifecycle import run
from services.sampler.outbox import Outbox
from services.sampler.service import Sampler, WallClock, condition
from services.sampler.source import Source
from services.sampler.sources import source_of


async def sample(config: Config, source: Source) -> None:
    """Sample until cancelled."""
    health = Health("bus", "clock", "source", *(condition(domain.name) for domain in config.domains))

    def on_bus(reason: str | None) -> None:
        if reason is None:
            health.good("bus")
        else:
            health.bad("bus", reason)

    signal = config.signal
    async with (
        serve(health, config.listen.host, config.listen.sampler),
        Bus.connected(config.bus, "sampler", on_bus) as bus,
        asyncio.TaskGroup() as group,
    ):

        async def publish(sample: Sample) -> None:
            await bus.publish(bus.subjects.sample(sample.domain), sample, msg_id=sample.id)

        names = [domain.name for domain in config.domains]
        outbox = Outbox(names, publish, keep=signal.window // signal.period, patience=signal.window.seconds)
        group.create_task(outbox.run())
        await Sampler(config, source, outbox.put, health, WallClock()).run()


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The configuration file.")
def command(path: Path) -> None:
    """Measure: publish one sample per domain and signal period."""
    with contextlib.ExitStack() as stack:
        try:
            config = load(path)
            source = stack.enter_context(source_of(config))
        except (ConfigError, ValueError) as error:
            raise click.ClickException(str(error)) from None
        logs.configure("sampler", config.log)
        run(sample(config, source))
