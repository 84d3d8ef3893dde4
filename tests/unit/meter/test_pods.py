"""Whose pod it is: by owner, never by the pod's name."""

import pytest

from tests.support.node_network import node_pod

HASHED = {"pod-template-hash": "5d4"}


@pytest.mark.parametrize(
    ("owner", "labels", "kind", "name"),
    [
        (("ReplicaSet", "upload-5d4"), HASHED, "Deployment", "upload"),
        (("ReplicaSet", "a" * 240 + "-5d4"), HASHED, "Deployment", "a" * 240),
        (("ReplicaSet", "upload-5d4"), {"rollouts-pod-template-hash": "5d4"}, "Rollout", "upload"),
        (("ReplicaSet", "upload-5d4"), {}, "ReplicaSet", "upload-5d4"),
        (("ReplicaSet", "upload"), HASHED, "ReplicaSet", "upload"),
        (("StatefulSet", "store-0"), HASHED, "StatefulSet", "store-0"),
        (("DaemonSet", "agent"), {}, "DaemonSet", "agent"),
        (("Job", "backup-29384750"), {}, "CronJob", "backup"),
        (("Job", "backup-1"), {}, "Job", "backup-1"),
        (("Job", "backup-19384750"), {}, "Job", "backup-19384750"),
        (("CloneSet", "game"), {}, "CloneSet", "game"),
        (("Node", "worker-1"), {}, "Pod", "x2x4z"),
        (None, {}, "Pod", "x2x4z"),
    ],
)
def test_the_workload_is_found_by_owner(
    owner: tuple[str, str] | None, labels: dict[str, str], kind: str, name: str
) -> None:
    """The pod's name tells nothing in any of them."""
    workload = node_pod("x2x4z", "10.0.0.1", owner=owner, labels=labels).workload
    assert (workload.kind, workload.name) == (kind, name)


def test_an_owner_that_does_not_control_the_pod_is_none() -> None:
    """Any object may be named as an owner, so that the pod goes with it."""
    pod = node_pod("alone", "10.0.0.1", owner=None)
    assert pod.workload.kind == "Pod"


def test_addresses_of_both_families() -> None:
    """An older API server writes one address only."""
    assert node_pod("a", "10.0.0.1", "fd00::1").addresses == ("10.0.0.1", "fd00::1")
    assert node_pod("a").addresses == ()


@pytest.mark.parametrize(
    ("phase", "host", "sends"), [("Running", False, True), ("Failed", False, False), ("Running", True, False)]
)
def test_which_pods_have_a_network_of_their_own(phase: str, host: bool, sends: bool) -> None:
    """A pod that ended keeps its address in the API, which may be another's by now."""
    assert node_pod("a", "10.0.0.1", phase=phase, host_network=host).has_own_network is sends
