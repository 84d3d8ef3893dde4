"""The histogram and its labels stay bounded, and loss is counted correctly."""

from prometheus_client import CollectorRegistry

from services.exporter.metrics import LatencyMetrics, SeriesKey
from services.exporter.pairing import Pair

ROBOT, CELL = "factory/robot-control", "factory/robot-cell"


def make(critical: tuple[str, ...] = (ROBOT,), peers: int = 3) -> tuple[LatencyMetrics, CollectorRegistry]:
    """The metrics and their registry."""
    registry = CollectorRegistry()
    return LatencyMetrics(critical, (0.001, 0.002), peers, registry), registry


def labels(
    peer: str, source: str = "handshake", protocol: str = "tcp", locality: str = "remote", node: str = ""
) -> dict[str, str]:
    """Labels of robot-control's series."""
    return {
        "namespace": "factory", "workload": "robot-control", "peer": peer,
        "protocol": protocol, "source": source, "locality": locality, "node": node,
    }  # fmt: skip


def test_a_pair_is_counted_for_each_critical_end() -> None:
    """Once as client and once as server; other workloads have no series."""
    latencies, registry = make()
    latencies.count_pair(Pair(0.0015, "tcp", "handshake", False, ROBOT, CELL))
    latencies.count_pair(Pair(0.0005, "tcp", "handshake", True, CELL, ROBOT))
    value = registry.get_sample_value
    assert value("hubble_flow_latency_seconds_bucket", labels(CELL) | {"le": "0.001"}) == 0
    assert value("hubble_flow_latency_seconds_bucket", labels(CELL) | {"le": "0.002"}) == 1
    assert value("hubble_flow_latency_seconds_count", labels(CELL, locality="local")) == 1
    assert latencies.observations == {ROBOT: 2}
    both, _ = make((ROBOT, CELL))
    both.count_pair(Pair(0.0015, "tcp", "handshake", False, ROBOT, CELL))
    assert both.observations == {ROBOT: 1, CELL: 1}


def test_a_handshake_of_a_second_lost_a_packet() -> None:
    """The histogram has its full duration; the loss counter, which was at zero before, counts it."""
    latencies, registry = make()
    latencies.count_pair(Pair(0.001, "tcp", "handshake", False, ROBOT, CELL))
    assert registry.get_sample_value("hubble_flow_lost_total", labels(CELL)) == 0
    latencies.count_pair(Pair(1.002, "tcp", "handshake", False, ROBOT, CELL))
    assert registry.get_sample_value("hubble_flow_lost_total", labels(CELL)) == 1
    assert registry.get_sample_value("hubble_flow_latency_seconds_count", labels(CELL)) == 2


def test_a_first_handshake_that_lost_a_packet_is_an_increase() -> None:
    """A new series that starts at one shows no increase, so a series that was at zero before counts the loss."""
    latencies, registry = make()
    latencies.initialize_losses()
    assert registry.get_sample_value("hubble_flow_lost_total", labels("other")) == 0
    latencies.count_pair(Pair(1.01, "tcp", "handshake", False, ROBOT, CELL))
    assert registry.get_sample_value("hubble_flow_lost_total", labels("other")) == 1
    assert registry.get_sample_value("hubble_flow_lost_total", labels(CELL)) == 0
    latencies.count_pair(Pair(1.01, "tcp", "handshake", False, ROBOT, CELL))
    assert registry.get_sample_value("hubble_flow_lost_total", labels(CELL)) == 1


def test_a_slow_udp_reply_is_no_loss() -> None:
    """The delay of a UDP reply has unknown causes."""
    latencies, registry = make()
    latencies.count_pair(Pair(0.9, "udp", "request", False, ROBOT, CELL))
    assert registry.get_sample_value("hubble_flow_lost_total", labels(CELL, "request", "udp")) is None


def test_peers_beyond_the_bound_become_one() -> None:
    """The configuration bounds the cardinality, and folded observations are counted."""
    latencies, registry = make(peers=3)
    for number in range(500):
        latencies.count_pair(Pair(0.0015, "tcp", "handshake", False, ROBOT, f"factory/peer-{number}"))
    assert registry.get_sample_value("hubble_flow_latency_seconds_count", labels("other")) == 497
    folded = registry.get_sample_value(
        "sluice_exporter_folded_total", {"namespace": "factory", "workload": "robot-control"}
    )
    assert folded == 497
    names = {sample.labels.get("peer") for metric in registry.collect() for sample in metric.samples}
    assert names - {None} == {"factory/peer-0", "factory/peer-1", "factory/peer-2", "other"}


def test_a_peer_outside_of_the_cluster_has_a_name() -> None:
    """It has no workload."""
    latencies, registry = make()
    latencies.count_pair(Pair(0.0015, "tcp", "handshake", False, "", ROBOT))
    assert registry.get_sample_value("hubble_flow_latency_seconds_count", labels("outside")) == 1


def test_series_that_the_signal_does_not_select_are_not_observations() -> None:
    """Probes do not count for a workload whose signal selects handshakes."""
    registry = CollectorRegistry()
    matchers = {"source": "handshake", "job": "added by Prometheus"}
    latencies = LatencyMetrics([ROBOT], (0.001,), 3, registry, matchers=matchers)
    latencies.observe(SeriesKey(ROBOT, "sluice-exporter", "udp", "probe", local=False), 0.001)
    assert latencies.observations == {ROBOT: 0}
    latencies.count_pair(Pair(0.0015, "tcp", "handshake", False, ROBOT, CELL))
    assert latencies.observations == {ROBOT: 1}
    assert (
        registry.get_sample_value("hubble_flow_latency_seconds_count", labels("sluice-exporter", "probe", "udp")) == 1
    )


def test_workloads_come_and_go() -> None:
    """One that is new counts from zero; one that is gone has no series, and a pair on its way harms nothing."""
    latencies, registry = make()
    latencies.initialize_losses()
    pair = Pair(0.0015, "tcp", "handshake", False, ROBOT, CELL)
    latencies.count_pair(pair)
    latencies.define({CELL})
    value = registry.get_sample_value
    assert value("hubble_flow_latency_seconds_count", labels(CELL)) is None
    assert value("hubble_flow_lost_total", labels("other")) is None
    assert value("hubble_flow_lost_total", labels("other") | {"workload": "robot-cell"}) == 0
    assert latencies.observations == {CELL: 0}
    latencies.count_pair(pair)
    assert latencies.observations == {CELL: 1}
    latencies.observe(SeriesKey(ROBOT, CELL, "tcp", "handshake", local=False), 0.001)
    assert latencies.observations == {CELL: 1}


def test_only_nodes_that_instances_look_at_have_series_of_their_own() -> None:
    """All others are one, and a node's series go with its instance."""
    latencies, registry = make()
    value, name = registry.get_sample_value, "hubble_flow_latency_seconds_count"
    latencies.count_pair(Pair(0.0015, "tcp", "handshake", False, ROBOT, CELL, "n1"))
    assert value(name, labels(CELL)) == 1
    latencies.define({ROBOT}, {ROBOT: {"n1", "n2"}})
    latencies.count_pair(Pair(0.0015, "tcp", "handshake", False, ROBOT, CELL, "n1"))
    latencies.count_pair(Pair(1.5, "tcp", "handshake", True, CELL, ROBOT, "n2"))
    latencies.count_pair(Pair(0.0015, "tcp", "handshake", False, CELL, ROBOT, "n2"))  # from elsewhere: to which node?
    latencies.observe(SeriesKey(ROBOT, "probe", "udp", "probe", local=False, node="n3"), 0.001)
    assert value(name, labels(CELL, node="n1")) == value(name, labels(CELL, locality="local", node="n2")) == 1
    assert value("hubble_flow_lost_total", labels("other", locality="local", node="n2")) == 1
    assert value(name, labels(CELL)) == 2
    assert value(name, labels("probe", "probe", "udp")) == 1
    latencies.define({ROBOT}, {ROBOT: {"n2"}})
    assert value(name, labels(CELL, node="n1")) is None
    assert value(name, labels(CELL, locality="local", node="n2")) == 1
