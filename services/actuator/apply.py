"""Applies a plan: sends its patches, and judges what the API server makes of them.

A server that refuses one patch of a target may refuse all.  So only a few are sent at first; each success allows one
more at a time, and refusals end the round: what was not sent then waits with what was refused.  A server that is
merely slow delays no cut: a moment later all are sent that the client has room for, unless one was refused meanwhile.
Of a target's Pods only one stands in line for the client while there is no room, and takes the memory of a request:
with hundreds of targets, thousands would.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import structlog
from msgspec import Struct

from schemas.messages import Outcome, PodOutcome
from services.actuator import metrics
from services.actuator.observed import ObservedState
from services.actuator.plan import Plan, Write
from services.common import failpoints
from services.kube.changes import T
from services.kube.objects import NotFound, Pod, Rejected, StaleObject, Superseded, Unavailable, Workload

_AT_FIRST = 3
"""Patches of a kind of object that are sent before one of them succeeded, where there is room."""
_PATIENCE_S = 0.1
"""Without a refusal for so long, all are sent for which there is room."""
_REFUSED = 3
_MOST_REFUSED = 6
"""So many refusals end a round; fewer of them if they are a third of the answers."""

_log = structlog.get_logger()


class Patcher(Protocol):
    """What applying a plan needs of the API client."""

    @property
    def room(self) -> int:
        """How many more patches could be sent at once."""

    async def wait_for_room(self, delay_s: float = 0.0) -> None:
        """Wait for so long, and then until there is room, which others may take."""

    async def patch_in_turn(
        self, obj: T, build: Callable[[], list[dict[str, Any]] | None], *, is_cut: bool = False
    ) -> T:
        """Apply the JSON Patch that ``build`` gives when its turn comes, unless that is None; returns the result."""

    async def read(self, kind: type[T], namespace: str, name: str) -> T:
        """Read an object."""


class ApplyResult(Struct, frozen=True):
    """What became of a plan."""

    outcomes: Sequence[tuple[Write, PodOutcome]]
    """Of every write that was answered; the workload's outcome has a Pod's form."""
    failures: Mapping[str, Exception]
    """By uid, why a write failed."""
    is_stale: bool
    """Whether some objects had changed since they were seen; they have been read again."""
    unsent: Sequence[Write] = ()
    """What was not sent, because others were refused."""


class _Unsent(Exception):
    """A patch that was not sent, because others were refused."""


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
    failures: dict[str, Exception] = {}
    is_stale = False
    unsent: list[Write] = []
    patch = partial(_patch, client, observed, is_wanted=is_wanted)
    for phase in plan.phases:
        answers: dict[str, Exception | None] = {}
        pods = [write for write in phase if isinstance(write.obj, Pod)]
        others = [write for write in phase if not isinstance(write.obj, Pod)]
        await asyncio.gather(*(_send_one_kind(client, writes, patch, answers) for writes in (pods, others) if writes))
        errors = [answers.get(write.obj.uid, _UNSENT) for write in phase]
        unsent += [write for write, error in zip(phase, errors, strict=True) if isinstance(error, _Unsent)]
        if any(isinstance(error, NotFound) for error in errors):
            errors = await _confirm_gone(client, observed, phase, errors, looks=tolerate_stale)
        stale = [write for write, error in zip(phase, errors, strict=True) if isinstance(error, StaleObject)]
        has_changed = bool(stale) and await _have_changed(client, observed, stale, tolerate_stale=tolerate_stale)
        is_stale = is_stale or has_changed
        for write, error in zip(phase, errors, strict=True):
            if isinstance(error, (Superseded, _Unsent)) or (isinstance(error, StaleObject) and has_changed):
                continue
            outcomes.append((write, _judge(write, error)))
            if error is not None and not isinstance(error, NotFound):
                failures[write.obj.uid] = error
        # The next phase takes bandwidth that this one should have released.
        if not all(error is None or isinstance(error, NotFound) for error in errors):
            break
    failpoints.point("actuator.written")
    return ApplyResult(outcomes, failures, is_stale, unsent)


async def _send_one_kind(
    client: Patcher,
    writes: Sequence[Write],
    patch: Callable[[Write], Coroutine[Any, Any, Exception | None]],
    errors: dict[str, Exception | None],
) -> None:
    """Send patches, more at a time with every success, into ``errors`` by uid; those behind many refusals stay out."""
    waiting, running = list(reversed(writes)), dict[asyncio.Task[Exception | None], Write]()
    most, refused, answered = 1, 0, 0
    room: asyncio.Task[None] | None = None
    try:
        if len(waiting) > 1:
            write = waiting.pop()
            running[asyncio.create_task(patch(write))] = write
            await asyncio.sleep(0)  # it stands in line now, or has taken the room that there is
            most = min(_AT_FIRST, 1 + client.room)
            room = asyncio.create_task(client.wait_for_room(_PATIENCE_S))
        while True:
            is_over = refused >= _MOST_REFUSED or (refused >= _REFUSED and 3 * refused >= answered)
            while waiting and len(running) < most and not is_over:
                write = waiting.pop()
                running[asyncio.create_task(patch(write))] = write
            if not running:
                return
            awaited = running.keys() if room is None else {*running, room}
            done, _ = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            for task in done & running.keys():
                error = errors[running.pop(task).obj.uid] = task.result()
                answered += 1
                refused += error is not None and not isinstance(error, Superseded)
                most = 1 if refused else most + (client.room > 0)
            if room in done:
                most = most if refused else max(most, len(running) + client.room)
                room = asyncio.create_task(client.wait_for_room()) if waiting and not refused else None
    finally:
        rest = [*running, *([] if room is None else [room])]
        for one in rest:
            one.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


_UNSENT = _Unsent()


async def _patch(
    client: Patcher, observed: ObservedState, write: Write, is_wanted: Callable[[Write], bool]
) -> Exception | None:
    """Patch one object; returns the exception that stopped it, or None."""
    obj = write.obj
    try:
        after = await client.patch_in_turn(
            obj, lambda: write.operations if is_wanted(write) else None, is_cut=write.is_cut
        )
    except (NotFound, Superseded, StaleObject, Rejected, Unavailable) as error:
        return error
    failpoints.point("actuator.patched")
    if after.uid != obj.uid:
        return Unavailable(f"the answer is about another {obj.kind}", status=200)
    observed.update(after, since=obj)
    if after.bandwidth != write.record.value:
        return Rejected(f"came back with {after.bandwidth!r}")
    return None


def _judge(write: Write, error: Exception | None) -> PodOutcome:
    """How a write that was answered ended."""
    name = write.obj.metadata.name
    outcome: Outcome = "applied"
    text = None
    if isinstance(error, NotFound):
        outcome, text = "skipped", f"{name} is gone"
    elif error is not None:
        outcome, text = "failed", f"{name}: {error}"
    metrics.patches.labels(write.record.cause, outcome).inc()
    limit = write.rate if outcome == "applied" else None
    return PodOutcome(pod=name, uid=write.obj.uid, outcome=outcome, limit=limit, error=text)


async def _have_changed(
    client: Patcher, observed: ObservedState, writes: Sequence[Write], *, tolerate_stale: bool
) -> bool:
    """Whether a failed precondition is explained by a change, so that the patches are worth another try at once.

    A policy that denies a patch may answer as if a precondition had failed.  To find out, one object is read again,
    and if it is as it was seen, the patch was refused.
    """
    metrics.conflicts.inc(len(writes))
    if not tolerate_stale or not await _has_changed(client, observed, writes[0].obj):
        return False
    await asyncio.gather(*(_has_changed(client, observed, write.obj) for write in writes[1:]))
    return True


async def _has_changed(client: Patcher, observed: ObservedState, obj: Workload | Pod) -> bool:
    """Read an object again; returns whether it is not as it was seen."""
    try:
        found = await client.read(type(obj), obj.metadata.namespace, obj.metadata.name)
    except NotFound:
        observed.remove(obj)
        return True
    except (Rejected, Unavailable) as failure:
        _log.warning("cannot read again", object=obj.metadata.name, reason=str(failure))
        return False
    if found.uid != obj.uid:
        observed.remove(obj)  # the informer sees the new object of that name
        return True
    observed.update(found, since=obj)
    return found.annotations != obj.annotations or not observed.has(obj)


async def _confirm_gone(
    client: Patcher, observed: ObservedState, phase: Sequence[Write], errors: Sequence[Exception | None], *, looks: bool
) -> list[Exception | None]:
    """Replace each ``NotFound`` of an object that still exists: a proxy that answers patches may report it as missing.

    Args:
        client: reads objects again until one of them is there.
        observed: objects that are gone are removed.
        phase: the writes.
        errors: theirs.
        looks: whether to ask at all; otherwise the watch will show it.
    """
    judged = list(errors)
    for place, (write, error) in enumerate(zip(phase, errors, strict=True)):
        if not isinstance(error, NotFound) or not observed.has(write.obj):
            continue
        if looks and await _is_gone(client, write.obj):
            observed.remove(write.obj)
            continue
        looks = False
        judged[place] = Rejected(f"is there, and cannot be patched: {error}")
    return judged


async def _is_gone(client: Patcher, obj: Workload | Pod) -> bool:
    try:
        found = await client.read(type(obj), obj.metadata.namespace, obj.metadata.name)
    except NotFound:
        return True
    except (Rejected, Unavailable):
        return False
    return found.uid != obj.uid
