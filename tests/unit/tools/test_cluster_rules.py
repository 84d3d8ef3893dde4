"""The findings of `sluice check --cluster`, one fault at a time on an otherwise sound cluster."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from schemas.domain import Critical, Domain, Target
from schemas.units import Rate
from services.actuator.ownership import pause_reason
from services.actuator.reporter import ENFORCED, NOT_ENFORCED
from services.kube.objects import BANDWIDTH, Deployment
from services.tools.check.cluster_reader import find_not_enforced
from services.tools.check.cluster_rules import PRIORITY, ClusterObjects, Finding, check_cluster_objects
from tests.support.kube.objects import after, order, plan_of

TARGET = Target(deployment="upload", min=Rate(1000), max=Rate(9000), fail_safe=Rate(2000), namespace="floor")
DOMAIN = Domain(name="floor", critical=(Critical(workload="robot", namespace="floor"),), targets=(TARGET,))


SEVEN = {"rules": {"http": [{"method": "GET"}]}}
"""A rule that sends a port's traffic through the proxy."""


def deployment(name: str, priority: str, **annotations: str) -> dict[str, Any]:
    """A Deployment whose template has a priority and the fail-safe limit."""
    template = {PRIORITY: priority} | ({BANDWIDTH: "2M"} if priority == "bestEffort" else {})
    metadata = {"name": name, "namespace": "floor", "uid": name, "resourceVersion": "1", "managedFields": []}
    labels = {"app": name}
    return {
        "metadata": {**metadata, "annotations": annotations},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"annotations": template, "labels": labels}, "spec": {"containers": []}},
        },
    }


def node(name: str) -> dict[str, Any]:
    """A Node with a recent enough kernel."""
    return {"metadata": {"name": name}, "status": {"nodeInfo": {"kernelVersion": "6.8.0-40-generic"}}}


def pod(app: str, node: str, namespace: str = "floor") -> dict[str, Any]:
    """A Pod of an app on a node."""
    return {
        "metadata": {"name": f"{app}-1", "namespace": namespace, "labels": {"app": app}},
        "spec": {"nodeName": node},
    }


def policy(app: str, port: dict[str, Any], peer: str = "store", namespace: str | None = "floor") -> dict[str, Any]:
    """A CiliumNetworkPolicy with one egress port toward one peer; without a namespace a clusterwide one."""
    egress = {"toEndpoints": [{"matchLabels": {"any:app": peer}}], "toPorts": [port]}
    return {
        "metadata": {"name": "allow"} | ({"namespace": namespace} if namespace else {}),
        "spec": {"endpointSelector": {"matchLabels": {"k8s:app": app}}, "egress": [egress]},
    }


def cluster() -> dict[str, Any]:
    """A cluster on which everything would work."""
    return {
        "cilium": {"enable-bandwidth-manager": "true", "enable-hubble": "true"},
        "nodes": [node("w1"), node("w2")],
        "deployments": {
            "floor/upload": deployment("upload", "bestEffort"),
            "floor/robot": deployment("robot", "guaranteed"),
        },
        "pods": [pod("upload", "w1"), pod("robot", "w2"), pod("store", "w2"), pod("upload", "w2", "elsewhere")],
        "policies": [policy("upload", {"ports": [{"port": "5203"}]}), policy("robot", {"rules": {"http": [{}]}})],
    }


def test_nothing_is_found_where_all_is_well() -> None:
    """Layer 4 rules, layer 7 rules of others (of the same name in another namespace, too), a second node."""
    tree = cluster()
    tree["policies"] += [policy("upload", SEVEN, namespace="elsewhere"), policy("other", SEVEN, namespace=None)]
    assert check_cluster_objects([DOMAIN], ClusterObjects(**tree)) == []
    assert check_cluster_objects([DOMAIN], ClusterObjects(**cluster())) == []


def manager_off(tree: dict[str, Any]) -> None:
    """The chart's default."""
    tree["cilium"]["enable-bandwidth-manager"] = "false"


def no_cilium(tree: dict[str, Any]) -> None:
    """Another network plugin."""
    tree["cilium"] = None


def ipsec(tree: dict[str, Any]) -> None:
    """Encryption that does not work with the manager."""
    tree["cilium"]["enable-ipsec"] = "true"


def wireguard(tree: dict[str, Any]) -> None:
    """Encryption under which some versions limit nothing."""
    tree["cilium"]["enable-wireguard"] = "true"


def no_kube_proxy_replacement(tree: dict[str, Any]) -> None:
    """The release that then limits nothing."""
    tree["cilium"]["kube-proxy-replacement"] = "false"
    tree["agent"] = "quay.io/cilium/cilium:v1.17.3"


def one_device(tree: dict[str, Any]) -> None:
    """Devices by name."""
    tree["cilium"]["devices"] = "eth0"


def no_hubble(tree: dict[str, Any]) -> None:
    """No flows."""
    del tree["cilium"]["enable-hubble"]


def old_kernel(tree: dict[str, Any]) -> None:
    """A kernel from before FQ had bands."""
    tree["nodes"][0]["status"]["nodeInfo"]["kernelVersion"] = "6.1.0-28-amd64"


def no_target(tree: dict[str, Any]) -> None:
    """A misspelt name in the configuration."""
    del tree["deployments"]["floor/upload"]


def no_priority(tree: dict[str, Any]) -> None:
    """A critical workload without priority."""
    tree["deployments"]["floor/robot"]["spec"]["template"]["metadata"]["annotations"] = {}


def no_fail_safe(tree: dict[str, Any]) -> None:
    """A template without the fail-safe limit."""
    del tree["deployments"]["floor/upload"]["spec"]["template"]["metadata"]["annotations"][BANDWIDTH]


def host_network(tree: dict[str, Any]) -> None:
    """A pod without its own network namespace."""
    tree["pods"][0]["spec"]["hostNetwork"] = True


def host_network_to_be(tree: dict[str, Any]) -> None:
    """The same before there is a pod."""
    del tree["pods"][0]
    tree["deployments"]["floor/upload"]["spec"]["template"]["spec"]["hostNetwork"] = True


def unknown_peers(tree: dict[str, Any]) -> None:
    """No policy names the target's peers: its store may be on the same node, as it is here."""
    tree["policies"] = []
    tree["pods"][2]["spec"]["nodeName"] = "w1"


def beside_its_peer(tree: dict[str, Any]) -> None:
    """The target runs on the node of its store; others run elsewhere."""
    tree["pods"][2]["spec"]["nodeName"] = "w1"


def only_node(tree: dict[str, Any]) -> None:
    """A cluster on a laptop, without pods yet."""
    del tree["nodes"][1]
    tree["pods"] = []


def layer_seven(tree: dict[str, Any]) -> None:
    """A policy that sends the target through the proxy."""
    tree["policies"][0] = policy("upload", SEVEN)


def layer_seven_to_be(tree: dict[str, Any]) -> None:
    """The same before there is a pod."""
    layer_seven(tree)
    del tree["pods"][0]


def layer_seven_clusterwide(tree: dict[str, Any]) -> None:
    """The same for every namespace."""
    tree["policies"].append(policy("upload", SEVEN, namespace=None))


def layer_seven_by_namespace(tree: dict[str, Any]) -> None:
    """The same for all pods of the target's namespace."""
    one = policy("upload", SEVEN, namespace=None)
    one["spec"]["endpointSelector"] = {"matchLabels": {"k8s:io.kubernetes.pod.namespace": "floor"}}
    tree["policies"].append(one)


def old_cilium(tree: dict[str, Any]) -> None:
    """A release from before priorities."""
    tree["agent"] = "quay.io/cilium/cilium:v1.16.4@sha256:00"


def no_relay(tree: dict[str, Any]) -> None:
    """Hubble without Relay."""
    tree["absent"] = {"exporter.relay.address": ("kube-system/hubble-relay", "the exporter sees probes only")}


def no_prometheus(tree: dict[str, Any]) -> None:
    """A source that does not exist."""
    tree["absent"] = {"signal.prometheus.url": ("monitoring/prometheus", "nothing is measured")}


def foreign_owner(tree: dict[str, Any]) -> None:
    """A limit that another client set."""
    metadata = tree["deployments"]["floor/upload"]["metadata"]
    metadata["annotations"][BANDWIDTH] = "7M"
    fields: dict[str, Any] = {"f:metadata": {"f:annotations": {f"f:{BANDWIDTH}": {}}}}
    metadata["managedFields"] = [{"manager": "kubectl-edit", "fieldsV1": fields}]


def no_volumes(tree: dict[str, Any]) -> None:
    """A cluster as kubeadm creates it."""
    tree["volumes"] = False


@pytest.mark.parametrize(
    ("broken", "level", "words"),
    [
        (manager_off, "error", "bandwidthManager.enabled=true"),
        (no_cilium, "error", "without Cilium"),
        (ipsec, "error", "IPsec"),
        (wireguard, "warning", "cilium#22203"),
        (no_kube_proxy_replacement, "warning", "cilium#39167"),
        (one_device, "warning", "by eth0 is limited"),
        (no_hubble, "warning", "hubble.enabled=true"),
        (old_kernel, "warning", "kernel 6.1.0-28-amd64 is below 6.7"),
        (no_target, "error", "the configuration names it as a target"),
        (no_priority, "warning", "guaranteed protects"),
        (no_fail_safe, "warning", "set 2M there once"),
        (host_network, "error", "host's network"),
        (host_network_to_be, "error", "host's network"),
        (unknown_peers, "warning", "peers unknown: no policy names them; should one of them run on w1 too"),
        (beside_its_peer, "warning", "runs on one node with whom it sends to (floor/store-1)"),
        (only_node, "warning", "is the only node"),
        (layer_seven, "error", "L7 rule at egress of floor/upload"),
        (layer_seven_to_be, "error", "L7 rule at egress of floor/upload"),
        (layer_seven_clusterwide, "error", "L7 rule at egress of floor/upload"),
        (layer_seven_by_namespace, "error", "L7 rule at egress of floor/upload"),
        (old_cilium, "warning", "v1.16.4@sha256:00 is older than 1.17"),
        (no_relay, "warning", "there is no Service kube-system/hubble-relay"),
        (no_volumes, "error", "components/volatile-bus"),
        (no_prometheus, "error", "there is no Service monitoring/prometheus: nothing is measured"),
        (foreign_owner, "warning", "is 7M already, set by kubectl-edit: Sluice takes it over and remembers it"),
    ],
)
def test_each_fault_is_found_alone(broken: Callable[[dict[str, Any]], None], level: str, words: str) -> None:
    """One finding, of the right level, that names the object and the remedy."""
    tree = cluster()
    broken(tree)
    found = check_cluster_objects([DOMAIN], ClusterObjects(**tree))
    assert [(one.level, words in one.what) for one in found] == [(level, True)], found
    assert msgspec.json.encode(found[0])


def of_upload(tree: dict[str, Any]) -> list[Finding]:
    """The findings, all of which are about the target."""
    found = check_cluster_objects([DOMAIN], ClusterObjects(**tree))
    assert {one.where for one in found} <= {"deployment floor/upload"}
    return found


def test_advice_on_a_value_matches_the_actuator() -> None:
    """A value from before Sluice is kept for ``restore``.  Set again it pauses; removed it resumes.

    The actuator's own plan and judgement, on the very object that the check reads.
    """
    tree = cluster()
    foreign_owner(tree)
    raw = tree["deployments"]["floor/upload"]

    def seen() -> Deployment:
        return msgspec.convert(raw, type=Deployment)

    (before,) = of_upload(tree)
    assert (before.level, "a client that sets it again pauses" in before.what) == ("warning", True)
    assert pause_reason(seen(), managed=False) is None
    (write,) = plan_of(order(5000), seen()).writes
    assert (write.record.found, write.record.value) == ("7M", "5M")

    raw["metadata"]["annotations"] = after(seen(), write.operations).annotations
    assert of_upload(tree) == []

    raw["metadata"]["annotations"][BANDWIDTH] = "7M"
    why = pause_reason(seen(), managed=False)
    (paused,) = of_upload(tree)
    assert why is not None
    assert (paused.level, why in paused.what) == ("error", True)
    assert "set by kubectl-edit" in paused.what
    assert paused.what.endswith(f"kubectl -n floor annotate deployment upload {BANDWIDTH}-")

    del raw["metadata"]["annotations"][BANDWIDTH]
    assert of_upload(tree) == []
    assert pause_reason(seen(), managed=False) is None


@pytest.mark.parametrize("again", [False, True])
def test_a_tool_that_would_set_the_value_again_is_named(*, again: bool) -> None:
    """Before the first write and after it: the manager of the Deployment, and where to move the value."""
    tree = cluster()
    foreign_owner(tree)
    raw = tree["deployments"]["floor/upload"]
    raw["metadata"]["labels"] = {"kustomize.toolkit.fluxcd.io/name": "floor"}
    if again:
        main = msgspec.convert(raw, type=Deployment)
        (write,) = plan_of(order(5000), main).writes
        raw["metadata"]["annotations"] = {**after(main, write.operations).annotations, BANDWIDTH: "7M"}
    (found,) = of_upload(tree)
    assert found.level == ("error" if again else "warning")
    assert found.what.endswith(f"Flux manages it: take {BANDWIDTH} out of its source, or it is set again")


@pytest.mark.parametrize(("others", "reported"), [("store", False), ("upload", True)])
def test_unknown_peers_with_anti_affinity(*, others: str, reported: bool) -> None:
    """The advice was already followed; replicas with anti-affinity among themselves only say nothing about peers."""
    tree = cluster()
    unknown_peers(tree)
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": others}}}
    anti = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    tree["deployments"]["floor/upload"]["spec"]["template"]["spec"]["affinity"] = anti
    assert ["peers unknown" in one.what for one in of_upload(tree)] == [True] * reported


@pytest.mark.parametrize(
    "port",
    [
        {"listener": {"envoyConfig": {"name": "own"}, "name": "out"}},
        {"terminatingTLS": {"secret": {"name": "certificate"}}},
        {"originatingTLS": {"secret": {"name": "authority"}}},
        {"serverNames": ["store.example"]},
    ],
    ids=lambda port: next(iter(port)),
)
def test_what_redirects_to_a_proxy_without_rules(port: dict[str, Any]) -> None:
    """Cilium sends such a port's traffic through Envoy as well."""
    tree = cluster()
    tree["policies"][0] = policy("upload", {"ports": [{"port": "443"}], **port})
    (found,) = check_cluster_objects([DOMAIN], ClusterObjects(**tree))
    assert (found.level, "L7 rule at egress of floor/upload" in found.what) == ("error", True)


def test_errors_come_first() -> None:
    """Readers look at the top of the list."""
    tree = cluster()
    for broken in (old_kernel, no_priority, host_network, manager_off):
        broken(tree)
    assert [one.level for one in check_cluster_objects([DOMAIN], ClusterObjects(**tree))] == [
        "error",
        "error",
        "warning",
        "warning",
    ]


LIFTING = (
    manager_off, no_cilium, ipsec, wireguard, no_kube_proxy_replacement, one_device, host_network, host_network_to_be,
    beside_its_peer, only_node, layer_seven, layer_seven_clusterwide,
)  # fmt: skip


@pytest.mark.parametrize("fault", LIFTING, ids=lambda fault: fault.__name__)
def test_each_known_cause_is_named_where_a_limit_does_not_hold(fault: Callable[[dict[str, Any]], None]) -> None:
    """What the actuator saw on the wire, with what was found in the cluster."""
    tree = cluster()
    fault(tree)
    before = check_cluster_objects([DOMAIN], ClusterObjects(**tree))
    after = check_cluster_objects([DOMAIN], ClusterObjects(**tree, not_enforced={"floor/upload": "Has sent too much"}))
    (found,) = [one for one in after if one not in before]
    assert found.level == "error"
    assert found.where == "deployment floor/upload"
    assert found.what.startswith("Has sent too much; likely because: ")
    assert any(one.what in found.what for one in before)


def test_what_concerns_the_target_alone_is_named_first() -> None:
    """An error on the target itself, then those of the whole cluster, then warnings."""
    tree = cluster()
    for fault in (wireguard, manager_off, host_network):
        fault(tree)
    found = check_cluster_objects([DOMAIN], ClusterObjects(**tree, not_enforced={"floor/upload": "Over"}))
    text = next(one.what for one in found if one.what.startswith("Over"))
    assert text.index("host's network") < text.index("bandwidth manager is off") < text.index("WireGuard")


def test_an_unknown_cause_is_reported_as_unknown() -> None:
    """A fault that lifts no limit is not named as one."""
    tree = cluster()
    no_priority(tree)
    found = check_cluster_objects([DOMAIN], ClusterObjects(**tree, not_enforced={"floor/upload": "Over"}))
    assert any("no setting that is known to lift limits was found, so UDP is likely" in one.what for one in found)


def test_the_last_event_decides() -> None:
    """A limit that holds again is no finding."""

    def event(at: str, reason: str) -> dict[str, Any]:
        about = {"namespace": "floor", "name": "upload"}
        return {"reason": reason, "involvedObject": about, "lastTimestamp": at, "message": f"at {at}"}

    over, sound, other = (
        event("2026-01-01T10:00:00Z", NOT_ENFORCED),
        event("2026-01-01T10:01:00Z", ENFORCED),
        "LimitCut",
    )
    assert find_not_enforced([sound, over]) == {}
    assert find_not_enforced([event("2026-01-01T09:00:00Z", ENFORCED), over]) == {
        "floor/upload": "at 2026-01-01T10:00:00Z"
    }
    assert find_not_enforced([event("2026-01-01T10:00:00Z", other)]) == {}
