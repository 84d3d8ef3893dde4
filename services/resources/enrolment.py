"""Watches the workloads that would join a domain by their label, in the kinds and namespaces where one may.

API server --> here --> the set of definitions

A watch that fails leaves what was seen last: only what the API server says takes a workload out of its domain.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from typing import Protocol

import structlog

from services.definitions.definition_set import DefinitionSet
from services.definitions.enrolment import LABEL, Applicant, Place
from services.kube.changes import Deleted, Listed, T
from services.kube.objects import KubeObject, Workload
from services.kube.watching import Change, watch_for_ever
from services.kube.workloads import WORKLOADS

_NAMED = 3
"""Workloads that a note names."""

_log = structlog.get_logger()


class WorkloadLister(Protocol):
    """What watching needs of the API client."""

    def list_and_watch(
        self, kind: type[T], namespace: str, *, selector: str | None = None, keep: Collection[str] = ()
    ) -> AsyncGenerator[Change, None]:
        """Yield all objects, then every change."""


def read_applicant(obj: KubeObject) -> Applicant | None:
    """The applicant that a workload is; None without the label."""
    meta = obj.metadata
    return Applicant.read(obj.kind, meta.namespace, meta.name, meta.labels or {}, obj.annotations)


class EnrolmentWatcher:
    """The workloads with the label as they were last seen."""

    def __init__(
        self,
        client: WorkloadLister,
        definitions: DefinitionSet,
        set_note: Callable[[str, str | None], None],
        warn: Callable[[KubeObject, str], None],
    ) -> None:
        """Prepare; ``run`` does the work.

        Args:
            client: of the API.
            definitions: says where workloads may join, and gets those that would.
            set_note: shows people who may not join and what cannot be watched, or no longer (None).
            warn: reports on a workload why it does not join.
        """
        self._client, self._definitions = client, definitions
        self._set_note, self._notify = set_note, warn
        self._seen: dict[Place, dict[str, Workload]] = {}
        """By place and uid."""
        self._reported: dict[str, str] = {}
        """By the workload's key, why it does not join."""
        self._changed = asyncio.Event()
        definitions.on_change(lambda _: self._changed.set())

    async def run(self) -> None:
        """Watch wherever a domain says that workloads may join, for ever."""
        watches: dict[Place, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                places = self._definitions.places
                for place in watches.keys() - places:
                    watches.pop(place).cancel()
                    self._seen.pop(place, None)
                    self._definitions.forget_place(place)
                    self._set_note(_about(place), None)
                for place in places - watches.keys():
                    watches[place] = group.create_task(self._watch(place))
                self._report()
                await self._changed.wait()

    async def _watch(self, place: Place) -> None:
        kind, namespace = place

        async def start() -> AsyncGenerator[Change, None]:
            return self._client.list_and_watch(WORKLOADS[kind], namespace, selector=LABEL, keep=(LABEL,))

        async def take(change: Change, _began: float) -> None:
            self._set_note(_about(place), None)
            if isinstance(change, Listed):
                self._seen[place] = {one.uid: one for one in change.objects}
            elif isinstance(change, Deleted):
                self._seen[place].pop(change.object.uid, None)
            else:
                self._seen[place][change.object.uid] = change.object
            found = [read_applicant(one) for one in self._seen[place].values()]
            self._definitions.replace_applicants(place, [one for one in found if one is not None])
            self._changed.set()

        def fail(error: Exception) -> float:
            text = f"{kind}s that would join a domain cannot be watched: {error}"
            _log.warning("watch failed", namespace=namespace, kind=kind, reason=str(error))
            self._set_note(_about(place), text)
            return 0.0

        await watch_for_ever(start, take, fail)

    def _report(self) -> None:
        """Say on a workload, and in a note, why it does not join; once for each reason."""
        reasons = {key: why for found in self._definitions.turned_away.values() for key, why in found.items()}
        known = {
            (key, one.wanted): obj
            for seen in self._seen.values()
            for obj in seen.values()
            if (one := read_applicant(obj)) is not None and (key := one.key)
        }
        for key, wanted in known:
            if key not in reasons and self._definitions.find_owner(key) is None:
                reasons[key] = f"no domain {wanted!r} takes a workload of its kind in its namespace"
        for (key, wanted), obj in known.items():
            if key in reasons and self._reported.get(key) != reasons[key]:
                _log.warning("workload does not join", workload=key, domain=wanted, reason=reasons[key])
                self._notify(obj, f"it does not join domain {wanted!r}: {reasons[key]}")
        self._reported = {key: why for key, why in reasons.items() if key in {one for one, _ in known}}
        some = [f"{key}: {why}" for key, why in sorted(self._reported.items())]
        more = "; ..." if len(some) > _NAMED else ""
        self._set_note("enrolment", "; ".join(some[:_NAMED]) + more if some else None)


def _about(place: Place) -> str:
    kind, namespace = place
    return f"enrolment of {kind}s in {namespace}"
