"""Which pods a Deployment has, which a policy governs, and whom it lets them speak to.  Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from services.kube.selectors import Requirement

Object = Mapping[str, Any]

_NAMESPACE = "io.kubernetes.pod.namespace"
_RESERVED = ("io.kubernetes.pod.", "io.cilium.")
"""Labels that Cilium gives to pods by itself: what they say is not known here, so they are taken to fit."""
_NODE = "kubernetes.io/hostname"
_REDIRECTS = ("rules", "listener", "terminatingTLS", "originatingTLS", "serverNames")
"""What makes Cilium redirect a port's traffic to a proxy."""


def annotations(thing: Object) -> Mapping[str, str]:
    """Of an object, or of a template."""
    found: Mapping[str, str] = thing.get("metadata", {}).get("annotations") or {}
    return found


def labels(thing: Object) -> Mapping[str, str]:
    """Of an object, or of a template."""
    found: Mapping[str, str] = thing.get("metadata", {}).get("labels") or {}
    return found


def namespace_of(thing: Object) -> str | None:
    """None where it has none: then it is about the whole cluster."""
    namespace: str | None = thing["metadata"].get("namespace")
    return namespace


def pods_of(deployment: Object, pods: Iterable[Object]) -> list[Object]:
    """The pods that its selector finds."""
    home, selector = namespace_of(deployment), deployment["spec"]["selector"]
    return [pod for pod in pods if namespace_of(pod) == home and _fits(selector, pod)]


def pod_to_be(deployment: Object) -> Object:
    """A pod as the template will make it."""
    template = deployment["spec"]["template"]
    return {"metadata": {"namespace": namespace_of(deployment), "labels": labels(template)}, "spec": {}}


def keeps_away(deployment: Object) -> bool:
    """Whether its pods must not share a node with certain others: more than its own replicas among each other."""
    affinity = deployment["spec"]["template"].get("spec", {}).get("affinity") or {}
    terms = (affinity.get("podAntiAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or ()
    own = pod_to_be(deployment)
    return any(term["topologyKey"] == _NODE and not _fits(term.get("labelSelector") or {}, own) for term in terms)


def rules_about(policy: Object, pod: Object) -> Iterator[Object]:
    """The rules of a Cilium policy, clusterwide or not, that govern a pod."""
    home = namespace_of(policy)
    for rule in (policy.get("spec"), *(policy.get("specs") or ())):
        governs = rule and "endpointSelector" in rule and home in (None, namespace_of(pod))
        if governs and _fits(rule["endpointSelector"], pod):
            yield rule


def proxied(rule: Object) -> bool:
    """Whether a rule sends what leaves its pods through the L7 proxy."""
    ports = [port for egress in rule.get("egress") or () for port in egress.get("toPorts") or ()]
    return any(port.get(key) for port in ports for key in _REDIRECTS)


def peers(policy: Object, rule: Object, pods: Iterable[Object]) -> list[Object]:
    """The pods that a rule lets its own speak to, by name; none where it names no pods."""
    selectors = [one for egress in rule.get("egress") or () for one in egress.get("toEndpoints") or ()]
    home = namespace_of(policy)
    found = []
    for pod in pods:
        for selector in selectors:
            wide = home is None or _NAMESPACE in {_plain(key) for key in selector.get("matchLabels") or {}}
            if (wide or namespace_of(pod) == home) and _fits(selector, pod):
                found.append(pod)
                break
    return found


def _plain(key: str) -> str:
    """A label's key without the source that Cilium's selectors may put before it."""
    return key.removeprefix("k8s:").removeprefix("any:")


def _fits(selector: Object, pod: Object) -> bool:
    known = {**labels(pod), _NAMESPACE: namespace_of(pod) or ""}
    equalities = [
        Requirement(_plain(key), "In", (value,)) for key, value in (selector.get("matchLabels") or {}).items()
    ]
    others = [
        Requirement(_plain(one["key"]), one["operator"], tuple(one.get("values") or ()))
        for one in selector.get("matchExpressions") or ()
    ]
    given = [one for one in equalities if one.key in known or not one.key.startswith(_RESERVED)]
    return all(one.matches(known) for one in (*given, *others))
