"""``sluice actuator``: the composition root of the actuator."""

from functools import partial
from pathlib import Path

import click

from schemas.config import Config
from services.actuator.service import NAME, Actuator
from services.kube.client import KubeClient, KubeConfigError
from services.runtime import logging_setup, service
from services.runtime.config_loader import ConfigError, load
from services.runtime.health import Health, serve
from services.runtime.service import join_bus


async def act(config: Config) -> None:
    """Act until cancelled."""
    health = Health("bus", "streams", *(target.key for domain in config.domains for target in domain.targets))
    async with (
        KubeClient.connect(config.kubernetes) as client,
        serve(health, config.listen.host, config.listen.actuator),
    ):
        await Actuator(config, client, health).run(partial(join_bus, config, NAME, health))


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The configuration file.")
def command(path: Path) -> None:
    """Act: put the limits in force on the cluster."""
    try:
        config = load(path)
        logging_setup.configure(NAME, config.log)
        service.run(act(config))
    except (ConfigError, KubeConfigError) as error:
        raise click.ClickException(str(error)) from None
