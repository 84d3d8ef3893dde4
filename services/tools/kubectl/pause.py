"""``sluice pause`` and ``sluice resume``: a person takes a target out of Sluice's hands, and gives it back.

Both need the API server only.  The actuator sees the annotation, leaves the target alone and says so.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import click

from schemas.config import Config
from schemas.domain import Domain, Target
from services.actuator.ownership import PAUSED, build_patch, pause_reason, resume_annotation
from services.kube.access import KubeConfigError
from services.kube.client import KubeClient
from services.kube.objects import NotFound, Rejected, StaleObject, Unavailable, Workload
from services.kube.workloads import find_kind, object_name
from services.resources.listing import list_domains
from services.runtime import logging_setup
from services.runtime.config_loader import ConfigError, load, with_default_kubeconfig
from services.runtime.exit_codes import ExitCode
from services.runtime.option_types import ConfigFile
from services.tools.common.message_source import matches_workload
from services.tools.common.output import CommandError

_ATTEMPTS = 5

Change = Callable[[Workload], dict[str, str | None]]
"""The annotations to set or remove (None) on a workload as it was seen; none: nothing is to be done."""


def plan_resume(workload: Workload) -> dict[str, str | None]:
    """The annotations that give a target back to Sluice, whatever paused it."""
    return {} if pause_reason(workload, managed=True) is None else resume_annotation(workload)


def find_target(config: Config, name: str) -> Target:
    """The target of this name, with or without its namespace: of the file, or else of the cluster's domains.

    Raises:
        click.UsageError: there is none, or there are several.
        CommandError: it is not the file's, and the cluster's domains cannot be listed.
    """
    targets = [target for domain in config.domains for target in domain.targets]
    if not any(matches_workload(name, target.key) for target in targets):
        targets = [target for domain in asyncio.run(_list_domains(config)) for target in domain.targets]
    found = list({target.key: target for target in targets if matches_workload(name, target.key)}.values())
    if len(found) != 1:
        keys = ", ".join(target.key for target in found or targets)
        raise click.UsageError(f"{name!r} is {'more than one' if found else 'no'} target: {keys}")
    return found[0]


async def _list_domains(config: Config) -> tuple[Domain, ...]:
    try:
        async with KubeClient.connect(config.kubernetes) as client:
            return await list_domains(client, config)
    except (Rejected, Unavailable, KubeConfigError) as error:
        raise CommandError(f"domains of the cluster: {error}", ExitCode.UNAVAILABLE) from None


async def change_workload(config: Config, target: Target, change: Change) -> bool:
    """Change a target's annotations, again where the object changes meanwhile; returns whether anything was due.

    Raises:
        CommandError: the API server refuses, does not answer, or has no such workload.
    """
    try:
        async with KubeClient.connect(config.kubernetes) as client:
            kind = await find_kind(client, target)
            for _ in range(_ATTEMPTS):
                workload = await client.read(kind, target.namespace, object_name(target))
                desired = change(workload)
                if not desired:
                    return False
                try:
                    await client.patch(workload, build_patch(workload, desired))
                except StaleObject:
                    continue
                return True
    except NotFound:
        what = "the actuator has made no record of it" if target.ref is None else f"there is no such {target.ref.kind}"
        raise CommandError(f"{target.key}: {what}", ExitCode.FINDING) from None
    except (Rejected, Unavailable, KubeConfigError) as error:
        raise CommandError(f"{target.key}: {error}", ExitCode.UNAVAILABLE) from None
    raise CommandError(f"{target.key}: it changed {_ATTEMPTS} times meanwhile", ExitCode.FINDING)


def load_for_person(path: Path) -> Config:
    """The configuration, with kubectl's own cluster where it names none.

    Raises:
        CommandError: it cannot be used.
    """
    logging_setup.configure("kubectl", "error")
    try:
        return with_default_kubeconfig(load(path))
    except ConfigError as error:
        raise CommandError(error, ExitCode.UNREADABLE) from None


@click.command()
@click.argument("workload")
@click.option("--config", "path", type=ConfigFile(), required=True, help="The configuration file.")
@click.option("--reason", default="true", show_default=True, help="Kept on the workload, and shown on /readyz.")
def command(workload: str, path: Path, reason: str) -> None:
    """Pause a target: its limit stays as it is until `sluice resume`.

    Nothing changes its limit meanwhile, the fail-safe limit included.
    """
    if reason in ("", "false"):
        raise click.UsageError("--reason: a reason, and not 'false'")
    config = load_for_person(path)
    target = find_target(config, workload)
    asyncio.run(change_workload(config, target, lambda _: {PAUSED: reason}))
    click.echo(f"{target.key}: paused; to hand it back: sluice resume {target.key}")
