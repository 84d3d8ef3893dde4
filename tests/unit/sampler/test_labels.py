"""Whose series it is: quoted names, interfaces, units, and Pods whose names were cut."""

import pytest

from schemas.config import Signal
from schemas.domain import Critical, Domain, Target
from schemas.units import Duration, Rate
from services.sampler.prometheus.queries import build_queries
from services.sampler.sample_builder import build_sample
from services.sampler.scrape.parser import PageReader
from services.sampler.source import LatencyStats, Measurements
from services.sampler.workloads import Workloads, metric_names

LONG = "robot-telemetry-upload-service-site-augsburg-hall-47ab"


def workloads(*targets: str, signal: Signal | None = None) -> Workloads:
    """One critical workload, and these targets."""
    return Workloads(metric_names(signal or Signal()), ("factory/robot",), targets)


@pytest.mark.parametrize(
    ("targets", "pod", "found"),
    [
        ((LONG,), f"{LONG}-5d5xk2lp", True),
        ((LONG, "robot"), f"{LONG}-5d5xk2lp", True),
        ((LONG + "-north", LONG), f"{LONG}-5d5xk2lp", True),
        ((LONG + "-n" * 9,), f"{(LONG + '-n' * 9)[:58]}x2x4z", True),
        ((LONG + "-north", LONG + "-norway"), f"{LONG}-nox2x4z", False),
        ((LONG,), f"{LONG[:40]}-x2x4z", False),
        (("a" * 47,), f"{'a' * 47}-7d9f8c6b5xx2x4z"[:63], True),
        (("upload",), "upload-5d4-abcde", True),
    ],
)
def test_a_pod_whose_name_was_cut_is_found(targets: tuple[str, ...], pod: str, found: bool) -> None:
    """Kubernetes keeps 58 characters before the random ones; where two workloads could be meant, neither is."""
    keys = [f"factory/{name}" for name in targets]
    owner = workloads(*keys).find_sender({"namespace": "factory", "pod": pod})
    assert (owner in keys) is found


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ({"pod": "db-0"}, "factory/statefulset/db"),
        ({"pod": "db-5d4-abcde"}, "factory/db"),
        ({"pod": "logs-x2x4z"}, "factory/daemonset/logs"),
        ({"pod": "logs-0"}, None),
        ({"pod": "backup-28000000-x2x4z"}, "factory/cronjob/backup"),
        ({"pod": "web-5f6-x2x4z"}, "factory/rollout/web"),
        ({"pod": "robot-0"}, "factory/robot"),
        ({"workload": "db", "kind": "StatefulSet"}, "factory/statefulset/db"),
        ({"workload": "db", "kind": "Deployment"}, "factory/db"),
        ({"workload": "db"}, "factory/db"),
        ({"workload": "logs"}, "factory/daemonset/logs"),
        ({"workload": "logs", "kind": "Job"}, None),
        ({"workload": "robot", "kind": "StatefulSet"}, "factory/robot"),
        ({"workload": "bus", "kind": "Kafka"}, "factory/kafka.kafka.strimzi.io/bus"),
        ({"workload": "selector/hogs"}, "factory/selector/hogs"),
        ({"workload": "hogs", "kind": "Deployment"}, None),
        ({"workload": "hogs"}, None),
        ({"pod": "hogs-0"}, None),
    ],
)
def test_kinds_of_one_name_are_told_apart(labels: dict[str, str], found: str | None) -> None:
    """By the label that names the kind, or by how a pod of that kind is called."""
    keys = ("db", "statefulset/db", "daemonset/logs", "cronjob/backup", "rollout/web", "selector/hogs")
    one = workloads(*(f"factory/{key}" for key in keys), "factory/kafka.kafka.strimzi.io/bus")
    assert one.find_sender({"namespace": "factory", **labels}) == found


def test_one_interface_counts() -> None:
    """A Pod on the host's network shows all of the host's: they are not added up."""
    page = "".join(
        f'container_network_transmit_bytes_total{{namespace="factory",pod="upload-5d4-abcde",interface="{name}"}} 5\n'
        for name in ("eth0", "lo", "cilium_host", "lxc123", "eth1")
    ).encode()
    for setting, count in (("eth0", 1), ("eth1", 1), ("", 5), ("ens5", 0)):
        one = workloads("factory/upload", signal=Signal(interface=setting))
        assert len(PageReader(one).read(page).counters) == count
    signal = Signal(interface="ens5.1")
    query = build_queries(signal, workloads("factory/upload", signal=signal))["throughput"]
    assert r'interface=~"ens5\\.1|"' in query, query


def test_names_that_need_quotation_marks_have_them() -> None:
    """OpenTelemetry's, which Prometheus 3 knows."""
    names = {"namespace": "k8s.namespace.name", "workload": "k8s.deployment.name"}
    signal = Signal(source="prometheus", window=Duration(4 * 10**9), labels=names, matchers={"net.peer": "a"})  # type: ignore[arg-type]
    query = build_queries(signal, workloads(signal=signal))["observations"]
    assert 'by ("k8s.namespace.name", "k8s.deployment.name")' in query
    assert '{"net.peer"="a","k8s.namespace.name"=~"factory","k8s.deployment.name"=~"robot"}' in query
    with pytest.raises(ValueError, match="quotation marks"):
        build_queries(Signal(metric="k8s.rtt"), workloads(signal=Signal(metric="k8s.rtt")))


def test_no_matcher_is_without_a_label() -> None:
    """An empty namespace leaves the matcher out; an empty workload is refused."""
    no_namespace = Signal(labels={"namespace": ""})
    assert "{workload=~" in build_queries(no_namespace, workloads(signal=no_namespace))["p95"]
    for wrong in (Signal(labels={"workload": ""}), Signal(matchers={"": "a"})):
        with pytest.raises(ValueError, match=r"empty|without a name"):
            workloads(signal=wrong)


def test_a_histogram_in_milliseconds() -> None:
    """With its unit it is read; without, the reason names it."""
    page = "".join(
        f'hubble_flow_latency_seconds_bucket{{namespace="factory",workload="robot",le="{le}"}} 1\n'
        for le in ("0.5", "1", "2", "5", "1000", "+Inf")
    ).encode()
    (series,) = PageReader(workloads(signal=Signal(unit="ms"))).read(page).counters
    assert series.bounds == pytest.approx((0.0005, 0.001, 0.002, 0.005, 1.0))
    robot = Critical(workload="robot", namespace="factory")
    rate = Rate(10**6)
    target = Target(deployment="upload", namespace="factory", min=rate, max=Rate(9 * 10**6), fail_safe=rate)
    domain = Domain(name="cell", critical=(robot,), targets=(target,))
    stats = LatencyStats(jitter=0.1, p95=0.3, observations=500, bounds=(0.5, 1.0, 2.0, 5.0, 1000.0))
    measured = Measurements(start=0, latency={"factory/robot": stats}, throughput={})
    missing = build_sample(domain, Signal(), 10**9, measured).critical[0].missing
    assert "they look like milliseconds: set signal.unit: ms" in str(missing)
