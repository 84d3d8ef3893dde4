"""Checks a cluster's objects: would Sluice work there?  Pure: objects in, findings out.

``sluice check --cluster`` reads the objects; each function here knows one way in which a limit or a
priority is silently not enforced, and has the remedy.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct, convert

from schemas.domain import Domain, Target
from services.actuator.ownership import find_record, pause_reason, resume_command
from services.kube.objects import BANDWIDTH
from services.kube.workloads import OtherOwner, derive_kind, known_kind
from services.tools.check.network_policies import admits
from services.tools.check.selectors import (
    Object,
    PodIndex,
    annotations,
    build_template_pod,
    find_peers,
    find_rules,
    has_anti_affinity,
    labels,
    uses_proxy,
)
from services.tools.check.sizing import explain_size

PRIORITY = "bandwidth.cilium.io/priority"
_PRIORITY_KERNEL = (6, 7)
_LIMIT_KERNEL = (5, 1)
_NETWORKS = "k8s.v1.cni.cncf.io/networks"
"""Names further networks of a pod."""
_PRIORITY_CILIUM = (1, 17)
_SAMPLER = ({"app.kubernetes.io/name": "sluice-sampler"}, {"kubernetes.io/metadata.name": "sluice"})
"""Labels of the sampler's pods, and of their namespace."""
_METER_PORT = 9968
_GITOPS = {"argocd.argoproj.io/tracking-id": "Argo CD", "kustomize.toolkit.fluxcd.io/name": "Flux"}


class Finding(Struct, frozen=True):
    """A fact that a user should know before installing."""

    level: Literal["error", "warning"]
    """An error: a limit would not hold, or not be set.  A warning: something works less well."""
    where: str
    """The object."""
    what: str
    """What is wrong, and what to do."""
    lifts: str | None = None
    """Whose limits it may lift: a target's ``namespace/deployment``, or empty for all; None: nobody's."""


class MeterObjects(Struct, frozen=True):
    """The meter that the configuration names, as it is installed."""

    service: str
    """``namespace/name`` of its Service."""
    daemon_set: Object | None
    """The DaemonSet of the same name; None where there is none."""
    found: Object | None = None
    """The Service itself; None where there is none."""
    security: str = ""
    """The level of pod security that its namespace enforces; empty: none."""
    policies: Sequence[Object] = ()
    """NetworkPolicies of its namespace."""
    endpoints: bool = False
    """Whether the configuration finds devices by CiliumEndpoints."""
    trusts_netkit: bool = False

    def has_variable(self, name: str) -> bool:
        """Whether its container has an environment variable that is not empty or ``off``."""
        found = self.daemon_set or {"spec": {"template": {"spec": {"containers": []}}}}
        containers = found["spec"]["template"]["spec"]["containers"]
        values = [v.get("value") for one in containers for v in one.get("env", ()) if v["name"] == name]
        return any(value not in (None, "", "off", "false") for value in values)


class ClusterObjects(Struct, frozen=True):
    """The objects that the findings rest on."""

    cilium: Mapping[str, str] | None
    """Data of the ConfigMap ``cilium-config``; None where there is none."""
    nodes: Sequence[Object]
    deployments: Mapping[str, Object]
    """By key, the workloads that the configuration names and that exist, of any kind, in the form of a Deployment."""
    pods: Sequence[Object]
    """All pods of the namespaces that the configuration names."""
    policies: Sequence[Object]
    """CiliumNetworkPolicies of those namespaces, and the clusterwide ones."""
    agent: str | None = None
    """The image of Cilium's agent, where it runs as its chart has it."""
    cilium_namespace: str = "kube-system"
    """Where Cilium is installed."""
    volumes: bool = True
    """Whether there is a default StorageClass, or the bus needs none."""
    absent: Mapping[str, tuple[str, str]] = {}
    """Services that the configuration names and that do not exist: ``namespace/name``, by who needs them and why."""
    left_over: Mapping[str, str] = {}
    """By ``namespace/name``, the limits of workloads that carry Sluice's record and that nobody is configured for."""
    not_enforced: Mapping[str, str] = {}
    """Targets whose last Event on enforcement says that they send more than their limits; its text, by target."""
    meter: MeterObjects | None = None
    """The meter; None where the configuration names none."""


def check_cluster_objects(domains: Iterable[Domain], cluster: ClusterObjects) -> list[Finding]:
    """Check all rules; return the findings, errors first."""
    found = [*_check_cilium(cluster), *_check_nodes(cluster), *check_meter(cluster)]
    if not cluster.volumes:
        text = "there is no default StorageClass, so nats gets no volume and never starts: see components/volatile-bus"
        found.append(Finding("error", "storageclasses", text))
    level: Literal["error", "warning"]
    for who, (service, why) in cluster.absent.items():
        level = "error" if who == "signal.prometheus.url" else "warning"
        found.append(Finding(level, who, f"there is no Service {service}: {why}"))
    text = "it is no target, and carries Sluice's record: put it back into the file and run sluice restore"
    found += [Finding("warning", key, f"{text} ({limit} is in force)") for key, limit in cluster.left_over.items()]
    index, domains = PodIndex(cluster.pods), tuple(domains)
    targets = [target.key for domain in domains for target in domain.targets]
    count = sum(len(index.select(cluster.deployments[key])) for key in targets if key in cluster.deployments)
    size = explain_size(len(targets), count, f"with {count} pods")
    found += [Finding("warning", "targets", size)] if size is not None else []
    for domain in domains:
        for kind, wanted, keys in (
            ("target", "bestEffort", [target.key for target in domain.targets]),
            ("critical workload", "guaranteed", [critical.key for critical in domain.critical]),
        ):
            for key in keys:
                deployment = cluster.deployments.get(key)
                where = name_workload(key, deployment)
                if deployment is None:
                    level = "error" if kind == "target" else "warning"
                    found.append(Finding(level, where, f"not found: the configuration names it as a {kind}"))
                    continue
                template = deployment["spec"]["template"]
                if template and (priority := annotations(template).get(PRIORITY)) != wanted:
                    text = f"its template's {PRIORITY} is {priority or 'not set'}; {wanted} protects a {kind} better"
                    found.append(Finding("warning", where, f"{text}, and must be set when a pod is created"))
        for target in domain.targets:
            found += _check_target(target, cluster, index)
    for key, text in cluster.not_enforced.items():
        found.append(Finding("error", name_workload(key), f"{text}; {_name_likely_causes(key, found)}"))
    return sorted(found, key=lambda one: one.level != "error")


def _name_likely_causes(target: str, found: Iterable[Finding]) -> str:
    """Name what may lift a target's limit: what concerns it alone before what concerns all, errors before warnings."""
    causes = [one for one in found if one.lifts in ("", target)]
    causes.sort(key=lambda one: (one.lifts == "", one.level != "error"))
    if not causes:
        return "no setting that is known to lift limits was found, so UDP is likely: see docs/troubleshooting.md"
    return f"likely because: {'; or '.join(f'{one.where}: {one.what}' for one in causes)}"


def _check_cilium(cluster: ClusterObjects) -> Iterator[Finding]:
    """Check Cilium's settings, and every known combination of them in which limits silently do nothing."""
    where, settings = f"{cluster.cilium_namespace}/cilium-config", cluster.cilium
    if settings is None:
        text = "not found in any namespace: without Cilium nothing enforces the annotation"
        yield Finding("error", where, text, lifts="")
        return
    version = re.search(r":v?(\d+)\.(\d+)", cluster.agent or "")
    release = (int(version[1]), int(version[2])) if version is not None else None
    if settings.get("enable-bandwidth-manager") != "true":
        text = "the bandwidth manager is off, so limits do nothing: Helm value bandwidthManager.enabled=true"
        yield Finding("error", where, text, lifts="")
    if settings.get("enable-ipsec") == "true":
        yield Finding("error", where, "IPsec is on, which switches the bandwidth manager off", lifts="")
    if settings.get("enable-wireguard") == "true":
        text = "WireGuard is on: some versions of Cilium do not limit its traffic (cilium#22203), so measure one pod"
        yield Finding("warning", where, text, lifts="")
    if settings.get("kube-proxy-replacement") in ("false", "disabled") and release in (None, (1, 17)):
        text = "kube-proxy replacement is off: with Cilium 1.17 limits may silently do nothing (cilium#39167)"
        yield Finding("warning", where, f"{text}; Helm value kubeProxyReplacement=true", lifts="")
    if (chaining := settings.get("cni-chaining-mode", "none")) != "none":
        text = f"Cilium is chained behind another CNI ({chaining}): limits may silently do nothing, so measure one pod"
        yield Finding("warning", where, text, lifts="")
    if devices := settings.get("devices"):
        text = f"only traffic that leaves by {devices} is limited: pods that use another device are not"
        yield Finding("warning", where, text, lifts="")
    if settings.get("enable-hubble") != "true":
        yield Finding("warning", where, "Hubble is off: the exporter sees probes only (Helm value hubble.enabled=true)")
    if release is not None and release < _PRIORITY_CILIUM:
        text = f"{cluster.agent} is older than 1.17: limits work, packet priorities ({PRIORITY}) do not"
        yield Finding("warning", f"{cluster.cilium_namespace}/cilium", text)


def check_meter(cluster: ClusterObjects) -> Iterator[Finding]:
    """Check whether the meters run everywhere, and find the devices of the pods."""
    meter = cluster.meter
    if meter is None:
        return
    where = f"daemonset {meter.service}"
    if meter.daemon_set is None:
        yield Finding("warning", where, "not found: without it throughput is not known: manifests/meter.yaml")
        return
    yield from _check_reach(meter, where)
    status = meter.daemon_set.get("status") or {}
    ready, wanted = status.get("numberReady", 0), status.get("desiredNumberScheduled", 0)
    if ready < wanted:
        text = f"{wanted - ready} of {wanted} are not ready: workloads with pods on those nodes have no throughput"
        yield Finding("warning", where, text)
    if "observedGeneration" in status and wanted < len(cluster.nodes):
        text = f"it is for {wanted} of {len(cluster.nodes)} nodes: what pods send on the others is missing unnoticed"
        yield Finding("warning", where, text)
    settings = cluster.cilium or {}
    kubelet = meter.has_variable("SLUICE_METER_KUBELET")
    if settings.get("datapath-mode") == "netkit" and not kubelet and not meter.trusts_netkit:
        text = "netkit devices are not read: use components/meter-kubelet, or set meter.trust_netkit (docs/meter.md)"
        yield Finding("warning", where, text)
    elif settings.get("enable-endpoint-routes") != "true" and not kubelet and not meter.endpoints:
        text = "endpoint routes are off, so it finds no device: Helm value endpointRoutes.enabled=true"
        yield Finding("warning", where, f"{text}, or components/meter-endpoints")
    if kubelet:
        text = "it reads the kubelets, whose counters are 10 to 15 s apart: shorter windows mostly have no throughput"
        yield Finding("warning", where, text)


def _check_reach(meter: MeterObjects, where: str) -> Iterator[Finding]:
    """Check whether its pods are admitted, and whether the sampler finds and reaches every one of them."""
    service, template = f"service {meter.service}", (meter.daemon_set or {})["spec"]["template"]
    if meter.found is None:
        yield Finding("warning", service, "not found: by it the sampler finds the meters: manifests/meter.yaml")
    elif meter.found["spec"].get("clusterIP") != "None":
        text = "is not headless (clusterIP: None): its name has one address, so one meter is read for all"
        yield Finding("warning", service, text)
    if template["spec"].get("hostNetwork"):
        if meter.security in ("baseline", "restricted"):
            text = f"its namespace enforces pod security {meter.security}, which forbids the host's network"
            yield Finding("warning", where, f"{text}: privileged, or components/meter-kubelet")
    elif not admits(meter.policies, labels(template), _SAMPLER, _METER_PORT):
        text = f"a NetworkPolicy of its namespace keeps the sampler from port {_METER_PORT}: see manifests/meter.yaml"
        yield Finding("warning", where, text)


def _check_nodes(cluster: ClusterObjects) -> Iterator[Finding]:
    if len(cluster.nodes) == 1:
        text = "is the only node: traffic between its pods is not limited, and there is no other node for its peers"
        yield Finding("warning", f"node {cluster.nodes[0]['metadata']['name']}", text, lifts="")
    for node in cluster.nodes:
        version = node["status"]["nodeInfo"]["kernelVersion"]
        numbers = re.match(r"(\d+)\.(\d+)", version)
        where = f"node {node['metadata']['name']}"
        if node.get("spec", {}).get("providerID", "").startswith("kind:"):
            text = "is a container of kind: in nested network namespaces limits silently do nothing"
            yield Finding("error", where, text, lifts="")
        if numbers is not None and (int(numbers[1]), int(numbers[2])) < _LIMIT_KERNEL:
            yield Finding(
                "error", where, f"kernel {version} is below 5.1: Cilium switches the bandwidth manager off", lifts=""
            )
            continue
        if numbers is None or (int(numbers[1]), int(numbers[2])) < _PRIORITY_KERNEL:
            text = f"kernel {version} is below 6.7: limits work, packet priorities ({PRIORITY}) do not"
            yield Finding("warning", f"node {node['metadata']['name']}", text)


def name_workload(key: str, workload: Object | None = None) -> str:
    """How a finding calls a workload: its kind, and ``namespace/name``."""
    parts = key.split("/")
    kind = parts[1] if len(parts) == 3 else "deployment"
    if workload is not None and len(parts) == 2:
        kind = str(workload.get("kind", "Deployment")).lower()
    return f"{kind} {parts[0]}/{parts[-1]}"


def _check_target(target: Target, cluster: ClusterObjects, index: PodIndex) -> Iterator[Finding]:
    where = name_workload(target.key)
    deployment = cluster.deployments.get(target.key)
    if deployment is None:
        return
    yield from _check_ownership(target, deployment)
    template = deployment["spec"]["template"]
    if template and BANDWIDTH not in annotations(template):
        text = f"its template has no {BANDWIDTH}: a new pod is unlimited until the actuator has seen it"
        yield Finding("warning", where, f"{text}; set {target.fail_safe} there once")
    pods = index.select(deployment)
    if networks := annotations(deployment["spec"]["template"]).get(_NETWORKS):
        text = f"its pods have further networks ({networks}): what they send there is not limited"
        yield Finding("warning", where, text, lifts=target.key)
    hosted = [f"pod {_name_object(pod)}" for pod in pods if pod["spec"].get("hostNetwork")]
    if deployment["spec"]["template"].get("spec", {}).get("hostNetwork"):
        hosted = [where]
    for one in hosted:
        text = "uses the host's network: Cilium limits pods with their own only"
        yield Finding("error", one, text, lifts=target.key)
    yield from _check_placement(target, deployment, pods, cluster)
    for policy in cluster.policies:
        if any(uses_proxy(rule) for pod in (*pods, build_template_pod(deployment)) for rule in find_rules(policy, pod)):
            spaced = "namespace" in policy["metadata"]
            name = _name_object(policy) if spaced else policy["metadata"]["name"]
            where = f"Cilium{'' if spaced else 'Clusterwide'}NetworkPolicy {name}"
            text = f"has an L7 rule at egress of {target.key}: that lifts its limit"
            yield Finding("error", where, text, lifts=target.key)


def _check_ownership(target: Target, deployment: Object) -> Iterator[Finding]:
    """Check for a value that is there already, by the actuator's own rules."""
    where = name_workload(target.key)
    if "uid" not in deployment["metadata"] and target.selector is not None:
        return  # its record is still to be made
    # The object that carries the target's record, as the actuator sees it.
    kind = known_kind(target) or derive_kind(OtherOwner, deployment["kind"], deployment["apiVersion"], "")
    seen = convert(deployment if target.ref is not None else {"metadata": deployment["metadata"]}, type=kind)
    paused = pause_reason(seen, managed=False)
    if paused is not None:
        text = f"it is paused: {paused}{_describe_setter(deployment)}; to resume: {resume_command(seen)}"
        yield Finding("error", where, text + _describe_gitops(deployment))
    elif seen.bandwidth is not None and find_record(seen) is None:
        text = (
            f"{BANDWIDTH} is {seen.bandwidth} already{_describe_setter(deployment)}: Sluice takes it over and "
            "remembers it, and `sluice restore` puts it back; a client that sets it again pauses the target"
        )
        yield Finding("warning", where, text + _describe_gitops(deployment))


def _describe_setter(deployment: Object) -> str:
    """Describe who set the bandwidth, as far as the API server knows."""
    setters = {
        entry.get("manager", "?")
        for entry in deployment["metadata"].get("managedFields", ())
        if f"f:{BANDWIDTH}" in entry.get("fieldsV1", {}).get("f:metadata", {}).get("f:annotations", {})
    }
    return f", set by {', '.join(sorted(setters))}" if setters else ""


def _describe_gitops(deployment: Object) -> str:
    """Describe which tool would set the bandwidth again, and what to do about it."""
    known = {**annotations(deployment), **labels(deployment)}
    tools = [tool for key, tool in _GITOPS.items() if key in known]
    return "".join(f"; {tool} manages it: take {BANDWIDTH} out of its source, or it is set again" for tool in tools)


def _check_placement(
    target: Target, deployment: Object, pods: Sequence[Object], cluster: ClusterObjects
) -> Iterator[Finding]:
    """Check whether pods run, or may run, on one node with those they send to, as far as policies name these."""
    where, advice = name_workload(target.key), "traffic inside a node is not limited; keep them apart by anti-affinity"
    named, known = [], dict[int, list[Object]]()
    for policy in cluster.policies:
        for pod in pods:
            for rule in find_rules(policy, pod):
                # A policy's peers are the same for each of its pods.
                if id(rule) not in known:
                    known[id(rule)] = find_peers(policy, rule, cluster.pods)
                named += [(pod, peer) for peer in known[id(rule)]]
    beside = sorted(
        {
            _name_object(peer)
            for pod, peer in named
            if peer is not pod and _get_node(pod) and _get_node(pod) == _get_node(peer)
        }
    )
    nodes = sorted({_get_node(pod) for pod in pods} - {""})
    if beside:
        text = f"runs on one node with whom it sends to ({', '.join(beside)}): {advice}"
        yield Finding("warning", where, text, lifts=target.key)
    elif nodes and not named and not has_anti_affinity(deployment):
        text = f"peers unknown: no policy names them; should one of them run on {', '.join(nodes)} too: {advice}"
        yield Finding("warning", where, text, lifts=target.key)


def _get_node(pod: Object) -> str:
    node: str = pod["spec"].get("nodeName") or ""
    return node


def _name_object(obj: Object) -> str:
    return f"{obj['metadata'].get('namespace', 'default')}/{obj['metadata']['name']}"
