"""The manifests: accepted by a real API server unchanged, consistent with each other, and safe."""

import json
import re
from typing import Any
from urllib.parse import urlsplit

import pytest

from services.bus.subjects import KINDS, Subjects
from services.runtime.config_loader import load
from services.tools.check.cluster_rules import ClusterObjects, check_cluster_objects
from tests.support.kube.manifests import MANIFESTS, builtin, kubectl, objects
from tests.support.readme import Installed

pytestmark = pytest.mark.kubectl


@pytest.mark.apiserver
def test_everything_is_accepted(installed: Installed) -> None:
    """Applied a second time, the manifests change nothing, so the server stored them as they are.

    kubectl prints "configured" for a StatefulSet with volume claims each time, so the test compares its generation.
    """
    again = kubectl(installed.server, "apply", "-f", "-", stdin=builtin()).splitlines()
    assert len(again) >= 29
    assert {line for line in again if not line.endswith("unchanged")} <= {"statefulset.apps/nats configured"}
    nats = installed.server.request("GET", "/apis/apps/v1/namespaces/sluice/statefulsets/nats")
    assert nats["metadata"]["generation"] == 1


def test_what_is_configured_is_in_the_application() -> None:
    """Each target and critical workload is a Deployment; each target's template carries its fail-safe limit."""
    deployments = {
        (one["metadata"]["namespace"], one["metadata"]["name"]): one["spec"]["template"]
        for one in objects()
        if one["kind"] == "Deployment"
    }
    for domain in load(MANIFESTS / "config.yaml", {}).domains:
        for target in domain.targets:
            annotations = deployments[target.namespace, target.deployment]["metadata"]["annotations"]
            assert annotations["kubernetes.io/egress-bandwidth"] == str(target.fail_safe)
            assert annotations["bandwidth.cilium.io/priority"] == "bestEffort"
        for critical in domain.critical:
            template = deployments[critical.namespace, critical.workload]
            assert template["metadata"]["annotations"]["bandwidth.cilium.io/priority"] == "guaranteed"
            assert "kubernetes.io/egress-bandwidth" not in template["metadata"]["annotations"]
            assert "echo" in [container["name"] for container in template["spec"]["containers"]]


def test_no_image_is_unpinned_and_no_pod_is_privileged() -> None:
    """Every container names a version, runs as an unprivileged user, and writes only into volumes."""
    seen = 0
    for one in objects():
        if one["kind"] not in {"Deployment", "StatefulSet", "DaemonSet"}:
            continue
        spec = one["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert not [volume for volume in spec.get("volumes", ()) if "hostPath" in volume]
        assert spec.get("hostNetwork", False) is (one["metadata"]["name"] == "sluice-meter")
        for container in spec["containers"]:
            assert re.search(r":v?\d+\.\d+\.\d+", container["image"]), container["image"]
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            seen += 1
    assert seen >= 12


def test_policies_stay_below_layer_seven() -> None:
    """An L7 rule at egress would disable the bandwidth limit of the pods that it selects."""
    policies = [one for one in objects() if one["kind"] == "CiliumNetworkPolicy"]
    assert len(policies) == 3
    text = json.dumps(policies)
    assert not [word for word in ('"rules"', '"toFQDNs"', '"bandwidth"', '"http"', '"l7"') if word in text]


def test_the_bus_permissions_name_the_streams_that_there_are() -> None:
    """The permissions of the bus users name the subjects and streams of the code."""
    text = (MANIFESTS / "nats.conf").read_text()
    subjects = Subjects()
    streams = {subjects.stream(kind) for kind in KINDS}
    assert set(re.findall(r"SLUICE_[A-Z]+", text)) == streams
    assert set(re.findall(r"sluice\.[a-z]+\.v1\.(?:>|[a-z]+)", text)) == {
        *(subjects.every(kind) for kind in KINDS),
        *(subjects.dead(service) for service in ("decision", "actuator")),
    }


def templates() -> dict[str, dict[str, Any]]:
    """Pod templates of Deployments, StatefulSets and DaemonSets, by ``namespace/name``."""
    kinds = {"Deployment", "StatefulSet", "DaemonSet"}
    found = [one for one in objects() if one["kind"] in kinds]
    return {f"{one['metadata']['namespace']}/{one['metadata']['name']}": one["spec"]["template"] for one in found}


def services() -> dict[str, set[int]]:
    """Ports of Services, by ``name.namespace``."""
    found = [one for one in objects() if one["kind"] == "Service"]
    return {
        f"{one['metadata']['name']}.{one['metadata']['namespace']}": {port["port"] for port in one["spec"]["ports"]}
        for one in found
    }


def test_every_service_leads_to_an_open_port() -> None:
    """Each port of a Service leads to exactly one workload, with the same number and protocol."""
    count = 0
    for service in (one for one in objects() if one["kind"] == "Service"):
        chosen = [
            template
            for name, template in templates().items()
            if name.startswith(service["metadata"]["namespace"] + "/")
            and service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        ]
        assert len(chosen) == 1, service["metadata"]["name"]
        opened = {
            (port["containerPort"], port.get("protocol", "TCP"))
            for container in chosen[0]["spec"]["containers"]
            for port in container.get("ports", [])
        }
        for port in service["spec"]["ports"]:
            assert (port["port"], port.get("protocol", "TCP")) in opened, service["metadata"]["name"]
            count += 1
    assert count >= 10


def test_every_named_address_belongs_to_a_service() -> None:
    """Each ``iperf3 -c NAME -p PORT``, the bus, the scraped page and each probe's address belongs to a Service."""
    known = services()
    text = json.dumps(list(templates().values()))
    dialled = re.findall(r"iperf3 -c ([a-z-]+) -p (\d+)", text)
    assert len(dialled) == 3
    for name, port in dialled:
        assert int(port) in known[f"{name}.factory"]
    config = load(MANIFESTS / "config.yaml", {})
    for url in (*config.bus.servers, *config.signal.scrape.urls, *config.signal.scrape.meters):
        host, _, port = urlsplit(url).netloc.partition(":")
        assert int(port) in known[host.removesuffix(".svc")]
    for probe in config.exporter.probes:
        assert {probe.udp, probe.tcp} - {None} <= known[probe.address.removesuffix(".svc")]


def test_no_iperf3_keeps_the_figures_of_its_intervals() -> None:
    """Interval statistics would fill the container's memory within a day."""
    commands = [
        command
        for template in templates().values()
        for container in template["spec"]["containers"]
        for command in re.findall(r"iperf3 -[^&|;\n]+", " ".join(container.get("command", ())))
    ]
    assert sorted(re.findall(r" (-[cs]) ", " ".join(commands))) == ["-c"] * 3 + ["-s"] * 3
    assert [command for command in commands if "-i 0" not in command] == []


def test_probed_services_show_their_pods() -> None:
    """A cluster IP would bind a UDP probe to the first pod."""
    config = load(MANIFESTS / "config.yaml", {})
    probed = {probe.address.removesuffix(".svc") for probe in config.exporter.probes}
    found = {
        f"{one['metadata']['name']}.{one['metadata']['namespace']}": one["spec"].get("clusterIP")
        for one in objects()
        if one["kind"] == "Service"
    }
    assert {found[name] for name in probed} == {"None"}


def test_no_sender_shares_a_node_with_its_peer() -> None:
    """Traffic inside a node is not limited, so anti-affinity keeps each side of the factory off the other's nodes."""
    side = "factory.example/side"
    other = {"floor": "office", "office": "floor"}
    seen = []
    for name, template in templates().items():
        if name.startswith("factory/"):
            mine = template["metadata"]["labels"][side]
            (rule,) = template["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            assert rule["topologyKey"] == "kubernetes.io/hostname"
            assert rule["labelSelector"] == {"matchLabels": {side: other[mine]}}
            seen.append(mine)
    assert (seen.count("floor"), seen.count("office")) == (4, 3)


def test_the_check_finds_nothing_wrong_with_the_factory_at_work() -> None:
    """`check` finds no problem with the factory's policies and its pods on two nodes."""
    mine = {"uid": "1", "resourceVersion": "1"}
    there = [one for one in objects() if one["metadata"].get("namespace") == "factory"]
    deployments = [{**one, "metadata": one["metadata"] | mine} for one in there if one["kind"] == "Deployment"]
    pods = [
        {
            "metadata": {"name": one["metadata"]["name"], "namespace": "factory", "labels": labels},
            "spec": {"nodeName": labels["factory.example/side"]},
        }
        for one in deployments
        for labels in [one["spec"]["template"]["metadata"]["labels"]]
    ]
    seen = ClusterObjects(
        cilium={"enable-bandwidth-manager": "true", "enable-hubble": "true"},
        nodes=(),
        deployments={f"factory/{one['metadata']['name']}": one for one in deployments},
        pods=pods,
        policies=[one for one in there if one["kind"] == "CiliumNetworkPolicy"],
    )
    assert len(pods) == 7
    assert check_cluster_objects(load(MANIFESTS / "config.yaml", {}).domains, seen) == []
