"""`sluice check --cluster` against the emulator: critical workloads of every kind, and Cilium in any namespace."""

from typing import Any

import pytest

from schemas.config import Config, Kubernetes
from schemas.domain import Critical, Domain, Target
from schemas.units import Rate
from services.plant.kube_emulator.emulator import Emulator
from services.tools.check.cluster_reader import check_cluster
from tests.support.kube import servers

GUARANTEED = {"bandwidth.cilium.io/priority": "guaranteed"}


async def found_in(emulator: Emulator, namespace: str, critical: Critical) -> list[str]:
    """The findings about one critical workload, or about Cilium, on a cluster with these objects."""
    async with emulator as url:
        target = Target(deployment="upload", namespace=namespace, min=Rate(1000), max=Rate(9000), fail_safe=Rate(2000))
        config = Config((Domain("cell", (critical,), (target,)),), kubernetes=Kubernetes(server=url))
        result = await check_cluster(config)
    return [f"{one.level} {one.where}: {one.what}" for one in result.findings]


def make(kind: str, template: dict[str, str]) -> dict[str, Any]:
    """A workload of a kind."""
    tree = servers.deployment("robot", 1, template=template)
    batch = kind in ("Job", "CronJob")
    version = "batch/v1" if batch else "apps/v1"
    spec = tree["spec"]
    if kind == "CronJob":
        spec = {"schedule": "0 0 * * *", "jobTemplate": {"spec": spec}}
    return tree | {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": "robot", "namespace": "default"},
        "spec": spec,
    }


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"])
async def test_a_critical_workload_of_any_kind_is_known_as_what_it_is(kind: str, named: bool) -> None:
    """With its kind in the file and without: found, and a finding about its template names the kind."""
    critical = Critical("robot", "default", kind=kind if named else None)
    emulator = Emulator(starts_after=None)
    emulator.apply([make(kind, GUARANTEED)])
    found = await found_in(emulator, "default", critical)
    assert [one for one in found if "robot" in one] == []
    emulator = Emulator(starts_after=None)
    emulator.apply([make(kind, {})])
    (about,) = [one for one in await found_in(emulator, "default", critical) if "robot" in one]
    assert about.startswith(
        f"warning {kind.lower()} default/robot: its template's bandwidth.cilium.io/priority is not set"
    )


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", None])
async def test_a_critical_workload_that_is_not_there_is_reported(kind: str | None) -> None:
    """By the kind that the file names."""
    found = await found_in(Emulator(starts_after=None), "default", Critical("robot", "default", kind=kind))
    (about,) = [one for one in found if "robot" in one]
    assert about.startswith("warning ")
    assert "not found: the configuration names it as a critical workload" in about


@pytest.mark.parametrize(
    ("homes", "named"),
    [
        (["kube-system"], "kube-system"),
        (["cilium"], "cilium"),
        (["cilium-system"], "cilium-system"),
        (["net.prod-1"], "net.prod-1"),
        (["cilium", "kube-system"], "kube-system"),
        (["default"], "default"),
        ([], ""),
    ],
)
async def test_cilium_is_found_in_any_namespace(homes: list[str], named: str) -> None:
    """Its settings are read, and a fault in them is named with that namespace."""
    emulator = Emulator(starts_after=None)
    for home in homes:
        off = {"enable-bandwidth-manager": "false", "enable-hubble": "true"}
        if home not in ("kube-system", "default"):
            emulator.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": home}}])
        settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cilium-config", "namespace": home}}
        emulator.apply([settings | {"data": off}])
    found = [one for one in await found_in(emulator, "default", Critical("robot", "default")) if "cilium-config" in one]
    if homes:
        assert [one.partition(":")[0] for one in found] == [f"error {named}/cilium-config"]
    else:
        assert "without Cilium nothing enforces" in found[0]
