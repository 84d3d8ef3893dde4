"""The interface of a plant: a bottleneck with critical workloads and best-effort targets on it.

Two plants implement it: real packets in network namespaces, and a simulated queue.  Each protocol below
is what one caller needs: the agent enforces limits, the scenario changes loads, the exporter reads
counters, and the score reads the ground truth.  Workloads and targets are named ``namespace/name`` as in the
messages, pods by the name they have on the Kubernetes API.  Rates are kbit/s on the wire unless the
text says goodput; times are UTC ns, latencies seconds.

The calls are synchronous and may block for some milliseconds; an event loop runs them in a thread.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from services.common.histogram import BOUNDS

BUCKETS = BOUNDS
"""Upper bounds of the latency histogram, seconds: within 3 % of a quantile near 2 ms."""


class Pod(Struct, frozen=True):
    """One replica of a best-effort target."""

    name: str
    target: str
    """``namespace/deployment``."""


class CriticalSecond(Struct, frozen=True):
    """Ground truth of one critical workload in one second."""

    p50: float | None
    """Median round trip, seconds; None when nothing came back, as for the next two."""
    p95: float | None
    jitter: float | None
    """Q75 - Q25 of the round trips."""
    observations: int
    """Round trips that the figures rest on."""
    lost: int
    """Its packets and probes that never arrived."""
    load: int
    """What it wanted to send, kbit/s of payload."""
    throughput: int
    """What arrived of it, kbit/s of payload."""


class Second(Struct, frozen=True):
    """The ground truth of one second, from every packet's own round trip, not from samples."""

    start: int
    """UTC ns."""
    critical: dict[str, CriticalSecond]
    """By workload."""
    goodput: dict[str, int]
    """What arrived of each target, kbit/s of payload, all replicas together."""
    limits: dict[str, int | None]
    """In force on each pod at the end of the second, kbit/s; None where nothing limits it."""
    capacity: int
    """Of the bottleneck, kbit/s."""
    invalid: str | None = None
    """Why this second cannot be judged, such as CPU steal; it is left out and counted."""


class Histogram(Struct, frozen=True):
    """Round trips of one critical workload since the plant started."""

    counts: tuple[int, ...]
    """How many lie at or below each of ``BUCKETS`` (cumulative); a last entry counts all."""
    sum: float
    """Seconds."""
    lost: int
    """Packets and probes that never arrived."""


class Counters(Struct, frozen=True):
    """What an exporter publishes; no value ever falls."""

    latency: dict[str, Histogram]
    """By critical workload."""
    sent: dict[str, int]
    """Bytes on the wire since the start, by critical workload and by best-effort pod's name."""


class LimitControl(Protocol):
    """What the agent that plays Cilium's Bandwidth Manager needs."""

    def set_limit(self, pod: str, kbit: int | None) -> None:
        """Put a limit in force on a pod's egress, or lift it with None.

        Raises:
            KeyError: no such pod.
        """


class LoadControl(Protocol):
    """What a scenario needs."""

    def set_load(self, workload: str, kbit: int | None) -> None:
        """Change what a workload wants to send, kbit/s of payload; None is as much as it can get.

        Raises:
            KeyError: no such workload or target.
        """

    def set_capacity(self, kbit: int) -> None:
        """Change the bottleneck's rate."""


class CounterSource(Protocol):
    """What an exporter needs."""

    def read_counters(self) -> Counters:
        """The counters now."""


class TruthSource(Protocol):
    """What the score needs."""

    def take_seconds(self) -> Sequence[Second]:
        """The seconds that were completed since the last call, oldest first."""


class Plant(LimitControl, LoadControl, CounterSource, TruthSource, Protocol):
    """A whole plant."""

    @property
    def pods(self) -> Sequence[Pod]:
        """The best-effort pods there are."""

    @property
    def limits(self) -> Mapping[str, int | None]:
        """In force now, by pod name."""
