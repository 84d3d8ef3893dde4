"""Keeps a target's workload and Pods as the API server last showed them: lists them, then watches.

API server --> here --> observed state --> reconciler.py
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Protocol

import structlog

from services.common.backoff import BackOff
from services.kube.client import Deleted, Listed, T, Updated
from services.kube.objects import NotFound, Pod, Rejected, Unavailable, Workload

_STEADY_S = 5.0
"""After a watch that lasted longer, back-off begins anew."""

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
        self._pods: dict[str, Pod] = {}
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

    def observe(self, kind: type[Workload | Pod], change: Listed[Any] | Updated[Any] | Deleted[Any]) -> None:
        """Take a change from the watch of the workload, or of the Pods that its selector matches."""
        if isinstance(change, Updated):
            self.update(change.object)
        elif isinstance(change, Deleted):
            self.remove(change.object)
        else:
            if kind is Pod:
                listed = {pod.uid for pod in change.objects}
                self._pods = {uid: pod for uid, pod in self._pods.items() if uid in listed}
                self.has_all_pods = True
            elif not change.objects:
                self.workload = None
            for obj in change.objects:
                self.update(obj)
            self._on_change()

    def update(self, obj: Workload | Pod, *, is_answer: bool = False) -> None:
        """Take a new or changed object, unless a newer state of it is known.

        Args:
            obj: the object.
            is_answer: it comes from an answer of the API server, and is gone by now if it is not known.
        """
        known = self.workload if isinstance(obj, Workload) else self._pods.get(obj.uid)
        if known is None or known.uid != obj.uid:
            is_newer = not is_answer
        else:
            is_newer = int(known.metadata.resource_version) < int(obj.metadata.resource_version)
        if is_newer and isinstance(obj, Pod):
            self._pods[obj.uid] = obj
        elif is_newer and isinstance(obj, Workload):
            self.workload = obj
        self._on_change()

    def remove(self, obj: Workload | Pod) -> None:
        """Drop an object that is gone."""
        if isinstance(obj, Pod):
            self._pods.pop(obj.uid, None)
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
        """Prepare to watch the workload ``namespace/name``; ``set_trouble`` is told why that fails, or None."""
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
        back_off = BackOff(0.2)
        while True:
            began = asyncio.get_running_loop().time()
            try:
                watch = self._client.list_and_watch(kind, self._namespace, name=name, selector=selector)
                async with aclosing(watch) as changes:
                    async for change in changes:
                        self._observed.observe(kind, change)
                        self._troubles.pop(kind.kind, None)
                        if kind is not Pod:
                            self._changed.set()
                            if self._observed.workload is None:
                                self._troubles[kind.kind] = f"there is no such {kind.kind}"
                        self._set_trouble(next(iter(self._troubles.values()), None))
            except (Unavailable, Rejected, NotFound) as error:
                _log.warning(
                    "watch failed", target=f"{self._namespace}/{self._name}", kind=kind.kind, reason=str(error)
                )
                self._troubles[kind.kind] = f"cannot watch {kind.plural}: {error}"
                self._set_trouble(next(iter(self._troubles.values())))
            if asyncio.get_running_loop().time() - began > _STEADY_S:
                back_off = BackOff(0.2)
            await back_off.wait()
