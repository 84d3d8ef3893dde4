"""A spread target's Pods, place by place: each part has an observed state of its own, which is all its reconciler sees.

    informer.py --> here --> one ObservedState a place --> reconciler.py

A Pod without a node is nowhere yet.  One whose node has another label from now on moves with what it carries.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Set
from typing import Any

from services.actuator.observed import ObservedState
from services.kube.changes import Deleted, Listed, Updated
from services.kube.objects import Pod, Workload


class ObservedParts:
    """What is seen of one target, divided by place."""

    def __init__(
        self,
        find_place: Callable[[str], str],
        on_nodes: Callable[[Set[str]], None],
        on_change: Callable[[], None],
        namespaces: Collection[str] = (),
    ) -> None:
        """Begin without a Pod.

        Args:
            find_place: the place of a node, by its name; empty: none.
            on_nodes: gets the nodes with Pods whenever these are others.
            on_change: called at every change.
            namespaces: those whose Pods are watched.
        """
        self.whole = ObservedState(self._pass_on, namespaces)
        """The workload, without Pods."""
        self._find_place = find_place
        self._on_nodes, self._on_change = on_nodes, on_change
        self._namespaces = namespaces
        self._parts: dict[str, ObservedState] = {}
        self._places: dict[str, str] = {}
        """By uid, the place of a Pod."""
        self._pods: dict[str, Pod] = {}
        """All Pods with a node that may still send, by uid."""
        self._nodes = Counter[str]()
        """How many Pods each node has."""
        self._listed: dict[str, float] = {}
        """The namespaces whose Pods were listed, and when that began."""

    @property
    def workload(self) -> Workload | None:
        """The target's object."""
        return self.whole.workload

    @property
    def parts(self) -> Mapping[str, ObservedState]:
        """By place, what is seen there."""
        return self._parts

    @property
    def nodes(self) -> Set[str]:
        """The nodes with Pods."""
        return self._nodes.keys()

    def get_part(self, place: str) -> ObservedState:
        """What is seen at a place, from now on too."""
        if place not in self._parts:
            part = self._parts[place] = ObservedState(namespaces=self._namespaces)
            part.workload = self.workload
            for namespace, began in self._listed.items():
                part.observe(Pod, Listed(()), began, namespace)
        return self._parts[place]

    def drop_part(self, place: str, part: ObservedState) -> None:
        """Nobody looks at this part any more; Pods that come to its place begin another."""
        if self._parts.get(place) is part:
            del self._parts[place]

    def observe(
        self,
        kind: type[Workload | Pod],
        change: Listed[Any] | Updated[Any] | Deleted[Any],
        began: float = 0.0,
        namespace: str = "",
    ) -> None:
        """Take a change from a watch; see ``ObservedState.observe``."""
        if kind is not Pod:
            self.whole.observe(kind, change, began, namespace)
            return
        if isinstance(change, Listed):
            self._list(change.objects, began, namespace)
        elif isinstance(change, Deleted):
            uid = change.object.uid
            self._forget(uid)
            if (place := self._places.pop(uid, None)) is not None:
                self.get_part(place).observe(Pod, change, began)
        elif self._put(change.object):
            self.get_part(self._places[change.object.uid]).observe(Pod, change, began)
        self._on_nodes(self._nodes.keys())
        self._on_change()

    def _list(self, pods: Collection[Pod], began: float, namespace: str) -> None:
        self._listed[namespace] = began
        by_place: dict[str, list[Pod]] = {}
        for pod in pods:
            if self._put(pod):
                by_place.setdefault(self._places[pod.uid], []).append(pod)
        listed = {pod.uid for pod in pods}
        for pod in tuple(self._pods.values()):
            if pod.uid not in listed and namespace in ("", pod.metadata.namespace):
                self._places.pop(pod.uid, None)
                self._forget(pod.uid)
        for place in {**self._parts, **by_place}:
            self.get_part(place).observe(Pod, Listed(tuple(by_place.get(place, ()))), began, namespace)

    def _put(self, pod: Pod) -> bool:
        """Take note of where a Pod is; returns whether it has a place."""
        if pod.spec.node_name:
            self._keep(pod)
        place, before = self._find_place(pod.spec.node_name), self._places.get(pod.uid)
        if before not in (None, place):
            assert before is not None
            moved = self.get_part(before).release(pod.uid)
            if place and moved is not None:
                self.get_part(place).observe(Pod, Updated(moved))
        if place:
            self._places[pod.uid] = place
        else:
            self._places.pop(pod.uid, None)
        return bool(place)

    def place_again(self) -> None:
        """Divide the Pods anew: nodes have other labels."""
        for uid, pod in tuple(self._pods.items()):
            was_nowhere = uid not in self._places
            if self._put(pod) and was_nowhere:
                self.get_part(self._places[uid]).observe(Pod, Updated(pod))
        self._on_change()

    def forget_pods(self) -> None:
        """Drop all Pods: another workload took the place of the one that they belong to."""
        self._pods.clear()
        self._places.clear()
        self._nodes.clear()
        self._listed.clear()
        for part in self._parts.values():
            part.forget_pods()

    def inherit(self, before: "ObservedParts") -> None:
        """Take the Pods of another state as given up, unless they are seen again."""
        for place, part in before.parts.items():
            self.get_part(place).inherit(part)

    def _keep(self, pod: Pod) -> None:
        if pod.has_ended:
            self._forget(pod.uid)
            return
        if pod.uid not in self._pods:
            self._nodes[pod.spec.node_name] += 1
        self._pods[pod.uid] = pod

    def _forget(self, uid: str) -> None:
        pod = self._pods.pop(uid, None)
        if pod is not None:
            self._nodes[pod.spec.node_name] -= 1
            if not self._nodes[pod.spec.node_name]:
                del self._nodes[pod.spec.node_name]

    def _pass_on(self) -> None:
        for part in self._parts.values():
            part.share_workload(self.workload)
        self._on_change()
