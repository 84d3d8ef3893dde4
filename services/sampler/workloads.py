"""Which metrics a signal reads, and which of the configured workloads a series speaks of."""

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

from schemas.config import Config, Signal

_OWNERS = (
    re.compile(r"(.+)"),  # a pod on its own
    re.compile(r"(.+)-(?:[0-9]+|[a-z0-9]{5})"),  # of a StatefulSet or a DaemonSet
    re.compile(r"(.+)-[a-z0-9]{1,10}-[a-z0-9]{5}"),  # of a Deployment
)


class Preset(Struct, frozen=True):
    """How one exporter calls its latency histogram and what goes with it."""

    metric: str
    namespace: str
    workload: str
    lost: str = ""
    matchers: dict[str, str] = {}


PRESETS: dict[str, Preset] = {
    "hubble": Preset("hubble_flow_latency_seconds", "namespace", "workload", lost="hubble_flow_lost_total"),
    "netobserv": Preset("netobserv_workload_rtt_seconds", "SrcK8S_Namespace", "SrcK8S_OwnerName"),
    "obi": Preset("obi_stat_tcp_rtt_seconds", "k8s_src_namespace", "k8s_src_owner_name"),
    "cilium-health": Preset(
        "cilium_node_health_connectivity_latency_seconds",
        namespace="",
        workload="source_node_name",
        matchers={"type": "node", "protocol": "icmp"},
    ),
}
"""By the name that ``signal.preset`` takes.  cilium-health measures between nodes: there a node is the workload."""


class Names(Struct, frozen=True):
    """The metrics and labels that a signal reads; an empty name: there is no such thing."""

    metric: str
    lost: str
    throughput: str
    namespace: str
    workload: str
    matchers: dict[str, str]


def names_of(signal: Signal) -> Names:
    """The preset's names, with what the configuration says otherwise."""
    preset = PRESETS[signal.preset]
    return Names(
        metric=preset.metric if signal.metric is None else signal.metric,
        lost=preset.lost if signal.lost is None else signal.lost,
        throughput=signal.throughput,
        namespace=signal.labels.get("namespace", preset.namespace),
        workload=signal.labels.get("workload", preset.workload),
        matchers={**preset.matchers, **signal.matchers},
    )


class Workloads:
    """The configured workloads, found by the labels of a series."""

    def __init__(self, names: Names, critical: Iterable[str], targets: Iterable[str]) -> None:
        """Take the workloads as ``namespace/name``.

        Raises:
            ValueError: the histogram has no namespace label, and two critical workloads share a name.
        """
        self.names = names
        self.critical = tuple(dict.fromkeys(critical))
        self.senders = tuple(dict.fromkeys([*self.critical, *targets]))
        self._critical = {self._critical_label(key): key for key in self.critical}
        if len(self._critical) < len(self.critical):
            raise ValueError(
                f"{names.metric} has no label for a namespace: "
                f"critical workloads need different names, got {', '.join(self.critical)}"
            )
        self._senders = frozenset(self.senders)

    @classmethod
    def of(cls, config: Config) -> "Workloads":
        """All workloads of all domains.

        Raises:
            ValueError: series could not be told apart; see above.
        """
        return cls(
            names_of(config.signal),
            (critical.key for domain in config.domains for critical in domain.critical),
            (target.key for domain in config.domains for target in domain.targets),
        )

    def _critical_label(self, key: str) -> tuple[str, str]:
        namespace, _, name = key.partition("/")
        return (namespace if self.names.namespace else "", name)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a series of the histogram or of the loss counter is one of those asked for."""
        return all(labels.get(label) == value for label, value in self.names.matchers.items())

    def critical_of(self, labels: Mapping[str, str]) -> str | None:
        """The critical workload that a series of the histogram or of the loss counter speaks of."""
        names = self.names
        namespace = labels.get(names.namespace, "") if names.namespace else ""
        return self._critical.get((namespace, labels.get(names.workload, "")))

    def sender_of(self, labels: Mapping[str, str]) -> str | None:
        """The workload whose bytes a series of the throughput counter counts.

        It says so by a label ``workload``, or by ``pod``, whose name begins with its owner's:
        ``<deployment>-<hash>-<random>``, ``<daemonset>-<random>`` or ``<statefulset>-<ordinal>``.
        """
        namespace = labels.get("namespace", "")
        named = labels.get("workload")
        if named is not None:
            key = f"{namespace}/{named}"
            return key if key in self._senders else None
        pod = labels.get("pod", "")
        return next((key for key in _owners(namespace, pod) if key in self._senders), None)


def _owners(namespace: str, pod: str) -> list[str]:
    """Every workload that a pod of this name can belong to, the one with the longest name first."""
    matches = (pattern.fullmatch(pod) for pattern in _OWNERS)
    return [f"{namespace}/{match[1]}" for match in matches if match]
