"""Carries a plan out: the patches, and what the API server makes of them."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog
from msgspec import Struct

from schemas.messages import Outcome, PodOutcome
from services.actuator import metrics
from services.actuator.informer import Seen
from services.actuator.plan import Plan, Write
from services.common import failpoints
from services.kube.client import T
from services.kube.objects import Deployment, Gone, Pod, Refused, Stale, Unavailable, Unwanted

_log = structlog.get_logger()


class Patches(Protocol):
    """What this needs of the cluster."""

    async def patch(self, thing: T, operations: list[dict[str, Any]], wanted: Callable[[], bool]) -> T:
        """Apply a JSON Patch to an object if it is ``wanted`` when its turn has come; gives what came of it."""

    async def read(self, kind: type[T], namespace: str, name: str) -> T:
        """The object as it is now."""


class Done(Struct, frozen=True):
    """What became of a plan."""

    answers: Sequence[tuple[Write, PodOutcome]]
    stale: bool
    """Whether some objects were not as they had been seen, and now are seen anew."""

    @property
    def failed(self) -> bool:
        """Whether something could not be done."""
        return any(outcome.outcome == "failed" for _, outcome in self.answers)

    @property
    def claimed(self) -> bool:
        """Whether the Deployment was written."""
        return any(isinstance(write.thing, Deployment) and one.outcome == "applied" for write, one in self.answers)


async def carry_out(
    cluster: Patches, seen: Seen, plan: Plan, wanted: Callable[[Write], bool], *, patient: bool
) -> Done:
    """Write what is planned, phase by phase, each phase at once.

    Args:
        cluster: to patch.
        seen: takes what comes back.
        plan: what to write.
        wanted: whether a write still is: asked right before it is sent.
        patient: whether an object that is not as it was seen is only looked at anew, and not a failure.
    """
    failpoints.point("actuator.planned")
    answers: list[tuple[Write, PodOutcome]] = []
    held: list[Stale | Unwanted] = []
    for phase in plan.phases:
        results = await asyncio.gather(*(_write(cluster, seen, write, wanted, patient=patient) for write in phase))
        answers += [(write, one) for write, one in zip(phase, results, strict=True) if isinstance(one, PodOutcome)]
        held = [one for one in results if not isinstance(one, PodOutcome)]
        # What follows takes room that these should have made.
        if held or any(one.outcome == "failed" for _, one in answers):
            break
    failpoints.point("actuator.written")
    return Done(answers, any(isinstance(one, Stale) for one in held))


async def _write(
    cluster: Patches, seen: Seen, write: Write, wanted: Callable[[Write], bool], *, patient: bool
) -> PodOutcome | Stale | Unwanted:
    """Patch one object; gives what kept it from being patched where that is no failure."""
    thing = write.thing
    name = thing.metadata.name
    outcome: Outcome = "applied"
    error = None
    try:
        after = await cluster.patch(thing, write.operations, lambda: wanted(write))
        failpoints.point("actuator.patched")
        seen.answered(after)
        if after.bandwidth != write.record.value:
            outcome, error = "failed", f"{name} came back with {after.bandwidth!r}"
    except Unwanted as unwanted:
        return unwanted
    except Stale as stale:
        metrics.conflicts.inc()
        await _look_again(cluster, seen, thing)
        if patient:
            return stale
        outcome, error = "failed", f"{name} is never as it was seen: {stale}"
    except Gone:
        seen.remove(thing)
        outcome, error = "skipped", f"{name} is gone"
    except (Refused, Unavailable) as failure:
        outcome, error = "failed", f"{name}: {failure}"
    metrics.patches.labels(write.record.cause, outcome).inc()
    return PodOutcome(name, thing.uid, outcome, write.rate if outcome == "applied" else None, error)


async def _look_again(cluster: Patches, seen: Seen, thing: Deployment | Pod) -> None:
    try:
        found = await cluster.read(type(thing), thing.metadata.namespace, thing.metadata.name)
        if found.uid == thing.uid:
            seen.answered(found)
        else:
            seen.remove(thing)  # another of that name is for the watch to tell
    except Gone:
        seen.remove(thing)
    except (Refused, Unavailable) as failure:
        _log.warning("cannot look again", object=thing.metadata.name, reason=str(failure))
