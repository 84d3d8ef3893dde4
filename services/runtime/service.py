"""The frame that all three services share: configuration, logs, health, the bus, and an orderly end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import click

from schemas.config import Config
from services.bus.bus import Bus
from services.bus.session import BackOff
from services.runtime import lifecycle, logging_setup
from services.runtime.config_loader import ConfigError, load
from services.runtime.health import Health, serve

Work = Callable[[Config, Bus, Health], Awaitable[None]]
"""What a service does, for ever."""


def _fits(config: Config) -> None:
    """Any configuration that can be loaded will do."""


def command(
    name: str, text: str, work: Work, *conditions: str, check: Callable[[Config], None] = _fits
) -> click.Command:
    """A subcommand that runs a service until it is told to stop.

    Args:
        name: of the service: its name on the bus, and its port in the configuration.
        text: its help.
        work: what it does.
        conditions: what must hold, besides ``bus`` and ``streams``, before it is ready.
        check: raises a ValueError where the configuration does not fit this service.
    """

    def run(path: Path) -> None:
        try:
            config = load(path)
            check(config)
        except ConfigError as error:
            raise click.ClickException(str(error)) from None
        except ValueError as error:
            raise click.ClickException(f"{path}: {error}") from None
        logging_setup.configure(name, config.log)
        lifecycle.run(_worked(config, name, work, conditions))

    option = click.Option(
        ["--config", "path"], type=click.Path(path_type=Path), required=True, help="The configuration file."
    )
    return click.Command(name, callback=run, params=[option], help=text)


async def _worked(config: Config, name: str, work: Work, conditions: tuple[str, ...]) -> None:
    health = Health("bus", "streams", *conditions)
    async with serve(health, config.listen.host, getattr(config.listen, name)), joined(config, name, health) as bus:
        await work(config, bus, health)


@asynccontextmanager
async def joined(config: Config, name: str, health: Health) -> AsyncIterator[Bus]:
    """Join the bus and see that its streams are there; ``health`` says how both stand."""
    async with Bus.connected(config.bus, name, partial(health.state, "bus")) as bus:
        looking = asyncio.create_task(_look_at_streams(bus, health))
        try:
            yield bus
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking


async def _look_at_streams(bus: Bus, health: Health) -> None:
    """Say how the streams stand until they are as they should be: another service may have to make them."""
    back_off = BackOff(first_s=0.5, most_s=30.0)
    while reports := await bus.ensure_streams():
        health.bad("streams", "; ".join(reports))
        await back_off.wait()
    health.good("streams")
