"""Which metrics a signal reads, and which configured workload a series belongs to."""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from schemas.config import Config, Signal
from schemas.domain import PER_NODE, Domain
from schemas.workloads import SELECTOR

_OWNERS = (
    (re.compile(r"(.+)"), frozenset[str]()),  # a pod without an owner
    (re.compile(r"(.+)-[0-9]+"), frozenset({"statefulset"})),
    (re.compile(r"(.+)-[a-z0-9]{5}"), frozenset({"daemonset", "replicaset", "job"})),
    (re.compile(r"(.+)-[0-9]{8,10}-[a-z0-9]{5}"), frozenset({"cronjob"})),
    (re.compile(r"(.+)-[a-z0-9]{1,10}-[a-z0-9]{5}"), frozenset({"rollout"})),  # or of a Deployment
)
"""How the names of pods begin, and the kinds of owners, as keys have them, that name their pods so.

What a key calls by no kind, a Deployment or a critical workload of any, may be an owner in each way.
"""
SENDER_NODE = "node"
"""The label of the throughput counter for the node that the Pod is on, as the meter has it."""
V = TypeVar("V")
_LONGEST_POD, _RANDOM = 63, 5
"""Characters of a generated pod's name at most, and those of them that are random: what comes before is cut."""


def _kind_of(key: str) -> str:
    """The kind in a key, in lower case; empty where it has none."""
    return key.partition("/")[2].rpartition("/")[0]


class MetricNames(Struct, frozen=True):
    """The metrics and labels that a signal reads; an empty name means that there is none."""

    metric: str
    """The latency histogram, without ``_bucket``."""
    namespace: str
    """Label of the workload's namespace."""
    workload: str
    """Label of the workload's name."""
    lost: str = ""
    throughput: str = ""
    matchers: dict[str, str] = {}
    interface: str = ""
    """The network interface whose bytes count, where a series names one; empty: all."""
    unit: float = 1.0
    """Seconds in the histogram's unit."""
    node: str = ""
    """Label of the node that the workload's Pod is on."""

    @property
    def are_plain(self) -> bool:
        """Whether none of the names needs quotation marks."""
        names = (self.metric, self.lost, self.throughput, self.namespace, self.workload, self.node, *self.matchers)
        return all(is_plain(name) for name in names if name)


def is_plain(name: str) -> bool:
    """Whether the name of a metric or a label needs no quotation marks."""
    return re.fullmatch("[a-zA-Z_:][a-zA-Z0-9_:]*", name) is not None


class Preset(Struct, frozen=True):
    """A known exporter of latencies."""

    names: MetricNames
    hint: str = ""
    """What to switch on or to know; empty for Sluice's own exporter."""
    buckets: tuple[float, ...] = ()
    """Default bucket bounds, seconds, where they are known; of NetObserv the first."""


PRESETS: dict[str, Preset] = {
    "hubble": Preset(
        MetricNames("hubble_flow_latency_seconds", "namespace", "workload", lost="hubble_flow_lost_total", node="node")
    ),
    "netobserv": Preset(
        MetricNames("netobserv_workload_rtt_seconds", "SrcK8S_Namespace", "SrcK8S_OwnerName", node="SrcK8S_HostName"),
        hint="switch on the agent's feature FlowRTT and the metric workload_rtt_seconds",
        buckets=(0.005,),
    ),
    "obi": Preset(
        MetricNames("obi_stat_tcp_rtt_seconds", "k8s_src_namespace", "k8s_src_owner_name"),
        hint="switch on its feature stats_tcp_rtt; the histogram is filled when a connection closes, so "
        "long-lived connections give nothing",
        buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
    ),
    # Measures between nodes: here a node stands for a workload.
    "cilium-health": Preset(
        MetricNames(
            "cilium_node_health_connectivity_latency_seconds",
            namespace="",
            workload="source_node_name",
            matchers={"type": "node", "protocol": "icmp"},
        ),
        hint="it measures between nodes, by default once a minute: far too seldom for a signal window",
    ),
}
"""By the name that ``signal.preset`` takes."""


def metric_names(signal: Signal) -> MetricNames:
    """The preset's names, overridden by the configuration."""
    names = PRESETS[signal.preset].names
    return replace(
        names,
        metric=names.metric if signal.metric is None else signal.metric,
        lost=names.lost if signal.lost is None else signal.lost,
        throughput=signal.throughput,
        namespace=signal.labels.get("namespace", names.namespace),
        workload=signal.labels.get("workload", names.workload),
        node=signal.labels.get("node", names.node),
        matchers={**names.matchers, **signal.matchers},
        interface=signal.interface,
        unit={"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[signal.unit],
    )


_AT = "@"
"""In no name of the API."""


class Parts:
    """The parts of workloads that instances of a definition look at.

    Such a workload is read node by node: as ``namespace/name@node``.  What a domain measures of it adds up the nodes
    that the domain is about: one, those with a value of a label, or all.
    """

    def __init__(self, domains: Iterable[Domain] = ()) -> None:
        """Take the instances among these domains; the others look at whole workloads."""
        self._by_node: dict[str, list[str]] = {}
        """By a workload's part on a node, the names of all that it counts for."""
        whole, split = set[str](), set[str]()
        for domain in domains:
            if domain.places is None:
                whole.update(domain.workloads)
                continue
            split.update(domain.workloads)
            for key in domain.workloads:
                for node in domain.places:
                    self._by_node.setdefault(f"{key}{_AT}{node}", []).append(domain.name_part(key))
        self.split = frozenset(split)
        """The workloads that are read node by node."""
        self._whole = whole & split

    def find(self, key: str, node: str) -> str:
        """What a series of a workload on a node is read as; the node is empty where a series names none."""
        return f"{key}{_AT}{node}" if key in self.split else key

    def expand(self, found: Iterable[tuple[str, V]]) -> list[tuple[str, V]]:
        """What was found about parts, by the names of all that they count for: one on a node may count for several."""
        pairs = list(found)
        if not self.split:
            return pairs
        expanded = []
        for part, value in pairs:
            key, at, _ = part.partition(_AT)
            names = (*self._by_node.get(part, ()), *([key] if key in self._whole else [])) if at else (part,)
            expanded += [(name, value) for name in names]
        return expanded


NO_PARTS = Parts()


class PlacedParts(Parts):
    """Parts that a backend adds up itself: those on single nodes, or all with a value of a label together."""

    def __init__(self, nodes: tuple[str, ...], place: str = "") -> None:
        """Take the nodes, and the place that they are together; without one, each is its own."""
        super().__init__()
        self.nodes = nodes
        self.are_single = not place
        self._place = place

    def find(self, key: str, node: str) -> str:
        """What a series of a workload is read as; it names its node where each is its own place."""
        return f"{key}{_AT}{self._place or node}"


def explain_absence(metric: str, name: str, label: str, present: Iterable[str]) -> str:
    """Why a page measures nothing of a workload, or of a part of it.

    Args:
        metric: the latency histogram.
        name: of what is measured.
        label: the histogram's label for a node; empty: it has none.
        present: what the pages have, as it was read.
    """
    key, at, place = name.partition(_AT)
    if not at:
        return f"not measured: the page has no series of {metric} for it"
    if not label:
        return f"not measured: {metric} has no label for a node: set signal.labels.node"
    if f"{key}{_AT}" in present:
        return f"not measured: its series of {metric} have no label {label}: the exporter is older, or not set up"
    return f"not measured: the page has no series of {metric} for it on {place}"


class Workloads:
    """The configured workloads, found by the labels of a series."""

    def __init__(
        self, names: MetricNames, critical: Iterable[str], targets: Iterable[str], parts: Parts = NO_PARTS
    ) -> None:
        """Take the workloads as ``namespace/name``, and the parts of them that instances look at.

        Raises:
            ValueError: a label that is needed has no name, or the histogram has no namespace label and two
                critical workloads share a name.
        """
        if not names.workload:
            raise ValueError("signal.labels: workload cannot be empty: without it nobody's latency is known")
        if "" in names.matchers:
            raise ValueError("signal.matchers: a label without a name")
        self.names = names
        self.parts = parts
        self._domains: tuple[Domain, ...] = ()
        self.critical = tuple(dict.fromkeys(critical))
        self.senders = tuple(dict.fromkeys([*self.critical, *targets]))
        self.measured_critical, self.measured_senders = self.critical, self.senders
        """The names of all that is measured of them: whole workloads, and parts."""
        self._critical: dict[tuple[str, str], str] = {}
        for key in self.critical:
            namespace, _, name = key.partition("/")
            self._critical[namespace if names.namespace else "", name] = key
        if len(self._critical) < len(self.critical):
            raise ValueError(
                f"{names.metric} has no label for a namespace: "
                f"critical workloads need different names, got {', '.join(self.critical)}"
            )
        self._senders = frozenset(self.senders)
        self._named: dict[tuple[str, str], list[str]] = {}
        """The senders' keys by namespace and name: several kinds may have one of a name."""
        for key in self.senders:
            namespace, _, rest = key.partition("/")
            name = rest if rest.startswith(f"{SELECTOR}/") else rest.rpartition("/")[2]
            self._named.setdefault((namespace, name), []).append(key)

    @classmethod
    def from_config(cls, config: Config) -> "Workloads":
        """All workloads of all domains; those of definitions that stand for instances as a whole.

        Raises:
            ValueError: series could not be distinguished; see the constructor.
        """
        return cls.from_domains(metric_names(config.signal), config.domains)

    @classmethod
    def from_domains(cls, names: MetricNames, domains: Iterable[Domain]) -> "Workloads":
        """All workloads of these domains.

        Raises:
            ValueError: series could not be distinguished; see the constructor.
        """
        domains = tuple(domains)
        return cls._build(names, domains, Parts(domains))

    @classmethod
    def _build(cls, names: MetricNames, domains: tuple[Domain, ...], parts: Parts) -> "Workloads":
        workloads = cls(
            names,
            (critical.key for domain in domains for critical in domain.critical),
            (target.key for domain in domains for target in domain.targets),
            parts,
        )
        workloads._domains = domains
        named = [(domain, critical.key) for domain in domains for critical in domain.critical]
        workloads.measured_critical = tuple(dict.fromkeys(domain.name_part(key) for domain, key in named))
        named += [(domain, target.key) for domain in domains for target in domain.targets]
        workloads.measured_senders = tuple(dict.fromkeys(domain.name_part(key) for domain, key in named))
        return workloads

    def split_by_place(self) -> dict[str, "Workloads"]:
        """The workloads of one backend's queries each: those wherever they are, on single nodes, and by each label."""
        if not self.parts.split:
            return {"": self}
        groups: dict[str, list[Domain]] = {}
        for domain in self._domains:
            place = "" if domain.places is None else _AT if domain.per == PER_NODE else domain.place_key
            groups.setdefault(place, []).append(domain)
        found = {}
        for place, some in groups.items():
            nodes = tuple(sorted({node for domain in some for node in domain.places or ()}))
            parts = PlacedParts(nodes, "" if place == _AT else place) if place else NO_PARTS
            found[place] = self._build(self.names, tuple(some), parts)
        return found

    def has_matchers(self, labels: Mapping[str, str]) -> bool:
        """Whether a series of the histogram or of the loss counter carries the configured matchers."""
        return all(labels.get(label) == value for label, value in self.names.matchers.items())

    def find_critical(self, labels: Mapping[str, str]) -> str | None:
        """The critical workload of a series of the histogram or of the loss counter."""
        names = self.names
        namespace = labels.get(names.namespace, "") if names.namespace else ""
        return self._critical.get((namespace, labels.get(names.workload, "")))

    def find_critical_part(self, labels: Mapping[str, str]) -> str | None:
        """The same, or the part of it on the series' node where it is read node by node."""
        key = self.find_critical(labels)
        return None if key is None else self.parts.find(key, labels.get(self.names.node, ""))

    def find_sender_part(self, labels: Mapping[str, str]) -> str | None:
        """The workload of a series of the throughput counter, or the part of it on the series' node."""
        key = self.find_sender(labels)
        return None if key is None else self.parts.find(key, labels.get(SENDER_NODE, ""))

    def find_sender(self, labels: Mapping[str, str]) -> str | None:
        """The workload of a series of the throughput counter.

        The series names it by a label ``workload``, with or without ``kind``, or by ``pod``, whose name begins with its
        owner's: ``<deployment>-<hash>-<random>``, ``<daemonset>-<random>`` or ``<statefulset>-<ordinal>``.
        Whom a label selector means, no series tells, unless a rule of one's own writes ``workload="selector/<name>"``.
        Interfaces other than the configured one belong to nobody: a Pod on the host's network shows all of
        the host's.
        """
        if self.names.interface and labels.get("interface", self.names.interface) != self.names.interface:
            return None
        namespace = labels.get("namespace", "")
        workload = labels.get("workload")
        if workload is not None:
            return self._find_named(namespace, workload, labels.get("kind", ""))
        # The owner with the longest name wins.
        for pattern, kinds in _OWNERS:
            match = pattern.fullmatch(labels.get("pod", ""))
            found = self._named.get((namespace, match[1]), ()) if match else ()
            of_kind = [key for key in found if _kind_of(key) in kinds]
            if keys := of_kind or [key for key in found if not _kind_of(key)]:
                return keys[0]
        return self._find_cut(namespace, labels.get("pod", ""))

    def _find_named(self, namespace: str, name: str, kind: str) -> str | None:
        """The sender of this name, and of this kind where a series tells it."""
        if f"{namespace}/{name}" in self._senders and kind in ("", "Deployment"):
            return f"{namespace}/{name}"
        found = self._named.get((namespace, name), ())
        of_kind = [key for key in found if kind and _kind_of(key).partition(".")[0] == kind.lower()]
        plain = [key for key in found if not _kind_of(key)]
        # Without a kind, a name that one sender alone has is enough.
        keys = of_kind or plain or (found if not kind and len(found) == 1 else ())
        return keys[0] if keys else None

    def _find_cut(self, namespace: str, pod: str) -> str | None:
        """The sender with a name so long that Kubernetes cut it in the pod's; None where two could be meant."""
        if len(pod) != _LONGEST_POD:
            return None
        base = pod[:-_RANDOM]
        found = []
        for (where, name), keys in self._named.items():
            rest = base.removeprefix(f"{name}-")
            hash_ = rest != base and re.fullmatch("[a-z0-9]{0,10}-?", rest)
            if where == namespace and (hash_ or name.startswith(base)):
                found += keys
        return found[0] if len(found) == 1 else None
