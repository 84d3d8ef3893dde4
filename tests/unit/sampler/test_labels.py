"""Whose series it is: quoted names, interfaces, units, and Pods whose names were cut."""

import re

import pytest

from schemas.config import Signal
from schemas.domain import Critical, Domain, Target
from schemas.units import Duration, Rate
from services.sampler.loop import build_sample
from services.sampler.prometheus.queries import build_queries
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


@pytest.mark.parametrize(
    ("setting", "count"), [("eth0", 1), ("eth1", 1), ("cilium_host", 1), ("", 5), ("ens5", 0), ("eth.", 0), ("ETH0", 0)]
)
def test_one_interface_counts(setting: str, count: int) -> None:
    """A Pod on the host's network shows all of the host's: they are not added up.  A setting is no pattern."""
    page = "".join(
        f'container_network_transmit_bytes_total{{namespace="factory",pod="upload-5d4-abcde",interface="{name}"}} 5\n'
        for name in ("eth0", "lo", "cilium_host", "lxc123", "eth1")
    ).encode()
    signal = Signal(interface=setting)
    one = workloads("factory/upload", signal=signal)
    assert len(PageReader(one).read(page).counters) == count
    query = build_queries(signal, one)["throughput"]
    assert ("interface" in query) is bool(setting)
    assert not setting or f'interface=~"{re.escape(setting)}|"'.replace("\\", "\\\\") in query, query


@pytest.mark.parametrize(
    ("namespace", "workload", "peer", "quoted"),
    [
        ("k8s.namespace.name", "k8s.deployment.name", "net.peer", ("k8s.namespace.name", "k8s.deployment.name")),
        ("namespace", "service-name", "peer", ("namespace", "service-name")),
        ("1st", "workload", "peer", ("1st", "workload")),
        ("räume", "arbeit", "gegenüber", ("räume", "arbeit")),
        ("name space", "work/load", "a=b", ("name space", "work/load")),
        ('a"b', "a\\b", "a\nb", ('a\\"b', "a\\\\b")),
    ],
)
def test_names_that_need_quotation_marks_have_them(
    namespace: str, workload: str, peer: str, quoted: tuple[str, str]
) -> None:
    """OpenTelemetry's, which Prometheus 3 knows, and whatever else is UTF-8."""
    names = {"namespace": namespace, "workload": workload}
    signal = Signal(source="prometheus", window=Duration(4 * 10**9), labels=names, matchers={peer: "a"})  # type: ignore[arg-type]
    query = build_queries(signal, workloads(signal=signal))["observations"]
    for plain, name in zip((namespace, workload), quoted, strict=True):
        shown = plain if re.fullmatch("[a-zA-Z_]+", plain) and plain.isascii() else f'"{name}"'
        assert f"{shown}=~" in query, query
        assert f", {shown}" in query or f"({shown}" in query, query
    assert "\n" not in query


@pytest.mark.parametrize("metric", ["k8s.rtt", "rtt-seconds", "1rtt", "rtt seconds", "umläufe"])
def test_a_metric_that_must_be_quoted_is_refused(metric: str) -> None:
    """No server before Prometheus 3 knows it, and its texts are used bare."""
    with pytest.raises(ValueError, match="quotation marks"):
        build_queries(Signal(metric=metric), workloads(signal=Signal(metric=metric)))


def test_no_matcher_is_without_a_label() -> None:
    """An empty namespace leaves the matcher out; an empty workload is refused."""
    no_namespace = Signal(labels={"namespace": ""})
    assert "{workload=~" in build_queries(no_namespace, workloads(signal=no_namespace))["p95"]
    for wrong in (Signal(labels={"workload": ""}), Signal(matchers={"": "a"})):
        with pytest.raises(ValueError, match=r"empty|without a name"):
            workloads(signal=wrong)


@pytest.mark.parametrize(
    ("unit", "scale", "reason"),
    [
        ("s", 1.0, ""),
        ("ms", 1e3, "they look like milliseconds: set signal.unit: ms"),
        ("us", 1e6, "they look like microseconds: set signal.unit: us"),
        ("ns", 1e9, "they look like nanoseconds: set signal.unit: ns"),
    ],
)
def test_a_histogram_in_another_unit(unit: str, scale: float, reason: str) -> None:
    """With its unit it is read; without, the reason names the unit."""
    bounds = (0.0005, 0.001, 0.002, 0.005, 1.0)
    page = "".join(
        f'hubble_flow_latency_seconds_bucket{{namespace="factory",workload="robot",le="{le}"}} 1\n'
        for le in (*(bound * scale for bound in bounds), "+Inf")
    ).encode()
    (series,) = PageReader(workloads(signal=Signal(unit=unit))).read(page).counters  # type: ignore[arg-type]
    assert series.bounds == pytest.approx(bounds)
    robot = Critical(workload="robot", namespace="factory")
    rate = Rate(10**6)
    target = Target(deployment="upload", namespace="factory", min=rate, max=Rate(9 * 10**6), fail_safe=rate)
    domain = Domain(name="cell", critical=(robot,), targets=(target,))
    read = tuple(bound * scale for bound in bounds)
    stats = LatencyStats(jitter=0.001 * scale, p95=0.001 * scale, observations=500, bounds=read)
    measured = Measurements(start=0, latency={"factory/robot": stats}, throughput={})
    missing = build_sample(domain, Signal(), 10**9, measured).critical[0].missing
    assert reason in str(missing)
    assert (missing is None) is (not reason)
