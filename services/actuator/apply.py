"""Applies a plan: sends its patches, and judges what the API server makes of them."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog
from msgspec import Struct

from schemas.messages import Outcome, PodOutcome
from services.actuator import metrics
from services.actuator.informer import ObservedState
from services.actuator.plan import Plan, Write
from services.common import failpoints
from services.kube.client import T
from services.kube.objects import NotFound, Pod, Rejected, StaleObject, Superseded, Unavailable, Workload

_log = structlog.get_logger()


class Patcher(Protocol):
    """What applying a plan needs of the API client."""

    async def patch(self, obj: T, operations: list[dict[str, Any]], is_wanted: Callable[[], bool]) -> T:
        """Apply a JSON Patch to an object if it ``is_wanted`` when its turn comes; returns the result."""

    async def read(self, kind: type[T], namespace: str, name: str) -> T:
        """Read an object."""


class ApplyResult(Struct, frozen=True):
    """What became of a plan."""

    outcomes: Sequence[tuple[Write, PodOutcome]]
    """Of every write that was sent; the workload's outcome has a Pod's form."""
    is_stale: bool
    """Whether some objects had changed since they were seen; they have been read again."""


async def apply_plan(
    client: Patcher, observed: ObservedState, plan: Plan, is_wanted: Callable[[Write], bool], *, tolerate_stale: bool
) -> ApplyResult:
    """Send a plan's patches: one phase after the other, those of a phase at once.

    Args:
        client: sends them.
        observed: is updated with what comes back.
        plan: what to write.
        is_wanted: asked right before a write is sent.
        tolerate_stale: whether an object that has changed since it was seen is only read again, instead of
            being a failure.
    """
    failpoints.point("actuator.planned")
    outcomes: list[tuple[Write, PodOutcome]] = []
    is_stale = False
    for phase in plan.phases:
        patches = (_patch(client, observed, write, is_wanted, tolerate_stale=tolerate_stale) for write in phase)
        results = await asyncio.gather(*patches)
        outcomes += [(write, one) for write, one in zip(phase, results, strict=True) if isinstance(one, PodOutcome)]
        is_stale = any(isinstance(one, StaleObject) for one in results)
        # The next phase takes bandwidth that this one should have released.
        if not all(isinstance(one, PodOutcome) and one.outcome != "failed" for one in results):
            break
    failpoints.point("actuator.written")
    return ApplyResult(outcomes, is_stale)


async def _patch(
    client: Patcher, observed: ObservedState, write: Write, is_wanted: Callable[[Write], bool], *, tolerate_stale: bool
) -> PodOutcome | StaleObject | Superseded:
    """Patch one object; returns the exception that stopped it where that is no failure."""
    obj = write.obj
    name = obj.metadata.name
    outcome: Outcome = "applied"
    error = None
    try:
        after = await client.patch(obj, write.operations, lambda: is_wanted(write))
        failpoints.point("actuator.patched")
        observed.update(after, is_answer=True)
        if after.bandwidth != write.record.value:
            outcome, error = "failed", f"{name} came back with {after.bandwidth!r}"
    except Superseded as superseded:
        return superseded
    except StaleObject as stale:
        metrics.conflicts.inc()
        await _read_again(client, observed, obj)
        if tolerate_stale:
            return stale
        outcome, error = "failed", f"{name} changes faster than it can be patched: {stale}"
    except NotFound:
        observed.remove(obj)
        outcome, error = "skipped", f"{name} is gone"
    except (Rejected, Unavailable) as failure:
        outcome, error = "failed", f"{name}: {failure}"
    metrics.patches.labels(write.record.cause, outcome).inc()
    return PodOutcome(
        pod=name, uid=obj.uid, outcome=outcome, limit=write.rate if outcome == "applied" else None, error=error
    )


async def _read_again(client: Patcher, observed: ObservedState, obj: Workload | Pod) -> None:
    try:
        found = await client.read(type(obj), obj.metadata.namespace, obj.metadata.name)
        if found.uid == obj.uid:
            observed.update(found, is_answer=True)
        else:
            observed.remove(obj)  # the informer sees the new object of that name
    except NotFound:
        observed.remove(obj)
    except (Rejected, Unavailable) as failure:
        _log.warning("cannot read again", object=obj.metadata.name, reason=str(failure))
