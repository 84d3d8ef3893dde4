"""What `sluice check --cluster` says about the meter."""

from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from services.tools.check.cluster_rules import ClusterObjects, MeterObjects, check_meter
from services.tools.check.network_policies import admits
from tests.support.kube.manifests import MANIFESTS

ROUTES = {"enable-endpoint-routes": "true"}


def hosted() -> dict[str, Any]:
    """A DaemonSet on the host's network."""
    tree = daemon_set()
    tree["spec"]["template"]["spec"]["hostNetwork"] = True
    return tree


def policy(*ingress: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A NetworkPolicy for all pods of its namespace, with these rules."""
    return {"spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": list(ingress), **spec}}


def daemon_set(ready: int = 3, **variables: str) -> dict[str, Any]:
    """A DaemonSet on three nodes, whose container has these variables."""
    container = {"name": "meter", "env": [{"name": name, "value": value} for name, value in variables.items()]}
    status = {"numberReady": ready, "desiredNumberScheduled": 3}
    return {"spec": {"template": {"spec": {"containers": [container]}}}, "status": status}


HEADLESS = {"spec": {"clusterIP": "None"}}
METER = MeterObjects(
    service="sluice-meter/sluice-meter", daemon_set=daemon_set(), found=HEADLESS, security="privileged"
)
KUBELET = replace(METER, daemon_set=daemon_set(SLUICE_METER_KUBELET="unverified"))


@pytest.mark.parametrize(
    ("meter", "cilium", "found"),
    [
        (None, {}, ""),
        (METER, ROUTES, ""),
        (METER, {}, "endpointRoutes.enabled=true, or components/meter-endpoints"),
        (replace(METER, endpoints=True), {}, ""),
        (replace(METER, daemon_set=None), ROUTES, "manifests/meter.yaml"),
        (replace(METER, daemon_set=daemon_set(ready=1)), ROUTES, "2 of 3 are not ready"),
        (METER, ROUTES | {"datapath-mode": "netkit"}, "components/meter-kubelet"),
        (replace(METER, trusts_netkit=True), ROUTES | {"datapath-mode": "netkit"}, ""),
        (KUBELET, {"datapath-mode": "netkit"}, "10 to 15 s apart"),
        (replace(METER, found=None), ROUTES, "by it the sampler finds the meters"),
        (replace(METER, found={"spec": {"clusterIP": "10.96.0.9"}}), ROUTES, "is not headless"),
        (replace(METER, daemon_set=hosted(), security="baseline"), ROUTES, "enforces pod security baseline"),
        (replace(METER, daemon_set=hosted()), ROUTES, ""),
        (replace(METER, daemon_set=hosted(), policies=[policy()]), ROUTES, ""),
        (replace(METER, policies=[policy()]), ROUTES, "keeps the sampler from port 9968"),
    ],
)
def test_each_fault_is_found_alone(meter: MeterObjects | None, cilium: dict[str, str], found: str) -> None:
    """One finding, with its remedy, or none."""
    seen = ClusterObjects(cilium=cilium, nodes=(), deployments={}, pods=(), policies=(), meter=meter)
    texts = [one.what for one in check_meter(seen)]
    assert len(texts) == bool(found)
    assert found in "".join(texts)


def test_nodes_that_it_is_not_for_are_found() -> None:
    """Nothing else tells of them: a meter that is not there is not missed.  A status that nobody wrote says nothing."""
    node = {"metadata": {"name": "n"}}
    seen = ClusterObjects(cilium=ROUTES, nodes=[node] * 4, deployments={}, pods=(), policies=(), meter=METER)
    assert not list(check_meter(seen))
    tree = daemon_set()
    tree["status"]["observedGeneration"] = 1
    (one,) = check_meter(replace(seen, meter=replace(METER, daemon_set=tree)))
    assert "3 of 4 nodes" in one.what


SAMPLER = ({"app.kubernetes.io/name": "sluice-sampler"}, {"kubernetes.io/metadata.name": "sluice"})
OURS = {"namespaceSelector": {"matchLabels": SAMPLER[1]}, "podSelector": {"matchLabels": SAMPLER[0]}}
HTTP = {"protocol": "TCP", "port": 9968}


@pytest.mark.parametrize(
    ("policies", "admitted"),
    [
        ([], True),
        ([policy()], False),
        ([policy(policyTypes=["Egress"])], True),
        ([policy(podSelector={"matchLabels": {"app": "other"}})], True),
        ([policy({})], True),
        ([policy({"from": [OURS], "ports": [HTTP]})], True),
        ([policy({"from": [OURS], "ports": [{"port": 9965}]})], False),
        ([policy({"from": [OURS], "ports": [{"port": 9960, "endPort": 9970}]})], True),
        ([policy({"from": [OURS], "ports": [{"protocol": "UDP", "port": 9968}]})], False),
        ([policy({"from": [{"podSelector": OURS["podSelector"]}]})], False),
        ([policy({"from": [{"namespaceSelector": {}}]})], True),
        ([policy({"from": [OURS | {"podSelector": {"matchLabels": {"app": "other"}}}]})], False),
        ([policy({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]})], True),
        ([policy(), policy({"from": [OURS]})], True),
    ],
)
def test_a_policy_lets_the_sampler_in_or_does_not(policies: list[dict[str, Any]], admitted: bool) -> None:
    """As Kubernetes adds policies up: what one of them allows is allowed."""
    assert admits(policies, {"app.kubernetes.io/name": "sluice-meter"}, SAMPLER, 9968) is admitted


def test_the_shipped_policy_lets_sampler_and_prometheus_in_and_nobody_else() -> None:
    """It applies to a meter without the host's network."""
    trees = list(yaml.safe_load_all((MANIFESTS / "meter.yaml").read_text(encoding="utf-8")))
    policies = [one for one in trees if one["kind"] == "NetworkPolicy"]
    (tree,) = [one for one in trees if one["kind"] == "DaemonSet"]
    pod = tree["spec"]["template"]["metadata"]["labels"]

    def may(name: str, home: str, port: int = 9968) -> bool:
        return admits(policies, pod, ({"app.kubernetes.io/name": name}, {"kubernetes.io/metadata.name": home}), port)

    assert len(policies) == 1
    assert may("sluice-sampler", "sluice")
    assert may("prometheus", "monitoring")
    assert not may("sluice-sampler", "factory")
    assert not may("sluice-actuator", "sluice")
    assert not may("sluice-sampler", "sluice", 10250)
