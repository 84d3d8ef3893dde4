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
from schemas.numbers import MOST_RATE
from schemas.units import Rate
from services.actuator.desired_limit import LimitOrder
from services.actuator.observed import ObservedState
from services.actuator.ownership import (
    KEY,
    MAX_BACKLOG,
    RAISE_BACKLOG,
    Extent,
    OwnershipRecord,
    WriteRecord,
    build_patch,
    find_record,
)
from services.kube.objects import BANDWIDTH, Pod, Workload

MOST_WRITES = 500
"""A plan has no more, the deepest cuts first, so that its patches and its report stay small; another plan follows."""


class WriterTerm(Struct, frozen=True):
    """The actuator process that writes, its term in charge, and of what."""

    extent: Extent
    by: str
    term: int
    """Larger than that of every process before it."""
    renews: bool = False
    """Whether to write a record again although nothing has changed, for another actuator to see."""
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


def share_per_pod(target: Target, limit: int, workload: Workload | None, pods: Sequence[Pod]) -> int:
    """Each Pod's share of a limit, kbit/s: rounded down, at least 1.

    A DaemonSet wants as many Pods as there are nodes for it.  How many Pods come to a part's nodes, nobody knows
    (None): one that comes is limited with the others as soon as it is there.
    """
    if target.scope == "per-pod":
        return limit
    sending = sum(not pod.has_ended for pod in pods)
    return max(1, limit // max(sending, 0 if workload is None else workload.wanted_pods, 1))


def sum_of_limits(target: Target, pods: Sequence[Pod]) -> int | None:
    """What the Pods may send by their own annotations, kbit/s, in the target's scope; None: unlimited, or no Pods."""
    limits = [pod.limit for pod in pods if not pod.has_ended]
    known = [limit for limit in limits if limit is not None]
    if not known or len(known) < len(limits):
        return None
    return sum(known) if target.scope == "aggregate" else min(known)


def find_in_force(
    target: Target, extent: Extent, observed: ObservedState, latest: int
) -> tuple[OwnershipRecord | None, int | None]:
    """The newest record, and the lowest limit that may be in force, kbit/s: a cut may have reached Pods alone.

    Newest is that of the newest decision, and of those of the same decision the last one written.  A record under
    another scope tells of another quantity: what the Pods carry counts then, and no decision goes on.

    Args:
        target: the configuration.
        extent: what the limit is for.
        observed: the target's objects as they were last seen.
        latest: records of samples that end after this time, UTC ns, were written under a wrong clock.
    """
    pods, scopes = observed.pods, ("", target.scope)
    carrier = None if extent.is_part else observed.workload
    records = (extent.find_record(obj) for obj in (carrier, *pods))
    valid = (one for one in records if one is not None and (one.end is None or one.end <= latest))
    record = max(valid, key=lambda one: (one.end or 0, one.at), default=None)
    declared = find_record(carrier)
    is_declared = declared is None or declared.scope in scopes
    limits = [carrier.limit] if carrier is not None and is_declared else []
    if record is not None:
        if record.scope not in scopes:
            now = sum_of_limits(target, pods)
            record = structs.replace(record, limit=int(target.fail_safe) if now is None else now, expires=None)
        limits.append(record.limit)
    return record, min((one for one in limits if one is not None), default=None)


def build_plan(
    target: Target,
    order: LimitOrder,
    workload: Workload | None,
    pods: Sequence[Pod],
    writer: WriterTerm,
    owed: Collection[str],
    now: int,
) -> Plan:
    """Plan the writes that bring the target's objects to an order.

    Args:
        target: the configuration.
        order: the desired limit.
        workload: the target's workload as it was last seen; None: only Pods carry the limit.
        pods: its Pods as they were last seen.
        writer: who writes, and what.
        owed: ids of the actions whose reports the bus has yet to acknowledge.
        now: UTC ns.
    """
    mismatches = _find_mismatches(target, order, workload, pods, writer.extent)
    if writer.renews and not mismatches:
        mismatches = _renew(target, order, workload, pods)
    if len(mismatches) > MOST_WRITES:
        mismatches.sort(key=lambda one: (one.drop < 0, one.obj.uid in writer.refused, -one.drop))
        del mismatches[MOST_WRITES:]
    actions: dict[Cause, str] = {}
    for cause in {one.cause for one in mismatches}:
        # The same action of one process on the same state has the same id.  Two processes that act at
        # once each report their own part: under one id the bus would drop one.
        seen = sorted(f"{one.obj.uid} {one.obj.metadata.resource_version}" for one in mismatches if one.cause == cause)
        digest = blake2b("\n".join([*seen, str(order.limit), writer.by]).encode(), digest_size=6).hexdigest()
        actions[cause] = ":".join([writer.extent.name, cause, order.decision or "-", digest])
    was = sum_of_limits(target, pods) if workload is None else workload.limit
    provenance, writes = order.fields, []
    for one in mismatches:
        before = find_record(one.obj)
        unreported = [write for write in before.writes if write.action in owed] if before else []
        shows_term = workload is None or isinstance(one.obj, Workload)
        record = OwnershipRecord(
            action=actions[one.cause],
            cause=one.cause,
            value=str(Rate(one.rate)),
            limit=order.limit,
            at=now,
            was=None if was is None else min(was, MOST_RATE),
            found=before.found if before else one.obj.bandwidth,
            term=writer.term if shows_term else 0,
            by=writer.by if shows_term else "",
            scope=target.scope,
            owed=tuple(convert(write, WriteRecord, from_attributes=True) for write in unreported[-MAX_BACKLOG:]),
            **provenance,
        )
        writes.append(Write(obj=one.obj, rate=one.rate, drop=one.drop, record=record))
    return Plan(tuple(writes), {actions[one.cause]: one.why for one in reversed(mismatches)})


def is_whole(target: Target, limit: int, workload: Workload | None, pods: Sequence[Pod]) -> bool:
    """Whether all objects that carry a limit, kbit/s, have it."""
    share = str(Rate(share_per_pod(target, limit, workload, pods)))
    return (workload is None or workload.has_bandwidth(str(Rate(limit)))) and all(
        pod.has_ended or pod.is_terminating or pod.has_bandwidth(share) for pod in pods
    )


def _renew(target: Target, order: LimitOrder, workload: Workload | None, pods: Sequence[Pod]) -> list[Mismatch]:
    """The object whose record shows others who is in charge; none where there is no Pod."""
    if workload is not None:
        return [Mismatch(workload, order.limit, order.cause, order.reason)]
    share = share_per_pod(target, order.limit, None, pods)
    live = (pod for pod in pods if not (pod.has_ended or pod.is_terminating))
    return [Mismatch(pod, share, order.cause, order.reason) for pod in live][:1]


def _find_mismatches(
    target: Target, order: LimitOrder, workload: Workload | None, pods: Sequence[Pod], extent: Extent
) -> list[Mismatch]:
    found: list[Mismatch] = []
    scopes = ("", target.scope)
    if workload is None:
        is_new_limit = all(
            record is None or record.limit != order.limit or record.scope not in scopes
            for record in map(extent.find_record, pods)
        )
    else:
        own = find_record(workload)
        is_new_limit = own is None or own.limit != order.limit or own.scope not in scopes
        if is_new_limit:
            found.append(Mismatch(workload, order.limit, order.cause, order.reason))
        elif not workload.has_bandwidth(str(Rate(order.limit))):
            found.append(Mismatch(workload, order.limit, "drift", "the annotation was removed"))
    share = share_per_pod(target, order.limit, workload, pods)
    for pod in pods:
        if not (pod.has_ended or pod.is_terminating or pod.has_bandwidth(str(Rate(share)))):
            cause, why = order.cause, order.reason
            if not is_new_limit:
                cause, why = _explain_mismatch(pod, extent.find_record(pod), order)
            found.append(Mismatch(pod, share, cause, why))
    return found


def _explain_mismatch(pod: Pod, record: OwnershipRecord | None, order: LimitOrder) -> tuple[Cause, str]:
    """Why a Pod's bandwidth differs from its share although others have the order's limit."""
    if record is None:
        return "new-pod", "a pod appeared"
    if not pod.has_bandwidth(record.value):
        return "drift", f"a pod had {pod.bandwidth!r} instead of {record.value!r}"
    if record.limit != order.limit:
        return order.cause, order.reason
    return "rescale", "the number of pods changed"
