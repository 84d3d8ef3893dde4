"""``sluice resume``: see ``pause``."""

import asyncio
from pathlib import Path

import click

from services.runtime.option_types import ConfigFile
from services.tools.kubectl.pause import change_workload, find_target, load_for_person, plan_resume


@click.command()
@click.argument("workload")
@click.option("--config", "path", type=ConfigFile(), required=True, help="The configuration file.")
def command(workload: str, path: Path) -> None:
    """Hand a paused target back to Sluice, whatever paused it.

    A limit that somebody else set is removed; Sluice then sets its own.
    """
    config = load_for_person(path)
    target = find_target(config, workload)
    is_done = asyncio.run(change_workload(config, target, plan_resume))
    click.echo(f"{target.key}: {'handed back' if is_done else 'it was not paused'}")
