"""The frame of every service: configuration, logs, health, the bus, and an orderly stop on a signal."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from schemas.config import Config
from services.common.backoff import BackOff
from services.runtime import logging_setup
from services.runtime.config_loader import ConfigError, load
from services.runtime.exit_codes import CommandFailure, ExitCode
from services.runtime.health import CannotListen, Health, serve
from services.runtime.option_types import ConfigFile

if TYPE_CHECKING:
    from services.bus.bus import Bus

    Work = Callable[[Config, Bus, Health], Awaitable[None]]


def service_command(
    name: str, *conditions: str, check: Callable[[Config], None] | None = None
) -> "Callable[[Work], click.Command]":
    """Turn a coroutine function, a service's endless work, into the subcommand that runs it until a signal.

    Args:
        name: of the service: its name on the bus, and its port in the configuration.
        conditions: what must hold, besides ``bus`` and ``streams``, before it is ready.
        check: raises a ValueError where the configuration does not fit this service.
    """

    async def work_on_bus(work: "Work", config: Config) -> None:
        health = Health("bus", "streams", *conditions)
        port = getattr(config.listen, name)
        async with serve(health, config.listen.host, port), join_bus(config, name, health) as bus:
            await work(config, bus, health)

    def build(work: "Work") -> click.Command:
        def callback(path: Path) -> None:
            try:
                config = load(path)
                if check is not None:
                    check(config)
            except ConfigError as error:
                raise CommandFailure(error, ExitCode.UNREADABLE) from None
            except ValueError as error:
                raise CommandFailure(f"{path}: {error}", ExitCode.UNREADABLE) from None
            logging_setup.configure(name, config.log)
            run(work_on_bus(work, config))

        option = click.Option(["--config", "path"], type=ConfigFile(), required=True, help="The configuration file.")
        return click.Command(name, callback=callback, params=[option], help=work.__doc__)

    return build


@asynccontextmanager
async def join_bus(config: Config, name: str, health: Health) -> "AsyncIterator[Bus]":
    """Connect to the bus and create missing streams; ``health`` shows the state of both."""
    # A pod that uses no bus runs through this module, too: the client would cost it 5 MiB.
    from services.bus.bus import Bus  # noqa: PLC0415

    async with Bus.connect(config.bus, name, partial(health.set_condition, "bus")) as bus:
        task = asyncio.create_task(_ensure_streams(bus, health))
        try:
            yield bus
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _ensure_streams(bus: "Bus", health: Health) -> None:
    """Try until all streams are as configured: this user may have to wait for another service to create them."""
    back_off = BackOff(0.5, most_s=30.0)
    while reports := await bus.ensure_streams():
        health.set_failed("streams", "; ".join(reports))
        await back_off.wait()
    health.set_ok("streams")


def run(service: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine; SIGTERM and SIGINT cancel it, so that it cleans up and the exit code is 0.

    Raises:
        click.ClickException: the port of its health page is taken.
        Exception: whatever else the coroutine raised.
    """

    async def run_until_signal() -> None:
        task = asyncio.create_task(service)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        await task

    try:
        with suppress(asyncio.CancelledError):
            asyncio.run(run_until_signal())
    except CannotListen as error:
        raise CommandFailure(error, ExitCode.UNREADABLE) from None
