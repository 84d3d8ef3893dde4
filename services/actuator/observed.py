"""A target's workload and Pods as the API server last showed them: by a watch, or in an answer to a request."""

import time
from collections.abc import Callable, Collection
from typing import Any, Protocol

from msgspec import Struct

from schemas.domain import Target
from services.kube.changes import Deleted, Listed, Updated
from services.kube.objects import Pod, Workload
from services.kube.workloads import OtherOwner

_LAG_S = 5.0
"""A watch shows a change at most so long after the answer to the request that made it."""


class ObservedState:
    """A target's objects as they were last seen."""

    def __init__(self, on_change: Callable[[], None] = lambda: None, namespaces: Collection[str] = ()) -> None:
        """``on_change`` is called at every change; ``namespaces`` are those whose Pods are watched."""
        self._on_change = on_change
        self._namespaces = frozenset(namespaces)
        self._listed = set[str]()
        """The namespaces whose Pods were listed."""
        self._clock = time.monotonic
        self._pods: dict[str, Pod] = {}
        self._answered: dict[str, float] = {}
        """When an answer showed an object last, by uid."""
        self.workload: Workload | None = None
        self.given_up: dict[str, Pod] = {}
        """Pods that were the workload's, and are not by now, by uid: some of them may still be there."""

    def listen(self, on_change: Callable[[], None]) -> None:
        """Call ``on_change`` at every change from now on."""
        self._on_change = on_change

    @property
    def has_all_pods(self) -> bool:
        """Whether all Pods of the workload are known."""
        return bool(self._listed) and ("" in self._listed or self._listed >= self._namespaces)

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
        self,
        kind: type[Workload | Pod],
        change: Listed[Any] | Updated[Any] | Deleted[Any],
        began: float = 0.0,
        namespace: str = "",
    ) -> None:
        """Take a change from the watch of the workload, or of its Pods.

        Args:
            kind: what is watched.
            change: what was seen.
            began: when a list was asked for, by the event loop's clock.
            namespace: whose Pods were listed, where several are watched.
        """
        if isinstance(change, Updated):
            self._see(change.object, self._clock() - _LAG_S)
        elif isinstance(change, Deleted):
            self.remove(change.object)
        else:
            if kind is Pod:
                listed = {pod.uid for pod in change.objects}
                for pod in tuple(self._pods.values()):
                    if pod.uid not in listed and namespace in ("", pod.metadata.namespace):
                        self._give_up(self._pods.pop(pod.uid))
                self._answered = {uid: at for uid, at in self._answered.items() if at > began}
                self._listed.add(namespace)
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
        if isinstance(obj, OtherOwner) and obj.scale is None and isinstance(self.workload, OtherOwner):
            obj = obj.with_scale(self.workload.scale)  # the API's answer to a patch is without
        if isinstance(obj, Pod):
            self._pods[obj.uid] = obj
            self.given_up.pop(obj.uid, None)
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
            if self._pods.pop(obj.uid, None) is not None:
                self._give_up(obj)
            self._answered.pop(obj.uid, None)
        elif self.workload is not None and self.workload.uid == obj.uid:
            self.workload = None
        self._on_change()

    def share_workload(self, workload: Workload | None) -> None:
        """Take the workload as another state of the same target has it."""
        if workload is not self.workload:
            self.workload = workload
            self._on_change()

    def release(self, uid: str) -> Pod | None:
        """Drop a Pod that another state of the same target has from now on; returns it."""
        pod = self._pods.pop(uid, None)
        self._answered.pop(uid, None)
        self._on_change()
        return pod

    def forget_pods(self) -> None:
        """Drop all Pods: another workload took the place of the one that they belong to."""
        self.inherit(self)
        self._pods.clear()
        self._listed.clear()
        self._on_change()

    def inherit(self, before: "ObservedState") -> None:
        """Take the Pods of another state as given up, unless they are seen again."""
        for pod in (*before.given_up.values(), *before._pods.values()):  # noqa: SLF001 - the same class
            if pod.uid not in self._pods or before is self:
                self._give_up(pod)

    def _give_up(self, pod: Pod) -> None:
        if not (pod.is_terminating or pod.has_ended):
            self.given_up[pod.uid] = pod


class StateSink(Protocol):
    """Where what is seen of a target goes."""

    @property
    def workload(self) -> Workload | None:
        """The target's object as it was last seen."""

    def observe(
        self,
        kind: type[Workload | Pod],
        change: Listed[Any] | Updated[Any] | Deleted[Any],
        began: float = 0.0,
        namespace: str = "",
    ) -> None:
        """Take a change from a watch."""

    def forget_pods(self) -> None:
        """Drop all Pods."""


class Watched(Struct, frozen=True):
    """A target, and where what is seen of it goes."""

    target: Target
    state: StateSink
