"""The latency histogram and the loss counter that Prometheus and the sampler read.

    relay_client -> flow_reader -> replay_filter -> pairing -> *metrics*
    prober --------------------------------------------------> *metrics*

Every label is bounded: workloads are the configured ones, peers beyond a bound become ``other``, nodes are those that
instances of a definition look at, and the other labels have two or three values.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from schemas.exporter import Probe
from services.exporter.pairing import Pair, PairingTable
from services.exporter.replay_filter import ReplayFilter

LATENCY = "hubble_flow_latency_seconds"
LOST = "hubble_flow_lost_total"
OTHER = "other"
OUTSIDE = "outside"
_LABELS = ("namespace", "workload", "peer", "protocol", "source", "locality", "node")

RETRANSMITTED_S = 1.0
"""The first retransmission of a SYN comes after one second (RFC 6298): a handshake this long lost a packet."""

Transport = Literal["tcp", "udp"]
LatencySource = Literal["handshake", "request", "probe"]


class SeriesKey(NamedTuple):
    """What a latency is of."""

    workload: str
    """``namespace/name``."""
    peer: str
    protocol: Transport
    source: LatencySource
    local: bool
    """Whether both ends are on one node."""
    node: str = ""
    """Of the workload's Pod; empty where that is not known, or no instance looks at it."""


class LatencyMetrics:
    """The latency histogram and the loss counter."""

    def __init__(
        self,
        critical: Collection[str],
        bounds: Iterable[float],
        peers: int,
        registry: CollectorRegistry,
        name: str = LATENCY,
        matchers: Mapping[str, str] | None = None,
    ) -> None:
        """Create the metrics.

        Args:
            critical: the workloads to have series, ``namespace/workload``.
            bounds: upper bounds of the buckets, seconds.
            peers: most peers of one workload to have series of their own.
            registry: exposes the metrics.
            name: the histogram's name.
            matchers: labels by which the signal selects series; None: it selects all.
        """
        self._critical = frozenset(critical)
        self._nodes: Mapping[str, Collection[str]] = {}
        self._most = peers
        self._peers: dict[str, set[str]] = {workload: set() for workload in critical}
        self._matchers = matchers or {}
        self._observe: dict[SeriesKey, tuple[Histogram, bool]] = {}
        """The histogram of each series, and whether the signal selects it."""
        self._lose: dict[SeriesKey, Counter] = {}
        self._counts_handshakes = False
        self._latency = Histogram(
            name, "Round trip of L4 flows and probes.", _LABELS, buckets=tuple(bounds), registry=registry
        )
        self._lost = Counter(
            LOST.removesuffix("_total"), "Packets and probes known to be lost.", _LABELS, registry=registry
        )
        self._folded = Counter(
            "sluice_exporter_folded",
            "Observations whose peer became 'other'.",
            ("namespace", "workload"),
            registry=registry,
        )
        self.observations: dict[str, int] = dict.fromkeys(critical, 0)
        """Number of latencies of each workload in series that the signal selects."""

    def define(self, critical: Collection[str], nodes: Mapping[str, Collection[str]] | None = None) -> None:
        """Have series of these workloads from now on; may run beside the follower's thread.

        What is new is there before it counts; of what is gone, a pair that is being counted finds nothing.

        Args:
            critical: ``namespace/workload``.
            nodes: by workload, the nodes that have series of their own.
        """
        self._nodes = nodes or {}
        wanted = frozenset(critical)
        for workload in wanted - self._critical:
            self._peers[workload] = set()
            self.observations[workload] = 0
        gone, self._critical = self._critical - wanted, wanted
        for workload in gone:
            self._peers.pop(workload, None)
            self.observations.pop(workload, None)
        for known, family in ((self._observe, self._latency), (self._lose, self._lost)):
            for series in [one for one in tuple(known) if one.workload in gone or self._place(one) != one]:
                del known[series]
                family.remove(*_label_values(series))
        if self._counts_handshakes:
            self.initialize_losses()

    def initialize_losses(self) -> None:
        """Start every workload's losses at zero, because only an increase counts as a loss."""
        self._counts_handshakes = True
        for workload in self._critical:
            for local in (False, True):
                for node in ("", *self._nodes.get(workload, ())):
                    self.lose(SeriesKey(workload, OTHER, "tcp", "handshake", local, node), 0)

    def count_pair(self, pair: Pair) -> None:
        """Count a pair for each of its ends that is critical."""
        # Where the server of a request is that left its node, nothing says.
        ends = ((pair.client, pair.server, True), (pair.server, pair.client, pair.local))
        for workload, peer, is_there in ends:
            if workload in self._critical:
                node = pair.node if is_there else ""
                series = self._place(SeriesKey(workload, peer or OUTSIDE, pair.protocol, pair.kind, pair.local, node))
                known = series in self._observe
                self.observe(series, pair.latency)
                if pair.kind == "handshake" and pair.latency >= RETRANSMITTED_S:
                    # A new series was never scraped at zero, so its first count would be no increase.
                    self.lose(series if known else series._replace(peer=OTHER))

    def observe(self, series: SeriesKey, latency: float) -> None:
        """Count one latency, seconds."""
        series = self._place(series)
        known = self._observe.get(series)
        if known is None:
            folded = self._fold(series)
            if folded != series:
                self._folded.labels(*series.workload.split("/", 1)).inc()
                self.observe(folded, latency)
                return
            known = self._latency.labels(*_label_values(series)), has_labels(series, self._matchers)
            self._observe[series] = known
            if series.source != "request":
                self.lose(series, 0)
        child, selected = known
        child.observe(latency)
        if selected and series.workload in self.observations:
            self.observations[series.workload] += 1

    def lose(self, series: SeriesKey, number: int = 1) -> None:
        """Count lost packets or probes; 0 creates the series."""
        series = self._place(series)
        child = self._lose.get(series)
        if child is None:
            folded = self._fold(series)
            child = self._lose.get(folded)
            if child is None:
                child = self._lose[folded] = self._lost.labels(*_label_values(folded))
        child.inc(number)

    def _fold(self, series: SeriesKey) -> SeriesKey:
        """The series itself while its workload has room for the peer, else the one of all other peers."""
        known = self._peers.get(series.workload, set())  # none where it is being removed
        if series.peer == OTHER or series.peer in known:
            return series
        if len(known) < self._most:
            known.add(series.peer)
            return series
        return series._replace(peer=OTHER)

    def _place(self, series: SeriesKey) -> SeriesKey:
        """The series itself where its node has series of its own, else the one of all other nodes."""
        if not series.node or series.node in self._nodes.get(series.workload, ()):
            return series
        return series._replace(node="")


def probe_series(probe: Probe, protocol: Transport, node: str = "") -> SeriesKey:
    """The series of a probe's latencies."""
    return SeriesKey(probe.key, probe.peer, protocol, "probe", local=False, node=node)


def has_labels(series: SeriesKey, matchers: Mapping[str, str]) -> bool:
    """Whether a series has these labels; labels that are not the exporter's, such as Prometheus's own, do not count."""
    labels = dict(zip(_LABELS, _label_values(series), strict=True))
    return all((labels.get(label) or value) == value for label, value in matchers.items())


def _label_values(series: SeriesKey) -> tuple[str, ...]:
    namespace, _, name = series.workload.partition("/")
    locality = "local" if series.local else "remote"
    return namespace, name, series.peer, series.protocol, series.source, locality, series.node


class FlowStatus(Collector):
    """Exposes the counts of the follower, the replay filter and the pairing."""

    def __init__(self, pairing: PairingTable, replay_filter: ReplayFilter) -> None:
        """Read these two at each scrape; the follower sets the attributes below."""
        self._pairing = pairing
        self._replay_filter = replay_filter
        self.connected = False
        self.connections = 0
        self.received = 0
        """Flows received from Relay."""
        self.unusable: dict[str, int] = {}
        """Flows that cannot be part of a pair, by reason."""
        self.lost: dict[str, int] = {}
        """Events that Hubble reports as lost, by where."""
        self.nodes: dict[str, str] = {}
        """Each node's state as reported by Relay."""

    def collect(self) -> Iterable[Metric]:
        """The current metrics."""
        prefix = "sluice_exporter_"
        yield GaugeMetricFamily(f"{prefix}relay_connected", "Whether a stream from Relay is open.", self.connected)
        yield CounterMetricFamily(f"{prefix}relay_connections", "Streams opened to Relay.", self.connections)
        yield CounterMetricFamily(f"{prefix}flows", "Flows received from Relay.", self.received)
        yield CounterMetricFamily(f"{prefix}replayed", "Flows dropped as seen before.", self._replay_filter.repeated)
        yield GaugeMetricFamily(f"{prefix}pending", "Requests that wait for an answer.", self._pairing.pending)
        yield GaugeMetricFamily(f"{prefix}pending_bytes", "What they take, estimated.", self._pairing.pending_bytes)
        unpaired = CounterMetricFamily(f"{prefix}unpaired", "Flows that gave no latency.", labels=["reason"])
        for reason, count in sorted({**self.unusable, **self._pairing.counts}.items()):
            unpaired.add_metric([reason], count)
        yield unpaired
        lost = CounterMetricFamily(f"{prefix}hubble_lost_events", "Events that Hubble lost.", labels=["where"])
        for where, count in sorted(self.lost.items()):
            lost.add_metric([where], count)
        yield lost
        nodes = GaugeMetricFamily(f"{prefix}nodes", "Nodes by the state that Relay reports.", labels=["state"])
        states = list(self.nodes.values())
        for state in sorted(set(states)):
            nodes.add_metric([state], states.count(state))
        yield nodes
