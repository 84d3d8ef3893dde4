"""``sluice restore``: puts the annotations back as they were found, from what the objects carry.

Works without the bus; where there is one, what was done is reported on it.  A value that somebody
else has set meanwhile is theirs, and stays.
"""

import asyncio
import time
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import click
from msgspec import Struct

from schemas.config import Config
from schemas.domain import Domain, Target
from schemas.messages import Action, Outcome, PodOutcome
from services.actuator.order import in_force, rate_of
from services.actuator.outbox import BusOutlet
from services.actuator.ownership import KEY, Record, UnreadableRecord, operations, record_of
from services.bus.bus import Bus
from services.kube.client import Cluster, ClusterError, T
from services.kube.objects import BANDWIDTH, Deployment, Gone, Pod, Refused, Stale, Unavailable
from services.runtime import logging_setup
from services.runtime.config_loader import ConfigError, load, with_default_kubeconfig

_TRIES = 5
_BUS_S = 5.0


class Restores(Protocol):
    """What this needs of the cluster."""

    async def read(self, kind: type[T], namespace: str, name: str) -> T:
        """The object as it is now."""

    async def all(self, kind: type[T], namespace: str, *, labels: str) -> tuple[T, ...]:
        """The objects that carry some labels."""

    async def patch(self, thing: T, operations: list[dict[str, Any]]) -> T:
        """Apply a JSON Patch to an object; gives what came of it."""


class Back(Struct, frozen=True):
    """One object, and what was done with it."""

    thing: Deployment | Pod
    outcome: Outcome
    text: str


async def restore(cluster: Restores, target: Target, *, dry_run: bool) -> list[Back]:
    """Put a target's Deployment and Pods back.

    The Deployment goes first: an actuator that runs then leaves the target alone.  Each Pod carries
    what is to be put back on it, so a second try after a failure finds the rest.

    Args:
        cluster: to patch.
        target: which.
        dry_run: only say what would be done.

    Raises:
        Gone: there is no such Deployment.
        Refused: the API server does not allow to read what there is.
        Unavailable: the API server does not say what there is.
    """
    deployment = await cluster.read(Deployment, target.namespace, target.deployment)
    everything = await cluster.all(Pod, target.namespace, labels=deployment.spec.selector.query())
    pods = [pod for pod in everything if pod.belongs_to(deployment) and not pod.ended]
    main = await _put_back(cluster, deployment, dry_run=dry_run)
    rest = await asyncio.gather(*(_put_back(cluster, pod, dry_run=dry_run) for pod in pods))
    return [back for back in (main, *rest) if back is not None]


async def _put_back(cluster: Restores, thing: Deployment | Pod, *, dry_run: bool) -> Back | None:
    """One object; None where Sluice left nothing on it, or where it is gone."""
    try:
        return await _tried(cluster, thing, dry_run=dry_run)
    except Gone:
        return None
    except (Refused, Unavailable) as error:
        return Back(thing, "failed", f"{error}; may be left as it is")


async def _tried(cluster: Restores, thing: Deployment | Pod, *, dry_run: bool) -> Back | None:
    """Patch one object, again where it changed meanwhile.

    Raises:
        Gone, Refused or Unavailable.
    """
    for _ in range(_TRIES):
        try:
            record = record_of(thing)
        except UnreadableRecord as error:
            return Back(thing, "failed", f"{error}; left as it is")
        if record is None and KEY not in thing.annotations:
            return None
        wanted, text = _wanted(thing, record)
        if dry_run:
            return Back(thing, "dry-run", f"would be {text}")
        try:
            after = await cluster.patch(thing, operations(thing, wanted))
        except Stale:
            thing = await cluster.read(type(thing), thing.metadata.namespace, thing.metadata.name)
            continue
        same = all(after.annotations.get(key) == value for key, value in wanted.items())
        return Back(thing, "applied" if same else "failed", text if same else f"came back as {after.bandwidth}")
    return Back(thing, "failed", f"changed while it was restored, {_TRIES} times")


def _wanted(thing: Deployment | Pod, record: Record | None) -> tuple[dict[str, str | None], str]:
    """The annotations to set or remove, and that in words."""
    if record is None:
        return {KEY: None}, "let go; it carried nothing to put back"
    if thing.bandwidth is not None and rate_of(thing.bandwidth) != rate_of(record.value):
        return {KEY: None}, f"let go; {thing.bandwidth} was set by somebody else and stays"
    text = f"{thing.bandwidth or 'no limit'} -> {record.found or 'no limit, as it was found'}"
    return {KEY: None, BANDWIDTH: record.found}, text


def as_action(domain: Domain, target: Target, backs: Sequence[Back], now: int) -> Action:
    """The report of what was done with one target."""
    main = next((back for back in backs if isinstance(back.thing, Deployment)), None)
    found = None
    if main is not None and main.outcome == "applied" and (record := record_of(main.thing)) is not None:
        found = rate_of(record.found)
    seen = sorted(f"{back.thing.uid} {back.thing.metadata.resource_version}" for back in backs)
    digest = blake2b("\n".join(seen).encode(), digest_size=6).hexdigest()
    failed = any(back.outcome == "failed" for back in backs)
    return Action(
        id=f"{target.key}:restore:-:{digest}",
        domain=domain.name,
        target=target.key,
        cause="restore",
        outcome="failed" if failed else "applied",
        limit=found or 0,
        reason="; ".join(f"{back.thing.kind} {back.thing.metadata.name}: {back.text}" for back in backs)[:2000],
        was=in_force(main.thing) if main is not None and isinstance(main.thing, Deployment) else None,
        pods=tuple(
            PodOutcome(back.thing.metadata.name, back.thing.uid, back.outcome)
            for back in backs
            if isinstance(back.thing, Pod)
        ),
        applied=now,
    )


async def _restore_all(config: Config, *, dry_run: bool) -> bool:
    """Restore every target and say so; gives whether all went well."""
    well, actions = True, []
    async with Cluster.connected(config.kubernetes) as cluster:
        for domain in config.domains:
            for target in domain.targets:
                try:
                    backs = await restore(cluster, target, dry_run=dry_run)
                except Gone:
                    click.echo(f"{target.key}: there is no such Deployment")
                    continue
                except (Refused, Unavailable) as error:
                    click.echo(f"{target.key}: {error}", err=True)
                    well = False
                    continue
                if not backs:
                    click.echo(f"{target.key}: nothing of Sluice's on it")
                    continue
                for back in backs:
                    click.echo(f"{target.key}: {back.thing.kind} {back.thing.metadata.name}: {back.text}")
                well = well and all(back.outcome != "failed" for back in backs)
                actions.append(as_action(domain, target, backs, time.time_ns()))
    if actions and not dry_run:
        await _report(config, actions)
    return well


async def _report(config: Config, actions: Sequence[Action]) -> None:
    try:
        async with asyncio.timeout(_BUS_S), Bus.connect(config.bus, "actuator", lambda _: None) as bus:
            for action in actions:
                await BusOutlet(bus).send(action, {})
    except TimeoutError:
        click.echo(f"not reported: the bus did not answer within {_BUS_S:g} s", err=True)


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The configuration file.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def command(path: Path, *, dry_run: bool) -> None:
    """Put the annotations back as they were found.

    Stop the actuator first.  One that runs leaves a restored target alone; one that is started anew
    takes it up again.
    """
    try:
        config = with_default_kubeconfig(load(path))
        logging_setup.configure("restore", "error")
        well = asyncio.run(_restore_all(config, dry_run=dry_run or config.kubernetes.dry_run))
    except (ConfigError, ClusterError) as error:
        raise click.ClickException(str(error)) from None
    if not well:
        raise click.exceptions.Exit(1)
