"""Which metrics are read, and which workload a series belongs to."""

import pytest

from schemas.config import Signal
from services.sampler.workloads import PRESETS, Workloads, metric_names

CRITICAL = ("factory/robot-control", "factory/safety-scanner")
TARGETS = ("factory/telemetry-upload", "factory/telemetry", "factory/db", "factory/agent")


def workloads(signal: Signal | None = None) -> Workloads:
    """The workloads above, with the names of this signal's series."""
    return Workloads(metric_names(signal or Signal()), CRITICAL, TARGETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_can_be_overridden(preset: str) -> None:
    """The configuration overrides the preset, and matchers are added to the preset's."""
    signal = Signal(preset=preset, metric="m", labels={"workload": "w"}, matchers={"a": "b"}, lost="")  # type: ignore[arg-type]
    names = metric_names(signal)
    assert (names.metric, names.workload, names.lost) == ("m", "w", "")
    assert names.namespace == PRESETS[preset].names.namespace
    assert names.matchers == {**PRESETS[preset].names.matchers, "a": "b"}


def test_a_series_is_known_by_namespace_and_workload() -> None:
    """A workload of the same name in another namespace is ignored."""
    known = workloads()
    assert known.find_critical({"namespace": "factory", "workload": "robot-control"}) == "factory/robot-control"
    assert known.find_critical({"namespace": "other", "workload": "robot-control"}) is None
    assert known.find_critical({"workload": "robot-control"}) is None
    assert known.find_critical({"namespace": "factory", "workload": "telemetry-upload"}) is None


def test_an_exporter_without_namespaces_names_workloads_alone() -> None:
    """cilium-health knows nodes only."""
    known = workloads(Signal(preset="cilium-health"))
    assert known.find_critical({"source_node_name": "robot-control"}) == "factory/robot-control"
    assert known.has_matchers({"source_node_name": "robot-control", "type": "node", "protocol": "icmp"})
    assert not known.has_matchers({"source_node_name": "robot-control", "type": "endpoint", "protocol": "icmp"})


def test_two_workloads_of_one_name_need_namespaces() -> None:
    """Without a namespace label they cannot be distinguished."""
    with pytest.raises(ValueError, match="critical workloads need different names"):
        Workloads(metric_names(Signal(preset="cilium-health")), ("a/x", "b/x"), ())


@pytest.mark.parametrize(
    ("labels", "owner"),
    [
        ({"pod": "telemetry-upload-7d9f8c6b5-x2x4z"}, "factory/telemetry-upload"),
        ({"pod": "telemetry-7d9f8c6b5-x2x4z"}, "factory/telemetry"),
        ({"pod": "db-0"}, "factory/db"),
        ({"pod": "agent-x2x4z"}, "factory/agent"),
        ({"pod": "robot-control"}, "factory/robot-control"),
        ({"workload": "telemetry"}, "factory/telemetry"),
        ({"workload": "nobody", "pod": "db-0"}, None),
        ({"pod": "telemetry-upload-extra-7d9f8c6b5-x2x4z"}, None),
        ({"pod": "nobody-7d9f8c6b5-x2x4z"}, None),
        ({}, None),
    ],
)
def test_a_pod_is_known_by_its_owner(labels: dict[str, str], owner: str | None) -> None:
    """Pods of Deployments, StatefulSets and DaemonSets are named after them; a label names the owner directly."""
    assert workloads().find_sender({"namespace": "factory", **labels}) == owner
    assert workloads().find_sender({"namespace": "other", **labels}) is None
