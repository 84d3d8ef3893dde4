"""Keeps the targets' workloads and Pods as the API server last showed them: lists them, then watches.

All targets of a namespace share two watches: a connection each would cost 150 kB of memory a target.

API server --> here --> observed state --> reconciler.py
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import structlog

from services.common.backoff import BackOff
from services.kube.client import Deleted, Listed, T, Updated
from services.kube.objects import NotFound, Pod, Rejected, Unavailable, Workload

_STEADY_S = 5.0
"""After a watch that lasted longer, back-off restarts."""
_LAG_S = 5.0
"""A watch shows a change at most so long after the answer to the request that made it."""
_SILENT_S = (0.2, 5.0)
"""First and longest delay before an API server is asked again that does not answer."""
_ENDED_S = (1.0, 12.0)
"""The same if the server no longer has the changes."""
_REFUSED_S = (8.0, 40.0)
"""The same where it answers, and refuses."""
_RELIST_S = 0.5
"""New workloads have their Pods listed no more often than this: many may appear one after another."""
_TOLD_S = 60.0
"""A longer delay that the server asks for is not kept."""

_log = structlog.get_logger()


class Watcher(Protocol):
    """What the informer needs of the API client."""

    def list_and_watch(
        self,
        kind: type[T],
        namespace: str,
        is_wanted: Callable[[T], bool] = ...,
        *,
        name: str | None = None,
        selector: str | None = None,
    ) -> AsyncGenerator[Listed[T] | Updated[T] | Deleted[T], None]:
        """Yield all wanted objects, then every change."""


class ObservedState:
    """A target's objects as they were last seen."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        """``on_change`` is called at every change."""
        self._on_change = on_change
        self._clock = time.monotonic
        self._pods: dict[str, Pod] = {}
        self._answered: dict[str, float] = {}
        """When an answer showed an object last, by uid."""
        self.workload: Workload | None = None
        self.has_all_pods = False
        """Whether all Pods of the workload are known."""

    @property
    def pods(self) -> list[Pod]:
        """The workload's Pods, by name."""
        owner = self.workload
        if owner is None:
            return []
        return sorted((pod for pod in self._pods.values() if owner.owns(pod)), key=lambda pod: pod.metadata.name)

    def has(self, obj: Workload | Pod) -> bool:
        """Whether the object is still there."""
        known = self.workload if isinstance(obj, Workload) else self._pods.get(obj.uid)
        return known is not None and known.uid == obj.uid

    def observe(
        self, kind: type[Workload | Pod], change: Listed[Any] | Updated[Any] | Deleted[Any], began: float = 0.0
    ) -> None:
        """Take a change from the watch of the workload, or of the Pods that its selector matches.

        Args:
            kind: what is watched.
            change: what was seen.
            began: when a list was asked for, by the event loop's clock.
        """
        if isinstance(change, Updated):
            self._see(change.object, self._clock() - _LAG_S)
        elif isinstance(change, Deleted):
            self.remove(change.object)
        else:
            if kind is Pod:
                listed = {pod.uid for pod in change.objects}
                self._pods = {uid: pod for uid, pod in self._pods.items() if uid in listed}
                self._answered = {uid: at for uid, at in self._answered.items() if at > began}
                self.has_all_pods = True
            elif not change.objects:
                self.workload = None
            for obj in change.objects:
                self._see(obj, began)
            self._on_change()

    def _see(self, obj: Workload | Pod, since: float) -> None:
        """Take an object's state from the watch, unless an answer since then showed a newer one.

        A lower resource version alone proves nothing: the API server may have been restored from a backup.
        """
        known = self.workload if isinstance(obj, Workload) else self._pods.get(obj.uid)
        is_same = known is not None and known.uid == obj.uid
        if is_same and self._answered.get(obj.uid, 0.0) > since and known is not None and known.is_newer_than(obj):
            return
        self._keep(obj)

    def _keep(self, obj: Workload | Pod) -> None:
        if isinstance(obj, Pod):
            self._pods[obj.uid] = obj
        else:
            self.workload = obj
        self._on_change()

    def update(self, obj: Workload | Pod, *, since: Workload | Pod) -> None:
        """Take an object's state from an answer of the API server, unless the watch has shown a newer one.

        Args:
            obj: the object.
            since: its state when the request was sent; if it is gone by now, or another state of it is known
                that is newer than the answer, the answer is late.
        """
        known = self.workload if isinstance(obj, Workload) else self._pods.get(obj.uid)
        if known is None or known.uid != obj.uid:
            self._on_change()
        elif known is since or not known.is_newer_than(obj):
            self._answered[obj.uid] = self._clock()
            self._keep(obj)

    def remove(self, obj: Workload | Pod) -> None:
        """Drop an object that is gone."""
        if isinstance(obj, Pod):
            self._pods.pop(obj.uid, None)
            self._answered.pop(obj.uid, None)
        elif self.workload is not None and self.workload.uid == obj.uid:
            self.workload = None
        self._on_change()

    def forget_pods(self) -> None:
        """Drop all Pods: another workload took the place of the one that they belong to."""
        self._pods.clear()
        self.has_all_pods = False
        self._on_change()


class Informer:
    """Keeps the observed states of a namespace's targets of one kind up to date."""

    def __init__(
        self,
        client: Watcher,
        kind: type[Workload],
        namespace: str,
        states: Mapping[str, ObservedState],
        set_trouble: Callable[[str, str | None], None],
    ) -> None:
        """Prepare to watch the workloads with these names.

        Args:
            client: of the API.
            kind: of the workloads.
            namespace: where they are.
            states: what is kept up to date, by the workload's name.
            set_trouble: gets the reason for a failure by ``namespace/name``, or None.
        """
        self._client = client
        self._kind = kind
        self._namespace = namespace
        self._states = states
        self._set_trouble = set_trouble
        self._troubles: dict[str, str] = {}
        self._uids: dict[str, str] = {}
        """Of the workloads that were seen last."""
        self._changed = asyncio.Event()
        """Set when another workload was seen."""

    async def run(self) -> None:
        """Watch workloads and their Pods, for ever; list Pods again when a workload is new or was replaced."""
        only = next(iter(self._states)) if len(self._states) == 1 else None
        watched: dict[str, str] = {}
        watching: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(self._kind, lambda one: one.metadata.name in self._states, name=only))
            while True:
                await self._changed.wait()
                self._changed.clear()
                if watching is not None:
                    watching.cancel()
                    await asyncio.wait([watching])
                for name, uid in self._uids.items():
                    if watched.get(name, uid) != uid:
                        self._states[name].forget_pods()
                watched = dict(self._uids)
                workload = None if only is None else self._states[only].workload
                selector = None if workload is None else workload.spec.selector.query()
                watching = group.create_task(self._watch(Pod, self._is_own, selector=selector))
                await asyncio.sleep(_RELIST_S)

    def _is_own(self, pod: Pod) -> bool:
        """Whether the Pod belongs to a target whose workload is known."""
        state = self._states.get(self._kind.find_owner(pod) or "")
        workload = None if state is None else state.workload
        return workload is not None and workload.spec.selector.matches(pod.metadata.labels or {})

    async def _watch(
        self,
        kind: type[Any],
        is_wanted: Callable[[Any], bool],
        *,
        name: str | None = None,
        selector: str | None = None,
    ) -> None:
        """Watch for ever: list again, with growing delays, whenever the watch ends."""
        silent, ended, refused = BackOff(*_SILENT_S), BackOff(*_ENDED_S), BackOff(*_REFUSED_S)
        while True:
            began = time.monotonic()
            try:
                watch = self._client.list_and_watch(kind, self._namespace, is_wanted, name=name, selector=selector)
                async with aclosing(watch) as changes:
                    async for change in changes:
                        self._observe(kind, change, began)
                wait_s = ended.next_s()
            except (Unavailable, Rejected, NotFound) as error:
                _log.warning("watch failed", namespace=self._namespace, kind=kind.kind, reason=str(error))
                self._troubles[kind.kind] = f"cannot watch {kind.plural}: {error}"
                self._report_troubles(self._states)
                is_silent = isinstance(error, Unavailable) and error.status is None
                told_s = min(getattr(error, "retry_after_s", None) or 0.0, _TOLD_S)
                wait_s = max((silent if is_silent else refused).next_s(), told_s)
            if time.monotonic() - began > _STEADY_S:
                silent, ended, refused = BackOff(*_SILENT_S), BackOff(*_ENDED_S), BackOff(*_REFUSED_S)
            await asyncio.sleep(wait_s)

    def _observe(
        self, kind: type[Workload | Pod], change: Listed[Any] | Updated[Any] | Deleted[Any], began: float
    ) -> None:
        """Pass a change on to the targets concerned."""
        concerned = self._distribute(kind, change)
        for name, part in concerned.items():
            self._states[name].observe(kind, part, began)
        if self._troubles.pop(kind.kind, None) is not None:
            self._report_troubles(self._states)
        if kind is not Pod:
            self._report_troubles(concerned)
            for name in concerned:
                workload = self._states[name].workload
                if workload is not None and self._uids.get(name) != workload.uid:
                    self._uids[name] = workload.uid
                    self._changed.set()

    def _distribute(
        self, kind: type[Workload | Pod], change: Listed[Any] | Updated[Any] | Deleted[Any]
    ) -> dict[str, Listed[Any] | Updated[Any] | Deleted[Any]]:
        """Divide a change among the targets, by name."""
        if isinstance(change, Listed):
            parts: dict[str, list[Any]] = {name: [] for name in self._states}
            for obj in change.objects:
                parts[self._name(obj) or ""].append(obj)
            return {name: Listed(tuple(part)) for name, part in parts.items()}
        if isinstance(change, Deleted):
            # A Pod that was given up names its owner no longer.
            return {name: change for name, state in self._states.items() if state.has(change.object)}
        name = self._name(change.object)
        return {} if name is None else {name: change}

    def _name(self, obj: Workload | Pod) -> str | None:
        return self._kind.find_owner(obj) if isinstance(obj, Pod) else obj.metadata.name

    def _report_troubles(self, names: Iterable[str]) -> None:
        trouble = next(iter(self._troubles.values()), None)
        for name in names:
            is_missing = self._states[name].workload is None
            why = trouble or (f"there is no such {self._kind.kind}" if is_missing else None)
            self._set_trouble(f"{self._namespace}/{name}", why)
