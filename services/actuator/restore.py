"""``sluice restore``: puts the annotations back as they were found, from the records on the objects.

It works without the bus; where there is one, what was done is reported on it.  A value that another client
has set meanwhile stays.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import click
from msgspec import Struct

from schemas.config import Config
from schemas.domain import Target
from schemas.messages import Action, Outcome, PodOutcome
from schemas.numbers import MOST_RATE
from schemas.units import Rate
from services.actuator.observed import ObservedState
from services.actuator.outbox import publish_action
from services.actuator.ownership import KEY, OwnershipRecord, build_patch, find_record, names_target, why_unreadable
from services.bus.bus import Bus
from services.kube.access import KubeConfigError
from services.kube.changes import T
from services.kube.client import KubeClient
from services.kube.objects import (
    BANDWIDTH,
    KubeObject,
    NotFound,
    Pod,
    Rejected,
    StaleObject,
    Unavailable,
    Workload,
)
from services.kube.target_pods import list_pods, read_object
from services.kube.workloads import CronJob, OtherOwner, SelectorRecord
from services.resources.listing import list_domains
from services.runtime import logging_setup
from services.runtime.config_loader import ConfigError, load, with_default_kubeconfig
from services.runtime.exit_codes import CommandFailure, ExitCode
from services.runtime.option_types import ConfigFile

_ATTEMPTS = 5
_BUS_S = 5.0
_RETRY_S = 10.0
"""After a failure, Pods that a target gave up are tried again no sooner than that."""
_ROUNDS = 3
"""How often the objects are looked at, as long as there was something to restore."""
_SETTLE_S = 1.0
"""Between two rounds."""


class ObjectClient(Protocol):
    """What restoring an object needs of the API client."""

    async def read(self, kind: type[T], namespace: str, name: str) -> T:
        """Read an object."""

    async def patch(self, obj: T, operations: list[dict[str, Any]]) -> T:
        """Apply a JSON Patch to an object, and return the object that results."""


class Restorer(ObjectClient, Protocol):
    """What restoring a target needs of the API client."""

    async def read_json(self, path: str) -> Any:
        """Read what is at a path."""

    async def fetch(self, path: str) -> bytes:
        """Read what is at a path."""

    async def delete(self, obj: KubeObject) -> None:
        """Delete an object, if it still is as it was seen."""

    async def list_by_labels(self, kind: type[T], namespace: str, selector: str) -> tuple[T, ...]:
        """List the objects that a label selector matches."""


class RestoreResult(Struct, frozen=True):
    """One object, and what became of it."""

    obj: Workload | Pod
    outcome: Outcome
    text: str


async def restore(client: Restorer, target: Target, *, dry_run: bool) -> list[RestoreResult]:
    """Put the annotations of a target's workload and Pods back.

    The workload goes first: an actuator that still runs then leaves the target alone.  Each Pod carries
    what is to be put back on it, so that another attempt after a failure finds the rest.

    Args:
        client: reads and patches.
        target: which.
        dry_run: only say what would be done.

    Raises:
        NotFound: there is no such workload.
        Rejected: reading is not allowed.
        Unavailable: the API server does not answer.
    """
    workload = await read_object(client, target)
    found = {pod.uid: pod for pod in await list_pods(client, target, workload)}
    if isinstance(workload, CronJob | OtherOwner | SelectorRecord):
        # Of these, a Pod may have been given up, and its record alone tells whose it was.
        for namespace in target.pod_namespaces:
            every = await client.list_by_labels(Pod, namespace, "")
            found |= {pod.uid: pod for pod in every if names_target(pod, target.key)}
    pods = [pod for pod in found.values() if not pod.has_ended]
    results = [await restore_object(client, workload, dry_run=dry_run)]
    results += await asyncio.gather(*(restore_object(client, pod, dry_run=dry_run) for pod in pods))
    done = [one for one in results if one is not None]
    if isinstance(workload, SelectorRecord) and not dry_run and all(one.outcome == "applied" for one in done):
        done += await _delete_record(client, workload)
    return done


async def _delete_record(client: Restorer, record: SelectorRecord) -> list[RestoreResult]:
    """Delete a selector's record, unless somebody has noted something on it, such as a pause."""
    try:
        now = await client.read(SelectorRecord, record.metadata.namespace, record.metadata.name)
        if now.annotations:
            return []
        await client.delete(now)
    except NotFound:
        return []
    except (StaleObject, Rejected, Unavailable) as error:
        return [RestoreResult(record, "failed", f"{error}; may be left")]
    return [RestoreResult(record, "applied", "deleted")]


async def restore_object(client: ObjectClient, obj: Workload | Pod, *, dry_run: bool) -> RestoreResult | None:
    """Restore one object, again where it changes meanwhile; None without a record on it, or where it is gone."""
    try:
        for _ in range(_ATTEMPTS):
            record = find_record(obj)
            if record is None and KEY not in obj.annotations:
                return None
            if (unreadable := why_unreadable(obj)) is not None:
                failure = f"{unreadable}; left as it is"
                break
            desired, text = _plan_restore(obj, record)
            if dry_run:
                return RestoreResult(obj, "dry-run", f"would be {text}")
            try:
                after = await client.patch(obj, build_patch(obj, desired))
            except StaleObject:
                obj = await client.read(type(obj), obj.metadata.namespace, obj.metadata.name)
                continue
            if all(after.annotations.get(key) == value for key, value in desired.items()):
                return RestoreResult(obj, "applied", text)
            failure = f"came back as {after.bandwidth}"
            break
        else:
            failure = f"changed while it was restored, {_ATTEMPTS} times"
    except NotFound:
        return None
    except (Rejected, Unavailable) as error:
        failure = f"{error}; may be left as it is"
    return RestoreResult(obj, "failed", failure)


def _plan_restore(obj: KubeObject, record: OwnershipRecord | None) -> tuple[dict[str, str | None], str]:
    """The annotations to set or remove, and the same in words."""
    if record is None:
        return {KEY: None}, "let go; it carried nothing to put back"
    if obj.bandwidth is not None and obj.limit != Rate.enforced(record.value):
        return {KEY: None}, f"let go; {obj.bandwidth} was set by somebody else and stays"
    text = f"{obj.bandwidth or 'no limit'} -> {record.found or 'no limit, as it was found'}"
    return {KEY: None, BANDWIDTH: record.found}, text


class GivenUpPods:
    """Restores Pods that one target no longer has, such as those whose labels its selector no longer matches.

    A Pod that another target has taken over by now, or that carries no record of this one, is left as it is.
    """

    def __init__(self, client: ObjectClient, observed: ObservedState) -> None:
        """Prepare; ``observed`` knows the Pods."""
        self._client, self._observed = client, observed
        self._due = 0.0

    async def restore(self, target: str, now: float) -> tuple[list[RestoreResult], float | None]:
        """Restore what is due.

        Args:
            target: its key.
            now: by the steady clock, seconds.

        Returns:
            What was tried, and after how many seconds to try again; None: there is nothing left.
        """
        given_up = self._observed.given_up
        if not given_up or now < self._due:
            return [], self._due - now if given_up else None

        async def restore_pod(pod: Pod) -> RestoreResult | None:
            try:
                found = await self._client.read(Pod, pod.metadata.namespace, pod.metadata.name)
            except NotFound:
                return None
            except (Rejected, Unavailable) as error:
                return RestoreResult(pod, "failed", f"cannot be read: {error}")
            if found.uid != pod.uid or found.has_ended or not names_target(found, target):
                return None
            return await restore_object(self._client, found, dry_run=False)

        tried = tuple(given_up.values())
        tries: list[Any] = await asyncio.gather(*(restore_pod(pod) for pod in tried))
        results = [one for one in tries if one is not None]
        failed = {one.obj.uid for one in results if one.outcome == "failed"}
        for pod in tried:
            if pod.uid not in failed:
                given_up.pop(pod.uid, None)
        self._due = now + _RETRY_S if failed else 0.0
        return results, _RETRY_S if failed else None

    def forget(self) -> None:
        """Leave what was given up so far to somebody else."""
        self._observed.given_up.clear()


def build_restore_action(domain: str, target: Target, results: Sequence[RestoreResult], now: int) -> Action:
    """Build the report of restoring one target; ``now`` is in UTC ns."""
    workload = next((one for one in results if isinstance(one.obj, Workload)), None)
    found = None
    if workload is not None and workload.outcome == "applied" and (record := find_record(workload.obj)) is not None:
        found = Rate.enforced(record.found)
    seen = sorted(f"{one.obj.uid} {one.obj.metadata.resource_version}" for one in results)
    digest = blake2b("\n".join(seen).encode(), digest_size=6).hexdigest()
    return Action(
        id=f"{target.key}:restore:-:{digest}",
        domain=domain,
        target=target.key,
        cause="restore",
        outcome="failed" if any(one.outcome == "failed" for one in results) else "applied",
        limit=min(int(found or 0), MOST_RATE),
        reason="; ".join(f"{one.obj.kind} {one.obj.metadata.name}: {one.text}" for one in results)[:2000],
        was=None if workload is None or workload.obj.limit is None else min(workload.obj.limit, MOST_RATE),
        pods=tuple(
            PodOutcome(pod=one.obj.metadata.name, uid=one.obj.uid, outcome=one.outcome)
            for one in results
            if isinstance(one.obj, Pod)
        ),
        applied=now,
    )


async def _restore_all(config: Config, *, dry_run: bool) -> bool:
    """Restore every target and print what was done; returns whether all went well."""
    is_well, actions = True, []
    async with KubeClient.connect(config.kubernetes) as client:
        try:
            domains = await list_domains(client, config)
        except (Rejected, Unavailable) as error:
            click.echo(f"domains of the cluster: {error}; only the file's are restored", err=True)
            is_well, domains = False, config.domains
        left = [(one, target) for one in domains for target in one.targets]
        for attempt in range(1 if dry_run else _ROUNDS):
            if attempt and left:
                # An actuator that runs may have written a Pod before it saw that the workload was restored.
                await asyncio.sleep(_SETTLE_S)
            again = []
            for domain, target in left:
                results, went_well = await _restore_target(client, target, dry_run=dry_run, is_first=not attempt)
                is_well = is_well and went_well
                if results:
                    actions.append(build_restore_action(domain.name, target, results, time.time_ns()))
                if any(one.outcome == "applied" for one in results):
                    again.append((domain, target))
            left = again
    if actions and not dry_run:
        try:
            async with asyncio.timeout(_BUS_S), Bus.connect(config.bus, "actuator", lambda _: None) as bus:
                for action in actions:
                    await publish_action(bus, action, {})
        except TimeoutError:
            click.echo(f"not reported: the bus did not answer within {_BUS_S:g} s", err=True)
    return is_well


async def _restore_target(
    client: Restorer, target: Target, *, dry_run: bool, is_first: bool
) -> tuple[list[RestoreResult], bool]:
    """Restore one target and print what was done; also returns whether that went well."""
    try:
        results = await restore(client, target, dry_run=dry_run)
    except NotFound:
        what = "there is no record of it" if target.ref is None else f"there is no such {target.ref.kind}"
        click.echo(f"{target.key}: {what}")
        return [], True
    except (Rejected, Unavailable) as error:
        click.echo(f"{target.key}: {error}", err=True)
        return [], False
    if not results and is_first:
        click.echo(f"{target.key}: nothing of Sluice's on it")
    for one in results:
        click.echo(f"{target.key}: {one.obj.kind} {one.obj.metadata.name}: {one.text}")
    return results, all(one.outcome != "failed" for one in results)


@click.command()
@click.option("--config", "path", type=ConfigFile(), required=True, help="The configuration file.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def command(path: Path, *, dry_run: bool) -> None:
    """Put the annotations back as they were found.

    Stop the actuator first.  One that runs leaves a restored target alone; one that is started again
    takes it up again.

    Exit code 1: something could not be restored.
    """
    try:
        config = with_default_kubeconfig(load(path))
        logging_setup.configure("restore", "error")
        is_well = asyncio.run(_restore_all(config, dry_run=dry_run or config.kubernetes.dry_run))
    except (ConfigError, KubeConfigError) as error:
        raise CommandFailure(error, ExitCode.UNREADABLE) from None
    sys.exit(ExitCode.OK if is_well else ExitCode.FINDING)
