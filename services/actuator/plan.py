"""From what is to be in force and what is seen to what has to be written.  Pure.

    order, Deployment, Pods --> plan --> patches, cuts before raises --> actions

A limit that holds for all replicas together is divided among them.  A Pod that was deleted and still
runs keeps its share until it is gone, and a replica that is still to come has one already, so that
what the Pods may send never adds up to more than the limit.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from math import inf
from typing import Any

from msgspec import Struct

from schemas.domain import Target
from schemas.messages import Action, Cause, Outcome, PodOutcome
from schemas.units import Rate
from services.actuator.order import Order, in_force, rate_of
from services.actuator.ownership import (
    HAND_OVER,
    KEY,
    MOST_OWED,
    ROOM,
    Record,
    UnreadableRecord,
    Written,
    operations,
    readable_record,
    record_of,
    write_record,
)
from services.kube.objects import BANDWIDTH, Deployment, Pod, Thing


class Author(Struct, frozen=True):
    """The actuator process that writes."""

    by: str
    term: int
    """Larger than that of every process before it."""


class Write(Struct, frozen=True):
    """One patch."""

    thing: Deployment | Pod
    rate: int
    """The object's new bandwidth, kbit/s."""
    record: Record
    operations: list[dict[str, Any]]

    @property
    def cut(self) -> bool:
        """Whether it lowers what the object may send."""
        return self.drop >= 0

    @property
    def drop(self) -> float:
        """By how much it lowers that, kbit/s."""
        before = rate_of(self.thing.bandwidth)
        return inf if before is None else before - self.rate


class Need(Struct, frozen=True):
    """An object that is not as it should be."""

    thing: Deployment | Pod
    rate: int
    cause: Cause
    why: str


class Plan(Struct, frozen=True):
    """What to write, and what to say of it."""

    writes: tuple[Write, ...]
    reasons: dict[str, str]
    """By action id."""

    @property
    def phases(self) -> Iterable[tuple[Write, ...]]:
        """Cuts, then the rest: there is room before anybody takes it.

        The deepest cuts go first: they are done when a lower order ends the plan early, again and again.
        """
        cuts = tuple(sorted((write for write in self.writes if write.cut), key=lambda write: -write.drop))
        rest = tuple(write for write in self.writes if not write.cut)
        return [phase for phase in (cuts, rest) if phase]

    @property
    def bearable(self) -> "Plan":
        """Without raises where an object owes as many reports as it should: they wait until the bus takes some.

        What a crash would have to be reported from is on the objects alone, and has no room without end.
        """
        if all(len(write.record.owed) < MOST_OWED for write in self.writes):
            return self
        return Plan(tuple(write for write in self.writes if write.cut), self.reasons)


def left_alone(deployment: Deployment, *, managed: bool) -> str | None:
    """Why a target may not be touched; None where it may.

    Args:
        deployment: as it is seen.
        managed: whether this process has seen Sluice's record on it.
    """
    try:
        record = record_of(deployment)
    except UnreadableRecord as error:
        return str(error)
    if record is None:
        if managed and deployment.annotations.get(KEY) is None:
            return f"its {KEY} was removed: it was restored, or replaced by somebody else"
        return None
    if deployment.bandwidth is None or _same(deployment.bandwidth, record.value):
        return None
    return f"somebody else set {BANDWIDTH} to {deployment.bandwidth!r}; Sluice had set {record.value!r}"


def way_back(deployment: Deployment) -> str:
    """How a person gives a target back that is left alone."""
    name, namespace = deployment.metadata.name, deployment.metadata.namespace
    key = f"{BANDWIDTH}-" if readable_record(deployment) is not None else f"{KEY}='{HAND_OVER}' --overwrite"
    return f"kubectl -n {namespace} annotate deployment {name} {key}"


def _same(seen: str | None, wanted: str) -> bool:
    return seen == wanted or (seen is not None and rate_of(seen) == rate_of(wanted) is not None)


def per_pod(target: Target, limit: int, deployment: Deployment, pods: Sequence[Pod]) -> int:
    """Each Pod's share of the target's limit, kbit/s: rounded down, never nothing."""
    if target.scope == "per-pod":
        return limit
    sending = sum(not pod.ended for pod in pods)
    return max(1, limit // max(sending, deployment.spec.replicas, 1))


def needs(target: Target, order: Order, deployment: Deployment, pods: Sequence[Pod]) -> list[Need]:
    """The objects whose bandwidth is not what the order says, and why."""
    found = []
    record = readable_record(deployment)
    changing = record is None or record.limit != order.limit
    if changing or not _same(deployment.bandwidth, str(Rate(order.limit))):
        cause: Cause = order.cause if changing else "drift"
        found.append(Need(deployment, order.limit, cause, order.reason if changing else "the annotation was removed"))
    share = per_pod(target, order.limit, deployment, pods)
    wrong = [pod for pod in pods if not (pod.ended or pod.going or _same(pod.bandwidth, str(Rate(share))))]
    return found + [Need(pod, share, *_pod_cause(pod, order, changing=changing)) for pod in wrong]


def _pod_cause(pod: Pod, order: Order, *, changing: bool) -> tuple[Cause, str]:
    record = readable_record(pod)
    if changing:
        return order.cause, order.reason
    if record is None:
        return "new-pod", "a pod appeared"
    if not _same(pod.bandwidth, record.value):
        return "drift", f"a pod had {pod.bandwidth!r} instead of {record.value!r}"
    if record.limit != order.limit:
        return order.cause, order.reason
    return "rescale", "the number of pods changed"


def planned(
    target: Target,
    order: Order,
    deployment: Deployment,
    pods: Sequence[Pod],
    author: Author,
    owes: Callable[[str], bool],
    now: int,
) -> Plan:
    """What to write so that the order is in force.

    Args:
        target: the configuration.
        order: what is to be in force.
        deployment: the target's Deployment as it is seen.
        pods: its Pods as they are seen.
        author: who writes.
        owes: whether the bus has yet to acknowledge the report of an action.
        now: UTC ns.
    """
    wanted = needs(target, order, deployment, pods)
    ids = {
        cause: _action_id(target, order, cause, author, [need for need in wanted if need.cause == cause])
        for cause in {need.cause for need in wanted}
    }
    was = in_force(deployment)
    writes = tuple(_write(need, ids[need.cause], order, author, was, owes, now) for need in wanted)
    return Plan(writes, {ids[need.cause]: need.why for need in reversed(wanted)})


def _action_id(target: Target, order: Order, cause: Cause, author: Author, wanted: Iterable[Need]) -> str:
    """The same action of one process on the same objects as they are seen has the same id.

    Two processes that act at once each report their own part: under one id the bus would drop one.
    """
    seen = sorted(f"{need.thing.uid} {need.thing.metadata.resource_version}" for need in wanted)
    digest = blake2b("\n".join([*seen, str(order.limit), author.by]).encode(), digest_size=6).hexdigest()
    return ":".join([target.key, cause, order.decision or "-", digest])


def _write(
    need: Need, action: str, order: Order, author: Author, was: int | None, owes: Callable[[str], bool], now: int
) -> Write:
    thing = need.thing
    before = readable_record(thing)
    main = isinstance(thing, Deployment)
    owed = tuple(one for one in before.writes if owes(one.action))[-ROOM:] if before else ()
    record = Record(
        action=action,
        cause=need.cause,
        value=str(Rate(need.rate)),
        limit=order.limit,
        at=now,
        decision=order.decision,
        epoch=order.epoch,
        seq=order.seq,
        end=order.end,
        decided=order.decided,
        expires=order.expires,
        was=was,
        found=before.found if before else thing.bandwidth,
        term=author.term if main else 0,
        by=author.by if main else "",
        owed=tuple(_plain(one) for one in owed),
    )
    return Write(thing, need.rate, record, operations(thing, {BANDWIDTH: record.value, KEY: write_record(record)}))


def _plain(one: Written) -> Written:
    """A write without what only the latest one carries."""
    return Written(**{name: getattr(one, name) for name in Written.__struct_fields__})


def report(
    target: Target, domain: str, order: Order, done: Sequence[tuple[Write, PodOutcome]], why: str, applied: int
) -> Action:
    """The action that some writes of one id make up.

    Args:
        target: the target.
        domain: its domain.
        order: what was to be in force.
        done: the writes of one action, and what became of each.
        why: in words.
        applied: when the last of them was acknowledged, UTC ns.
    """
    record = done[0][0].record
    outcomes = [outcome for _, outcome in done]
    errors = sorted({outcome.error for outcome in outcomes if outcome.error})
    return Action(
        id=record.action,
        domain=domain,
        target=target.key,
        cause=record.cause,
        outcome=_whole(outcomes),
        limit=order.limit,
        reason="; ".join([why, *errors]),
        decision=order.decision,
        epoch=order.epoch,
        seq=order.seq,
        was=record.was,
        pods=tuple(outcome for write, outcome in done if isinstance(write.thing, Pod)),
        sampled=order.end if order.decision else None,
        decided=order.decided,
        applied=applied if any(outcome.outcome == "applied" for outcome in outcomes) else None,
    )


def _whole(outcomes: Sequence[PodOutcome]) -> Outcome:
    kinds = {outcome.outcome for outcome in outcomes}
    for kind in ("failed", "dry-run", "applied"):
        if kind in kinds:
            return kind
    return "skipped"


def recovered(
    target: Target, domain: str, things: Iterable[Thing], reported: Callable[[Thing, str], bool]
) -> list[Action]:
    """The actions whose reports may have been lost, from what the objects carry.

    Args:
        target: the target.
        domain: its domain.
        things: its objects.
        reported: whether an action was reported for an object.
    """
    found: dict[str, tuple[Written, list[PodOutcome]]] = {}
    for thing in things:
        record = readable_record(thing)
        for one in record.writes if record else ():
            if not reported(thing, one.action):
                _, pods = found.setdefault(one.action, (one, []))
                if isinstance(thing, Pod):
                    pods.append(PodOutcome(thing.metadata.name, thing.uid, "applied", rate_of(one.value)))
    return [
        Action(
            id=one.action,
            domain=domain,
            target=target.key,
            cause=one.cause,
            outcome="applied",
            limit=one.limit,
            reason="read back from the objects: its report may have been lost",
            decision=one.decision,
            epoch=one.epoch,
            seq=one.seq,
            was=one.was,
            pods=tuple(pods),
            sampled=one.end if one.decision else None,
            decided=one.decided,
            applied=one.at,
        )
        for one, pods in sorted(found.values(), key=lambda pair: pair[0].at)
    ]
