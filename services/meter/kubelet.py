"""Bytes of pods whose device tells nothing, from the kubelet's ``/metrics/cadvisor``, at cAdvisor's own pace.

cAdvisor reads a pod's counters every 10 to 15 s, from within the pod's network; its page has the time of each count,
which the meter's page repeats.  The page has a series for every sandbox: one that ended stays for a while, and a pod
that was made again under the same name has that of the pod before it, too.
"""

import logging
import re
import time
from collections import defaultdict
from collections.abc import Iterable

from services.kube.objects import NotFound, Rejected, Unavailable
from services.kube.plain_client import PlainClient
from services.meter.pods import NodePod
from services.meter.reading import PodBytes

PATH = "/metrics/cadvisor"
INTERFACE = "eth0"
"""A pod's device on the cluster's network, as every runtime calls it; further networks are not limited."""
_LINE = re.compile(rb"container_network_(transmit|receive)_bytes_total\{(.*)\} ([0-9.e+]+)(?: ([0-9]+))?\s*")
_LABEL = re.compile(rb'(\w+)="((?:[^"\\]|\\.)*)"')
_UID = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})")
"""In the path of a pod's control group; systemd's have underscores.  A static pod's has a hash of its file instead."""
_log = logging.getLogger(__name__)

Count = tuple[int, int]
"""Bytes, and when they were counted, Unix ms."""


class KubeletCounters:
    """The counters of the pods of one kubelet."""

    def __init__(self, client: PlainClient, silence_s: float) -> None:
        """Ask this kubelet; after so long without a line its page is given up."""
        self._client = client
        self._silence_s = silence_s
        self.counters: dict[tuple[str, str], PodBytes] = {}
        """By namespace and name; replaced, never changed in place."""
        self.problem: str | None = "not yet"
        """Why the page is not known; None while it is."""

    def update(self, pods: tuple[NodePod, ...]) -> None:
        """Read the page, a line at a time: it may have ten megabytes.  Without one there are no counters."""
        problem = None
        try:
            lines = self._client.follow(PATH, [], self._silence_s)
            self.counters = parse_page(lines, pods, time.time_ns() // 10**6)
        except (NotFound, Rejected, Unavailable) as error:
            problem, self.counters = str(error), {}
        if problem != self.problem:
            _log.warning("kubelet: %s", problem or "its page is read")
        self.problem = problem


def parse_page(lines: Iterable[bytes], pods: tuple[NodePod, ...], now: int) -> dict[tuple[str, str], PodBytes]:
    """Find the counters of these pods on cAdvisor's page.

    Of a pod's sandboxes the one that was counted last is believed.  A pod of which one of the two counters is missing
    is left out.

    Args:
        lines: of the page.
        pods: of the node.
        now: Unix ms.  A runtime that counts when it is asked writes no time.
    """
    wanted = {(pod.metadata.namespace, pod.metadata.name): pod for pod in pods if pod.has_own_network}
    found: defaultdict[tuple[str, str], defaultdict[str, dict[bytes, Count]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        if (match := _LINE.fullmatch(line)) is None:
            continue
        direction, text, count, stamp = match.groups()
        labels = {name.decode(): value.decode(errors="replace") for name, value in _LABEL.findall(text)}
        key, sandbox = (labels.get("namespace", ""), labels.get("pod", "")), labels.get("id", "")
        if key in wanted and labels.get("interface") == INTERFACE and _may_be_of(sandbox, wanted[key]):
            found[key][sandbox][direction] = round(float(count)), int(stamp or now)
    counters = {}
    for key, sandboxes in found.items():
        whole = [one for one in sandboxes.values() if len(one) == 2]
        if whole:
            newest = max(whole, key=lambda one: one[b"transmit"][1])
            (sent, counted), (received, _) = newest[b"transmit"], newest[b"receive"]
            counters[key] = PodBytes(pod=wanted[key], sent=sent, received=received, source="kubelet", stamp=counted)
    return counters


def _may_be_of(sandbox: str, pod: NodePod) -> bool:
    """Whether a control group may be the pod's: most name its uid."""
    match = _UID.search(sandbox)
    return match is None or match[1].replace("_", "-") == pod.metadata.uid
