"""From a limit order and the objects as they were seen to the writes that are missing.  Pure.

    limit order, workload, Pods --> plan --> patches, cuts before raises

A limit for all replicas together is divided among them.  A Pod that was deleted and still runs keeps its
share until it is gone, and a replica that is still to come already has one, so that what the Pods may
send never adds up to more than the limit.
"""

from collections.abc import Collection, Sequence
from hashlib import blake2b
from math import inf
from typing import Any

import msgspec
from msgspec import Struct, convert, structs

from schemas.domain import Target
from schemas.messages import Cause
from schemas.units import Rate
from services.actuator.desired_limit import LimitOrder
from services.actuator.ownership import (
    KEY,
    MAX_BACKLOG,
    RAISE_BACKLOG,
    OwnershipRecord,
    WriteRecord,
    build_patch,
    find_record,
    newest_record,
)
from services.kube.objects import BANDWIDTH, Pod, Workload

MOST_WRITES = 500
"""A plan has no more, the deepest cuts first, so that its patches and its report stay small; another plan follows."""


class WriterTerm(Struct, frozen=True):
    """The actuator process that writes, and its term in charge of the target."""

    by: str
    term: int
    """Larger than that of every process before it."""
    renews: bool = False
    """Whether to write the workload's record again although nothing has changed, for another actuator to see."""
    refused: Collection[str] = ()
    """Uids of objects whose patches were refused: the others come first."""


class Mismatch(Struct, frozen=True):
    """An object whose bandwidth is not the one that is desired."""

    obj: Workload | Pod
    rate: int
    """Its desired bandwidth, kbit/s."""
    cause: Cause
    why: str

    @property
    def drop(self) -> float:
        """By how much its desired bandwidth lowers what it may send, kbit/s; negative for a raise."""
        limit = self.obj.limit
        return inf if limit is None else limit - self.rate


class Write(Struct, frozen=True):
    """One patch."""

    obj: Workload | Pod
    rate: int
    """The object's new bandwidth, kbit/s."""
    drop: float
    """By how much it lowers what the object may send, kbit/s; negative for a raise."""
    record: OwnershipRecord

    @property
    def operations(self) -> list[dict[str, Any]]:
        """The JSON Patch; built when it is sent, since thousands of writes may wait for their turn."""
        value = msgspec.json.encode(self.record).decode()
        return build_patch(self.obj, {BANDWIDTH: self.record.value, KEY: value})

    @property
    def is_cut(self) -> bool:
        """Whether it does not raise what the object may send."""
        return self.drop >= 0


class Plan(Struct, frozen=True):
    """The writes, and the reason for each action that they make up."""

    writes: tuple[Write, ...]
    reasons: dict[str, str]
    """By action id."""

    @property
    def phases(self) -> list[tuple[Write, ...]]:
        """Cuts, then raises: bandwidth is released before anybody takes it.

        The deepest cuts go first, so that they are made even if lower orders end the plan early again and again.
        """
        cuts = tuple(sorted((write for write in self.writes if write.is_cut), key=lambda write: -write.drop))
        raises = tuple(write for write in self.writes if not write.is_cut)
        return [phase for phase in (cuts, raises) if phase]

    def without_raises(self) -> "Plan":
        """Only the cuts."""
        return Plan(tuple(write for write in self.writes if write.is_cut), self.reasons)

    @property
    def has_backlog(self) -> bool:
        """Whether an object carries so many unreported writes that raises have to wait for the bus.

        After a crash these writes are reported from the objects alone, whose room is limited.
        """
        return any(len(write.record.owed) >= RAISE_BACKLOG for write in self.writes)


def share_per_pod(target: Target, limit: int, workload: Workload, pods: Sequence[Pod]) -> int:
    """Each Pod's share of the target's limit, kbit/s: rounded down, at least 1.

    A DaemonSet wants as many Pods as there are nodes for it.
    """
    if target.scope == "per-pod":
        return limit
    sending = sum(not pod.has_ended for pod in pods)
    return max(1, limit // max(sending, workload.wanted_pods, 1))


def sum_of_limits(target: Target, pods: Sequence[Pod]) -> int | None:
    """What the Pods may send by their own annotations, kbit/s, in the target's scope; None: unlimited, or no Pods."""
    limits = [pod.limit for pod in pods if not pod.has_ended]
    known = [limit for limit in limits if limit is not None]
    if not known or len(known) < len(limits):
        return None
    return sum(known) if target.scope == "aggregate" else min(known)


def find_in_force(
    target: Target, workload: Workload | None, pods: Sequence[Pod], latest: int
) -> tuple[OwnershipRecord | None, int | None]:
    """The newest record, and the lowest limit that may be in force, kbit/s: a cut may have reached Pods alone.

    A record under another scope tells of another quantity: what the Pods carry counts then, and no decision goes on.

    Args:
        target: the configuration.
        workload: the target's workload as it was last seen.
        pods: its Pods as they were last seen.
        latest: records of samples that end after this time, UTC ns, were written under a wrong clock.
    """
    record, declared = newest_record(workload, pods, latest), find_record(workload)
    is_declared = declared is None or declared.is_in_scope(target.scope)
    limits = [workload.limit] if workload is not None and is_declared else []
    if record is not None:
        if not record.is_in_scope(target.scope):
            now = sum_of_limits(target, pods)
            record = structs.replace(record, limit=int(target.fail_safe) if now is None else now, expires=None)
        limits.append(record.limit)
    return record, min((one for one in limits if one is not None), default=None)


def build_plan(
    target: Target,
    order: LimitOrder,
    workload: Workload,
    pods: Sequence[Pod],
    writer: WriterTerm,
    owed: Collection[str],
    now: int,
) -> Plan:
    """Plan the writes that bring the target's objects to an order.

    Args:
        target: the configuration.
        order: the desired limit.
        workload: the target's workload as it was last seen.
        pods: its Pods as they were last seen.
        writer: who writes.
        owed: ids of the actions whose reports the bus has yet to acknowledge.
        now: UTC ns.
    """
    mismatches = _find_mismatches(target, order, workload, pods)
    if writer.renews and not mismatches:
        mismatches = [Mismatch(workload, order.limit, order.cause, order.reason)]
    if len(mismatches) > MOST_WRITES:
        mismatches.sort(key=lambda one: (one.drop < 0, one.obj.uid in writer.refused, -one.drop))
        del mismatches[MOST_WRITES:]
    actions: dict[Cause, str] = {}
    for cause in {one.cause for one in mismatches}:
        # The same action of one process on the same state has the same id.  Two processes that act at
        # once each report their own part: under one id the bus would drop one.
        seen = sorted(f"{one.obj.uid} {one.obj.metadata.resource_version}" for one in mismatches if one.cause == cause)
        digest = blake2b("\n".join([*seen, str(order.limit), writer.by]).encode(), digest_size=6).hexdigest()
        actions[cause] = ":".join([target.key, cause, order.decision or "-", digest])
    was, provenance, writes = workload.limit, order.fields, []
    for one in mismatches:
        before = find_record(one.obj)
        unreported = [write for write in before.writes if write.action in owed] if before else []
        is_workload = isinstance(one.obj, Workload)
        record = OwnershipRecord(
            action=actions[one.cause],
            cause=one.cause,
            value=str(Rate(one.rate)),
            limit=order.limit,
            at=now,
            was=was,
            found=before.found if before else one.obj.bandwidth,
            term=writer.term if is_workload else 0,
            by=writer.by if is_workload else "",
            scope=target.scope,
            owed=tuple(convert(write, WriteRecord, from_attributes=True) for write in unreported[-MAX_BACKLOG:]),
            **provenance,
        )
        writes.append(Write(obj=one.obj, rate=one.rate, drop=one.drop, record=record))
    return Plan(tuple(writes), {actions[one.cause]: one.why for one in reversed(mismatches)})


def is_whole(target: Target, limit: int, workload: Workload, pods: Sequence[Pod]) -> bool:
    """Whether all objects of a target have a limit, kbit/s."""
    share = str(Rate(share_per_pod(target, limit, workload, pods)))
    return workload.has_bandwidth(str(Rate(limit))) and all(
        pod.has_ended or pod.is_terminating or pod.has_bandwidth(share) for pod in pods
    )


def _find_mismatches(target: Target, order: LimitOrder, workload: Workload, pods: Sequence[Pod]) -> list[Mismatch]:
    record = find_record(workload)
    is_new_limit = record is None or record.limit != order.limit or not record.is_in_scope(target.scope)
    found: list[Mismatch] = []
    if is_new_limit:
        found.append(Mismatch(workload, order.limit, order.cause, order.reason))
    elif not workload.has_bandwidth(str(Rate(order.limit))):
        found.append(Mismatch(workload, order.limit, "drift", "the annotation was removed"))
    share = share_per_pod(target, order.limit, workload, pods)
    for pod in pods:
        if not (pod.has_ended or pod.is_terminating or pod.has_bandwidth(str(Rate(share)))):
            cause, why = (order.cause, order.reason) if is_new_limit else _explain_mismatch(pod, order)
            found.append(Mismatch(pod, share, cause, why))
    return found


def _explain_mismatch(pod: Pod, order: LimitOrder) -> tuple[Cause, str]:
    """Why a Pod's bandwidth differs from its share although the workload has the order's limit."""
    record = find_record(pod)
    if record is None:
        return "new-pod", "a pod appeared"
    if not pod.has_bandwidth(record.value):
        return "drift", f"a pod had {pod.bandwidth!r} instead of {record.value!r}"
    if record.limit != order.limit:
        return order.cause, order.reason
    return "rescale", "the number of pods changed"
