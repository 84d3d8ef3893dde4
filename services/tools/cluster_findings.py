"""What a cluster's objects say about whether Sluice would work there.  Pure: objects in, findings out.

``sluice check --cluster`` reads the objects; each function here knows one way in which a limit or a
priority is silently not enforced, and says what to do about it.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from schemas.domain import Domain, Target

BANDWIDTH = "kubernetes.io/egress-bandwidth"
PRIORITY = "bandwidth.cilium.io/priority"
_PRIORITY_KERNEL = (6, 7)
_OUR_MANAGERS = ("sluice",)
_GITOPS = {"argocd.argoproj.io/tracking-id": "Argo CD", "kustomize.toolkit.fluxcd.io/name": "Flux"}

Object = Mapping[str, Any]


class Finding(Struct, frozen=True):
    """One thing that a user should know before the install."""

    level: Literal["error", "warning"]
    """An error: a limit would not hold, or not be set.  A warning: something works less well."""
    where: str
    """The object."""
    what: str
    """What is wrong, and what to do."""


class Cluster(Struct, frozen=True):
    """The objects that the findings rest on."""

    cilium: Mapping[str, str] | None
    """Data of the ConfigMap ``kube-system/cilium-config``; None where there is none."""
    nodes: Sequence[Object]
    deployments: Mapping[str, Object]
    """By ``namespace/name``, those that the configuration names and that exist."""
    pods: Sequence[Object]
    """All pods of the namespaces that the configuration names."""
    policies: Sequence[Object]
    """CiliumNetworkPolicies of those namespaces."""


def findings(domains: Iterable[Domain], cluster: Cluster) -> list[Finding]:
    """Everything that is worth saying, errors first."""
    found = [*_of_cilium(cluster), *_of_kernels(cluster)]
    for domain in domains:
        found += _of_workloads(domain, cluster)
        for target in domain.targets:
            found += _of_target(target, cluster)
    return sorted(found, key=lambda one: one.level != "error")


def _of_cilium(cluster: Cluster) -> Iterator[Finding]:
    where = "kube-system/cilium-config"
    if cluster.cilium is None:
        yield Finding("error", where, "not found: without Cilium nothing enforces the annotation")
        return
    if cluster.cilium.get("enable-bandwidth-manager") != "true":
        yield Finding(
            "error",
            where,
            "the bandwidth manager is off, so limits do nothing: Helm value bandwidthManager.enabled=true",
        )
    if cluster.cilium.get("enable-ipsec") == "true":
        yield Finding("error", where, "IPsec is on, which switches the bandwidth manager off")
    if cluster.cilium.get("enable-hubble") != "true":
        yield Finding("warning", where, "Hubble is off: the exporter sees probes only (Helm value hubble.enabled=true)")


def _of_kernels(cluster: Cluster) -> Iterator[Finding]:
    for node in cluster.nodes:
        version = node["status"]["nodeInfo"]["kernelVersion"]
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers is None or (int(numbers[1]), int(numbers[2])) < _PRIORITY_KERNEL:
            yield Finding(
                "warning",
                f"node {node['metadata']['name']}",
                f"kernel {version} is below 6.7: limits work, packet priorities ({PRIORITY}) do not",
            )


def _of_workloads(domain: Domain, cluster: Cluster) -> Iterator[Finding]:
    for kind, wanted, workloads in (
        ("target", "bestEffort", [target.key for target in domain.targets]),
        ("critical workload", "guaranteed", [critical.key for critical in domain.critical]),
    ):
        for key in workloads:
            deployment = cluster.deployments.get(key)
            if deployment is None:
                level: Literal["error", "warning"] = "error" if kind == "target" else "warning"
                yield Finding(level, f"deployment {key}", f"not found: the configuration names it as a {kind}")
                continue
            priority = _annotations(deployment["spec"]["template"]).get(PRIORITY)
            if priority != wanted:
                yield Finding(
                    "warning",
                    f"deployment {key}",
                    f"its template's {PRIORITY} is {priority or 'not set'}; {wanted} protects a {kind} better, "
                    "and must be set when a pod is created",
                )


def _of_target(target: Target, cluster: Cluster) -> Iterator[Finding]:
    where = f"deployment {target.key}"
    deployment = cluster.deployments.get(target.key)
    if deployment is None:
        return
    yield from _of_owner(target, deployment)
    if BANDWIDTH not in _annotations(deployment["spec"]["template"]):
        yield Finding(
            "warning",
            where,
            f"its template has no {BANDWIDTH}: a new pod is unlimited until the actuator has seen it; "
            f"set {target.fail_safe} there once",
        )
    pods = [pod for pod in cluster.pods if _selects(deployment["spec"]["selector"], pod)]
    for pod in pods:
        if pod["spec"].get("hostNetwork"):
            yield Finding("error", _name("pod", pod), "uses the host's network: Cilium limits pods with their own only")
    yield from _of_placement(target, pods, cluster)
    for policy in cluster.policies:
        if any(
            _proxies(rule) for rule in _rules(policy) if any(_selects(rule["endpointSelector"], pod) for pod in pods)
        ):
            yield Finding(
                "error",
                _name("CiliumNetworkPolicy", policy),
                f"has an L7 rule at egress of {target.key}: that lifts its limit",
            )


def _of_owner(target: Target, deployment: Object) -> Iterator[Finding]:
    where = f"deployment {target.key}"
    value = _annotations(deployment).get(BANDWIDTH)
    managers = [
        entry.get("manager", "?")
        for entry in deployment["metadata"].get("managedFields", ())
        if f"f:{BANDWIDTH}" in entry.get("fieldsV1", {}).get("f:metadata", {}).get("f:annotations", {})
    ]
    foreign = sorted({manager for manager in managers if not manager.startswith(_OUR_MANAGERS)})
    if value is not None and foreign:
        yield Finding(
            "error",
            where,
            f"{BANDWIDTH} is {value} already, set by {', '.join(foreign)}: "
            "Sluice pauses a target that has another owner; remove the value there first",
        )
    for key, tool in _GITOPS.items():
        if value is not None and key in {**_annotations(deployment), **_labels(deployment)}:
            yield Finding("warning", where, f"is managed by {tool}: keep {BANDWIDTH} out of its source")


def _of_placement(target: Target, pods: Sequence[Object], cluster: Cluster) -> Iterator[Finding]:
    by_node: dict[str, list[str]] = defaultdict(list)
    for pod in cluster.pods:
        by_node[pod["spec"].get("nodeName", "")].append(pod["metadata"]["name"])
    nodes = {pod["spec"].get("nodeName", "") for pod in pods} - {""}
    if len(nodes) == 1 and len(by_node.keys() - {""}) == 1:
        yield Finding(
            "warning",
            f"deployment {target.key}",
            f"all pods of its namespaces run on node {nodes.pop()}: traffic inside a node is not limited; "
            "keep its peers away with anti-affinity",
        )


def _rules(policy: Object) -> list[Object]:
    return [rule for rule in (policy.get("spec"), *policy.get("specs", ())) if rule and "endpointSelector" in rule]


def _proxies(rule: Object) -> bool:
    return any(port.get("rules") for egress in rule.get("egress", ()) for port in egress.get("toPorts", ()))


def _selects(selector: Object, thing: Object) -> bool:
    labels = _labels(thing)
    return all(
        labels.get(key.removeprefix("k8s:").removeprefix("any:")) == value
        for key, value in (selector.get("matchLabels") or {}).items()
        if not key.startswith("k8s:io.kubernetes.pod.")
    ) and all(_matches(expression, labels) for expression in selector.get("matchExpressions") or ())


def _matches(expression: Object, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:
            return False


def _annotations(thing: Object) -> Mapping[str, str]:
    found: Mapping[str, str] = thing.get("metadata", {}).get("annotations") or {}
    return found


def _labels(thing: Object) -> Mapping[str, str]:
    found: Mapping[str, str] = thing.get("metadata", {}).get("labels") or {}
    return found


def _name(kind: str, thing: Object) -> str:
    return f"{kind} {thing['metadata'].get('namespace', 'default')}/{thing['metadata']['name']}"
