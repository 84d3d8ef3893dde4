"""Where the Pods of each template's workloads are: on which nodes, and so in which places.

    targets' Pods (parts.py) ---+
    critical Pods (a watch) ----+--> here --> Instances --> definitions
    nodes' labels (a watch) ----+

A critical workload is found as its latency histogram names it: by the name of its Pods' owner, whatever the kind.
Nodes are watched only while a definition goes by one of their labels.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import structlog

from schemas.domain import PER_NODE, Domain
from services.definitions.instances import Places
from services.kube.changes import Deleted, Listed
from services.kube.nodes import Node
from services.kube.objects import Pod, known_owners
from services.kube.watching import Change, Watcher, watch_for_ever

_CRON_JOB = re.compile(r"(.+)-[2-9][0-9]{7}")
"""The name of a Job that a CronJob made ends with the minute that it was due."""
_NODES = "nodes"

_log = structlog.get_logger()


def name_owners(pod: Pod) -> Set[str]:
    """What a Pod's workload may be called."""
    owners = known_owners(pod)
    names = {owner.name for owner in owners}
    if owners and owners[-1].kind == "Job" and (match := _CRON_JOB.fullmatch(owners[-1].name)):
        names.add(match[1])
    return names or {pod.metadata.name}


class _CriticalPods:
    """The Pods of some critical workloads in one namespace."""

    def __init__(self, notify: Callable[[str, Set[str]], None]) -> None:
        self.names = frozenset[str]()
        self._notify = notify
        self._is_listed = False
        self._pods: dict[str, tuple[str, str]] = {}
        """By uid, a Pod's workload and node."""
        self._nodes: dict[str, Counter[str]] = {}

    def concerns(self, pod: Pod) -> bool:
        """Whether a Pod is one of them."""
        return bool(self.names & name_owners(pod))

    def take(self, change: Change) -> None:
        """Take a change from the watch."""
        if isinstance(change, Listed):
            self._is_listed = True
            listed = {pod.uid: pod for pod in change.objects}
            for uid in self._pods.keys() - listed.keys():
                self._count(uid, None)
            for uid, pod in listed.items():
                self._count(uid, pod)
        else:
            self._count(change.object.uid, None if isinstance(change, Deleted) else change.object)
        self.report_nodes()

    def look_for(self, names: Set[str]) -> None:
        """Look for other workloads; a list of the Pods follows."""
        self.names, self._is_listed = frozenset(names), False

    def report_nodes(self) -> None:
        """Report every workload's nodes, once they are known."""
        for name in self.names if self._is_listed else ():
            self._notify(name, self._nodes.get(name, Counter()).keys())

    def _count(self, uid: str, pod: Pod | None) -> None:
        before = self._pods.pop(uid, None)
        if before is not None:
            counts = self._nodes[before[0]]
            counts[before[1]] -= 1
            if not counts[before[1]]:
                del counts[before[1]]
        if pod is None or pod.has_ended or not pod.spec.node_name:
            return
        for name in self.names & name_owners(pod):
            self._pods[uid] = (name, pod.spec.node_name)
            self._nodes.setdefault(name, Counter())[pod.spec.node_name] += 1


class Placement:
    """Where each template's workloads have Pods."""

    def __init__(
        self,
        client: Watcher,
        see: Callable[[str, Places, Set[str] | None], None],
        set_note: Callable[[str, str | None], None] = lambda _about, _text: None,
    ) -> None:
        """Prepare; ``run`` does the work.

        Args:
            client: of the API.
            see: gets a template's name, its places and those with critical Pods (None: not known yet), whenever these
                are others.
            set_note: shows people what cannot be watched, and which nodes have no place.
        """
        self._client, self._see, self._set_note = client, see, set_note
        self._templates: dict[str, Domain] = {}
        self._nodes: dict[tuple[str, str], frozenset[str]] = {}
        """By template and workload, the nodes with Pods."""
        self._labels: dict[str, Mapping[str, str]] = {}
        """By node."""
        self._critical: dict[str, _CriticalPods] = {}
        """By namespace."""
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._due: set[str] = set()
        self._on_labels: list[Callable[[], None]] = []

    def on_labels(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when nodes have other labels."""
        self._on_labels.append(listener)

    def find_place(self, template: str, node: str) -> str:
        """The place of a node, by its name; empty where it has none, or none is known yet."""
        domain = self._templates.get(template)
        if domain is None or not domain.per or domain.per == PER_NODE:
            return node
        return self._labels.get(node, {}).get(domain.per, "")

    def define(self, changed: Mapping[str, Domain | None]) -> None:
        """Look for the workloads of these templates from now on; None: of this one no longer."""
        before = self._labels_wanted
        for name, domain in changed.items():
            if domain is None and self._templates.pop(name, None) is None:
                continue
            if domain is None:
                self._set_note(f"{name} places", None)
            else:
                self._templates[name] = domain
            keys = () if domain is None else domain.workloads
            for pair in [pair for pair in self._nodes if pair[0] == name and pair[1] not in keys]:
                del self._nodes[pair]
            self._mark(name)
        if self._labels_wanted != before:
            self._start(_NODES)
        wanted: dict[str, set[str]] = {}
        for domain in self._templates.values():
            for one in domain.critical:
                wanted.setdefault(one.namespace, set()).add(one.workload)
        for namespace in {*wanted, *self._critical}:
            known = self._critical.setdefault(namespace, _CriticalPods(self._notify_of(namespace)))
            if known.names != wanted.get(namespace, set()):
                known.look_for(wanted.get(namespace, set()))
                self._start(f"pods in {namespace}")
            known.report_nodes()

    def note(self, template: str, workload: str, nodes: Set[str]) -> None:
        """Take note of the nodes on which a target of a template has Pods now."""
        if template in self._templates and self._nodes.get((template, workload)) != nodes:
            self._nodes[template, workload] = frozenset(nodes)
            self._mark(template)

    @property
    def _labels_wanted(self) -> frozenset[str]:
        return frozenset(one.per for one in self._templates.values() if one.per and one.per != PER_NODE)

    def _notify_of(self, namespace: str) -> Callable[[str, Set[str]], None]:
        def notify(name: str, nodes: Set[str]) -> None:
            key = f"{namespace}/{name}"
            for template, domain in self._templates.items():
                if any(one.key == key for one in domain.critical):
                    self.note(template, key, nodes)

        return notify

    def _mark(self, template: str) -> None:
        """Work a template's places out once what happens now is taken in whole."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._settle)
        self._due.add(template)

    def _settle(self) -> None:
        due, self._due = self._due, set()
        for template in due & self._templates.keys():
            places: dict[str, set[str]] = {}
            for (name, _), nodes in self._nodes.items():
                for node in nodes if name == template else ():
                    places.setdefault(self.find_place(template, node), set()).add(node)
            nowhere = sorted(places.pop("", ()))
            per = self._templates[template].per
            text = f"nobody limits Pods on nodes without the label {per}: {', '.join(nowhere)[:200]}"
            self._set_note(f"{template} places", text if nowhere else None)
            found = {place: frozenset(nodes) for place, nodes in places.items()}
            self._see(template, found, self._find_critical(template))

    def _find_critical(self, template: str) -> Set[str] | None:
        """The places with critical Pods; None while one of the workloads has not been looked for."""
        known = [self._nodes.get((template, one.key)) for one in self._templates[template].critical]
        if None in known:
            return None
        return {self.find_place(template, node) for nodes in known if nodes for node in nodes}

    async def run(self) -> None:
        """Watch, for ever."""
        async with asyncio.TaskGroup() as self._group:
            for what in (_NODES, *(f"pods in {namespace}" for namespace in self._critical)):
                self._start(what)
            await asyncio.Event().wait()

    def _start(self, what: str) -> None:
        """Watch what there is to watch from now on, in place of what was watched before."""
        if self._group is None:
            return
        if (before := self._watches.pop(what, None)) is not None:
            before.cancel()
        namespace = what.removeprefix("pods in ")

        def list_nodes() -> Any:
            return self._client.list_and_watch(Node, "", keep=self._labels_wanted)

        if what == _NODES and self._labels_wanted:
            self._watches[what] = self._group.create_task(self._watch(what, list_nodes, self._take_nodes))
        elif what != _NODES and (critical := self._critical[namespace]).names:

            def list_pods() -> Any:
                return self._client.list_and_watch(Pod, namespace, critical.concerns)

            self._watches[what] = self._group.create_task(self._watch(what, list_pods, critical.take))
        elif what != _NODES:
            del self._critical[namespace]

    async def _watch(self, what: str, list_all: Callable[[], Any], take: Callable[[Change], None]) -> None:
        about = f"{what} of definitions per node"

        async def start() -> Any:
            return list_all()

        async def handle(change: Change, _began: float) -> None:
            take(change)
            self._set_note(about, None)

        def fail(error: Exception) -> float:
            _log.warning("watch failed", what=what, reason=str(error))
            self._set_note(about, f"cannot be watched, so that instances neither come nor go: {error}")
            return 0.0

        await watch_for_ever(start, handle, fail)

    def _take_nodes(self, change: Change) -> None:
        before = dict(self._labels)
        if isinstance(change, Listed):
            self._labels = _labels_of(change.objects)
        elif isinstance(change, Deleted):
            return  # its Pods may still be there; a list forgets it
        else:
            self._labels |= _labels_of([change.object])
        if self._labels != before:
            for listener in self._on_labels:
                listener()
            for template in self._templates:
                self._mark(template)


def _labels_of(nodes: Iterable[Node]) -> dict[str, Mapping[str, str]]:
    return {node.metadata.name: node.metadata.labels or {} for node in nodes}
