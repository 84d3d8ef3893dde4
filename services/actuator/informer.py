"""Keeps a target's workload and Pods as the API server last showed them: lists them, then watches.

API server --> here --> observed state --> reconciler.py
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
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
_TOLD_S = 60.0
"""A longer delay that the server asks for is not kept."""

_log = structlog.get_logger()


class Watcher(Protocol):
    """What the informer needs of the API client."""

    def list_and_watch(
        self, kind: type[T], namespace: str, *, name: str | None = None, selector: str | None = None
    ) -> AsyncGenerator[Listed[T] | Updated[T] | Deleted[T], None]:
        """Yield all objects, then every change."""


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
    """Keeps one target's observed state up to date."""

    def __init__(
        self,
        client: Watcher,
        kind: type[Workload],
        key: str,
        observed: ObservedState,
        set_trouble: Callable[[str | None], None],
    ) -> None:
        """Prepare to watch the workload ``namespace/name``; ``set_trouble`` gets the reason for a failure, or None."""
        self._client = client
        self._kind = kind
        self._namespace, _, self._name = key.partition("/")
        self._observed = observed
        self._set_trouble = set_trouble
        self._troubles: dict[str, str] = {}
        self._changed = asyncio.Event()
        """Set at every change of the workload."""

    async def run(self) -> None:
        """Watch the workload and its Pods, for ever, and those of the next workload when it is replaced."""
        watching: tuple[str, asyncio.Task[None]] | None = None
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(self._kind, name=self._name))
            while True:
                await self._changed.wait()
                self._changed.clear()
                workload = self._observed.workload
                if workload is None or (watching is not None and watching[0] == workload.uid):
                    continue
                if watching is not None:
                    watching[1].cancel()
                    await asyncio.wait([watching[1]])
                    self._observed.forget_pods()
                pods = self._watch(Pod, selector=workload.spec.selector.query())
                watching = workload.uid, group.create_task(pods)

    async def _watch(self, kind: type[Workload | Pod], *, name: str | None = None, selector: str | None = None) -> None:
        """Watch for ever: list again, with growing delays, whenever the watch ends."""
        silent, ended, refused = BackOff(*_SILENT_S), BackOff(*_ENDED_S), BackOff(*_REFUSED_S)
        while True:
            began = time.monotonic()
            try:
                watch = self._client.list_and_watch(kind, self._namespace, name=name, selector=selector)
                async with aclosing(watch) as changes:
                    async for change in changes:
                        self._observed.observe(kind, change, began)
                        self._note_change(kind)
                wait_s = ended.next_s()
            except (Unavailable, Rejected, NotFound) as error:
                _log.warning(
                    "watch failed", target=f"{self._namespace}/{self._name}", kind=kind.kind, reason=str(error)
                )
                self._troubles[kind.kind] = f"cannot watch {kind.plural}: {error}"
                self._set_trouble(next(iter(self._troubles.values())))
                is_silent = isinstance(error, Unavailable) and error.status is None
                told_s = min(getattr(error, "retry_after_s", None) or 0.0, _TOLD_S)
                wait_s = max((silent if is_silent else refused).next_s(), told_s)
            if time.monotonic() - began > _STEADY_S:
                silent, ended, refused = BackOff(*_SILENT_S), BackOff(*_ENDED_S), BackOff(*_REFUSED_S)
            await asyncio.sleep(wait_s)

    def _note_change(self, kind: type[Workload | Pod]) -> None:
        self._troubles.pop(kind.kind, None)
        if kind is not Pod:
            self._changed.set()
            if self._observed.workload is None:
                self._troubles[kind.kind] = f"there is no such {kind.kind}"
        self._set_trouble(next(iter(self._troubles.values()), None))
