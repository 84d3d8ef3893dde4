"""Which pods a Deployment has, which a policy governs, and whom it lets them speak to.  Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]

_NAMESPACE = "io.kubernetes.pod.namespace"
_RESERVED = ("io.kubernetes.pod.", "io.cilium.")
"""Labels that Cilium adds to pods: their values are not known here, so they are taken to match."""
_NODE = "kubernetes.io/hostname"
_REDIRECTS = ("rules", "listener", "terminatingTLS", "originatingTLS", "serverNames")
"""Fields that make Cilium redirect a port's traffic to a proxy."""


def annotations(obj: Object) -> Mapping[str, str]:
    """Return those of an object, or of a template."""
    found: Mapping[str, str] = obj.get("metadata", {}).get("annotations") or {}
    return found


def labels(obj: Object) -> Mapping[str, str]:
    """Return those of an object, or of a template."""
    found: Mapping[str, str] = obj.get("metadata", {}).get("labels") or {}
    return found


def get_namespace(obj: Object) -> str | None:
    """Return the namespace; None for an object of the whole cluster."""
    namespace: str | None = obj["metadata"].get("namespace")
    return namespace


class PodIndex:
    """Pods by their labels: thousands of Deployments do not look at thousands of pods each."""

    def __init__(self, pods: Sequence[Object]) -> None:
        """Index all labels."""
        self._pods = pods
        self._labelled: dict[tuple[str | None, str, str], list[Object]] = {}
        for pod in pods:
            for key, value in labels(pod).items():
                self._labelled.setdefault((get_namespace(pod), key, value), []).append(pod)

    def select(self, deployment: Object) -> list[Object]:
        """Select the pods of a Deployment."""
        home, selector = get_namespace(deployment), deployment["spec"]["selector"]
        wanted = (selector.get("matchLabels") or {}).items()
        found: Sequence[Object] = min(
            (self._labelled.get((home, *one), []) for one in wanted), key=len, default=self._pods
        )
        return [pod for pod in found if get_namespace(pod) == home and _fits(selector, pod)]


def build_template_pod(deployment: Object) -> Object:
    """Build a pod as the template will make it."""
    template = deployment["spec"]["template"]
    return {"metadata": {"namespace": get_namespace(deployment), "labels": labels(template)}, "spec": {}}


def has_anti_affinity(deployment: Object) -> bool:
    """Return whether its pods must not share a node with pods of others, beyond its own replicas."""
    affinity = deployment["spec"]["template"].get("spec", {}).get("affinity") or {}
    terms = (affinity.get("podAntiAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or ()
    own = build_template_pod(deployment)
    return any(term["topologyKey"] == _NODE and not _fits(term.get("labelSelector") or {}, own) for term in terms)


def find_rules(policy: Object, pod: Object) -> Iterator[Object]:
    """Find the rules of a Cilium policy, clusterwide or not, that apply to a pod."""
    home = get_namespace(policy)
    for rule in (policy.get("spec"), *(policy.get("specs") or ())):
        governs = rule and "endpointSelector" in rule and home in (None, get_namespace(pod))
        if governs and _fits(rule["endpointSelector"], pod):
            yield rule


def uses_proxy(rule: Object) -> bool:
    """Return whether a rule sends egress through the L7 proxy."""
    ports = [port for egress in rule.get("egress") or () for port in egress.get("toPorts") or ()]
    return any(port.get(key) for port in ports for key in _REDIRECTS)


def find_peers(policy: Object, rule: Object, pods: Iterable[Object]) -> list[Object]:
    """Find the pods that a rule allows egress to; none where it names no pods."""
    selectors = [one for egress in rule.get("egress") or () for one in egress.get("toEndpoints") or ()]
    home = get_namespace(policy)
    found = []
    for pod in pods:
        for selector in selectors:
            wide = home is None or _NAMESPACE in {_plain(key) for key in selector.get("matchLabels") or {}}
            if (wide or get_namespace(pod) == home) and _fits(selector, pod):
                found.append(pod)
                break
    return found


def _plain(key: str) -> str:
    """Return a label's key without the source that Cilium's selectors may put before it."""
    return key.removeprefix("k8s:").removeprefix("any:")


def _fits(selector: Object, pod: Object) -> bool:
    known = {**labels(pod), _NAMESPACE: get_namespace(pod) or ""}
    for key, value in (selector.get("matchLabels") or {}).items():
        plain = _plain(key)
        if known.get(plain) != value and not (plain.startswith(_RESERVED) and plain not in known):
            return False
    for expression in selector.get("matchExpressions") or ():
        value, values = known.get(_plain(expression["key"])), expression.get("values") or ()
        holds = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not holds.get(expression["operator"]):
            return False
    return True
