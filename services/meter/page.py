"""The meter's page, in Prometheus's text format.

Its counters have the names and labels of cAdvisor's, and ``workload`` besides, so that whatever reads the one reads
the other.  A library would build an object a sample for each scrape: this page is built several times a second.
"""

from collections import Counter
from collections.abc import Collection, Iterable

from schemas.meter import UNMETERED
from services.meter.pods import NodePod
from services.meter.reading import PodBytes, Reading

TRANSMIT = "container_network_transmit_bytes_total"
RECEIVE = "container_network_receive_bytes_total"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SOURCES = ("device", "kubelet")


class PageBuilder:
    """Builds the pages of one node."""

    def __init__(self, node: str) -> None:
        """Label every series with the node's name."""
        self._node = node
        self._labels: dict[str, tuple[str, str]] = {}

    def build(self, reading: Reading, *, watching: bool, namespaces: Collection[str] = ()) -> bytes:
        """Build the page of a reading.

        Args:
            reading: its pods.
            namespaces: leave the pods of others out; empty: of none.
            watching: whether the API tells of changes now; otherwise the pods are those that were known last.
        """
        self._labels = {one.pod.metadata.uid: (one.source, self._label(one)) for one in reading.metered}
        metered = [
            (one, self._labels[one.pod.metadata.uid][1]) for one in reading.metered if _is_in(one.pod, namespaces)
        ]
        lines = [*_head(TRANSMIT, "counter", "Bytes that a pod sent, before its limit.")]
        lines += [f"{TRANSMIT}{labels} {one.sent} {one.stamp}\n" for one, labels in metered]
        lines += _head(RECEIVE, "counter", "Bytes that a pod was sent.")
        lines += [f"{RECEIVE}{labels} {one.received} {one.stamp}\n" for one, labels in metered]
        lines += _head(UNMETERED, "gauge", "Pods that may send and are not measured, with the reason.")
        lines += [
            f'{UNMETERED}{{{_describe(one.pod, self._node)},reason="{_escape(one.reason)}"}} 1\n'
            for one in reading.unmetered
            if _is_in(one.pod, namespaces)
        ]
        counts = Counter(one.source for one in reading.metered)
        node = _escape(self._node)
        lines += _head("sluice_meter_pods", "gauge", "Measured pods by the source of their counters.")
        lines += [f'sluice_meter_pods{{node="{node}",source="{name}"}} {counts[name]}\n' for name in SOURCES]
        lines += _head("sluice_meter_watching", "gauge", "Whether the API tells of changes now.")
        lines.append(f'sluice_meter_watching{{node="{node}"}} {int(watching)}\n')
        return "".join(lines).encode()

    def _label(self, one: PodBytes) -> str:
        """The labels of a pod's counters, which hardly ever change."""
        known = self._labels.get(one.pod.metadata.uid)
        if known is not None and known[0] == one.source:
            return known[1]
        return f'{{{_describe(one.pod, self._node)},source="{one.source}"}}'


def _is_in(pod: NodePod, namespaces: Collection[str]) -> bool:
    return not namespaces or pod.metadata.namespace in namespaces


def _describe(pod: NodePod, node: str) -> str:
    workload = pod.workload
    labels = {
        "namespace": pod.metadata.namespace,
        "workload": workload.name,
        "kind": workload.kind,
        "pod": pod.metadata.name,
        "node": node,
    }
    return ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())


def _head(name: str, kind: str, text: str) -> Iterable[str]:
    return f"# HELP {name} {text}\n", f"# TYPE {name} {kind}\n"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
