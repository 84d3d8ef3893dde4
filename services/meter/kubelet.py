"""Bytes of pods whose device tells nothing, from the kubelet's ``/metrics/cadvisor``, at cAdvisor's own pace.

cAdvisor reads a pod's counters every 10 to 15 s, from within the pod's network; its page has the time of each count,
which the meter's page repeats.
"""

import logging
import re

from services.kube.objects import NotFound, Rejected, Unavailable
from services.kube.plain_client import PlainClient
from services.meter.pods import NodePod
from services.meter.reading import PodBytes

PATH = "/metrics/cadvisor"
_LINE = re.compile(
    rb'^container_network_(transmit|receive)_bytes_total\{([^}]*\binterface="eth0"[^}]*)\} ([0-9.e+]+) ([0-9]+)$',
    re.MULTILINE,
)
_LABEL = re.compile(rb'\b(namespace|pod)="([^"]*)"')
_log = logging.getLogger(__name__)


class KubeletCounters:
    """The counters of the pods of one kubelet."""

    def __init__(self, client: PlainClient) -> None:
        """Ask this kubelet."""
        self._client = client
        self.counters: dict[tuple[str, str], PodBytes] = {}
        """By namespace and name; replaced, never changed in place."""

    def update(self, pods: tuple[NodePod, ...]) -> None:
        """Read the page; without one there are no counters."""
        try:
            self.counters = parse_page(self._client.fetch(PATH), pods)
        except (NotFound, Rejected, Unavailable) as error:
            _log.warning("kubelet: %s", error)
            self.counters = {}


def parse_page(page: bytes, pods: tuple[NodePod, ...]) -> dict[tuple[str, str], PodBytes]:
    """The counters of these pods on cAdvisor's page; a pod with one of its two counters is left out."""
    found: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}
    for direction, labels, count, stamp in _LINE.findall(page):
        names = {name: value.decode() for name, value in _LABEL.findall(labels)}
        key = names.get(b"namespace", ""), names.get(b"pod", "")
        found.setdefault(key, {})[direction.decode()] = round(float(count)), int(stamp)
    counters = {}
    for pod in pods:
        key = pod.metadata.namespace, pod.metadata.name
        both = found.get(key, {})
        if len(both) == 2:
            (sent, stamp), (received, _) = both["transmit"], both["receive"]
            counters[key] = PodBytes(pod=pod, sent=sent, received=received, source="kubelet", stamp=stamp)
    return counters
