"""Keeps a target's workload and Pods as the API server last showed them: lists them, then watches.

API server --> here --> observed state --> reconciler.py
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Protocol

import structlog

from services.bus.session import BackOff
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

    def update(self, obj: Workload | Pod) -> None:
        """Take a new or changed object, unless a newer state of it is known."""
        known = self.workload if isinstance(obj, Workload) else self._pods.get(obj.uid)
        is_newer = known is None or int(known.metadata.resource_version) < int(obj.metadata.resource_version)
        if isinstance(obj, Pod):
            if is_newer:
                self._pods[obj.uid] = obj
        elif is_newer or (known is not None and known.uid != obj.uid):
            self.workload = obj
        self._on_change()

    def update_known(self, obj: Workload | Pod) -> None:
        """Take an object from an answer of the API server, unless it is gone by now."""
        if obj.uid in self._pods or (self.workload is not None and obj.uid == self.workload.uid):
            self.update(obj)

    def remove(self, obj: Workload | Pod) -> None:
        """Drop an object that is gone."""
        if isinstance(obj, Pod):
            self._pods.pop(obj.uid, None)
        elif self.workload is not None and self.workload.uid == obj.uid:
            self.workload = None
        self._on_change()

    def replace_workload(self, found: Sequence[Workload]) -> None:
        """Take the result of looking for the workload: itself, or nothing."""
        if not found:
            self.workload = None
        for one in found:
            self.update(one)
        self._on_change()

    def replace_pods(self, pods: Sequence[Pod]) -> None:
        """Take a list of all Pods that the workload's selector matches."""
        current = {pod.uid for pod in pods}
        self._pods = {uid: pod for uid, pod in self._pods.items() if uid in current}
        self.has_all_pods = True
        for pod in pods:
            self.update(pod)
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
        self._is_absent = False
        self._found: asyncio.Queue[Workload] = asyncio.Queue()

    async def run(self) -> None:
        """Watch the workload and its Pods, for ever, and those of the next workload when it is replaced."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat("workload", self._watch_workload))
            workload = await self._found.get()
            while True:
                uid = workload.uid
                watching = asyncio.create_task(self._repeat("pods", partial(self._watch_pods, workload)))
                try:
                    while workload.uid == uid:
                        workload = await self._found.get()
                finally:
                    watching.cancel()
                    await asyncio.wait([watching])
                self._observed.forget_pods()

    async def _repeat(self, what: str, watch: Callable[[], Awaitable[None]]) -> None:
        back_off = BackOff(0.2)
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await watch()
            except (Unavailable, Rejected, NotFound) as error:
                _log.warning("watch failed", target=f"{self._namespace}/{self._name}", what=what, reason=str(error))
                self._report(what, f"cannot watch its {what}: {error}")
            if asyncio.get_running_loop().time() - began > _STEADY_S:
                back_off = BackOff(0.2)
            await back_off.wait()

    def _report(self, what: str, trouble: str | None) -> None:
        if trouble is None:
            self._troubles.pop(what, None)
        else:
            self._troubles[what] = trouble
        absent = f"there is no such {self._kind.kind}" if self._is_absent else None
        self._set_trouble(next(iter(self._troubles.values()), absent))

    async def _watch_workload(self) -> None:
        async with aclosing(self._client.list_and_watch(self._kind, self._namespace, name=self._name)) as changes:
            async for change in changes:
                if isinstance(change, Deleted):
                    found: Sequence[Workload] = ()
                    self._observed.remove(change.object)
                else:
                    found = change.objects if isinstance(change, Listed) else (change.object,)
                    self._observed.replace_workload(found)
                self._is_absent = not found
                for one in found:
                    self._found.put_nowait(one)
                self._report("workload", None)

    async def _watch_pods(self, workload: Workload) -> None:
        selector = workload.spec.selector.query()
        async with aclosing(self._client.list_and_watch(Pod, self._namespace, selector=selector)) as changes:
            async for change in changes:
                if isinstance(change, Listed):
                    self._observed.replace_pods(change.objects)
                elif isinstance(change, Updated):
                    self._observed.update(change.object)
                else:
                    self._observed.remove(change.object)
                self._report("pods", None)
