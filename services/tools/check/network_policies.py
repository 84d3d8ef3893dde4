"""Whether the NetworkPolicies of a namespace let a pod be asked from elsewhere.  Pure."""

from collections.abc import Iterable, Mapping

from msgspec import convert

from services.kube.selectors import Selector
from services.tools.check.selectors import Object

Labels = Mapping[str, str]


def admits(policies: Iterable[Object], pod: Labels, peer: tuple[Labels, Labels], port: int) -> bool:
    """Whether a pod may be asked: no policy selects it for ingress, or a rule of one that does lets the peer in.

    Args:
        policies: of the pod's namespace.
        pod: its labels.
        peer: the labels of who asks, and of its namespace.
        port: where it is asked, by TCP.  A port with a name is taken to be another.
    """
    governing = [
        one["spec"]
        for one in policies
        if "Ingress" in (one["spec"].get("policyTypes") or ("Ingress",)) and _fits(one["spec"].get("podSelector"), pod)
    ]
    rules = [rule for spec in governing for rule in spec.get("ingress") or ()]
    return not governing or any(_lets_in(rule, peer, port) for rule in rules)


def _lets_in(rule: Object, peer: tuple[Labels, Labels], port: int) -> bool:
    ports, sources = rule.get("ports") or (), rule.get("from") or ()
    is_open = not ports or any(
        one.get("protocol", "TCP") == "TCP"
        and (one.get("port") is None or one["port"] == port or _is_within(one, port))
        for one in ports
    )
    # An address range may be anybody's.
    return is_open and (not sources or any("ipBlock" in one or _is_from(one, peer) for one in sources))


def _is_within(port: Object, number: int) -> bool:
    first = port["port"]
    return isinstance(first, int) and first <= number <= int(port.get("endPort", first))


def _is_from(source: Object, peer: tuple[Labels, Labels]) -> bool:
    labels, home = peer
    # Without a selector of namespaces the policy's own is meant, where no sampler is.
    return (
        "namespaceSelector" in source
        and _fits(source["namespaceSelector"], home)
        and _fits(source.get("podSelector"), labels)
    )


def _fits(selector: Object | None, labels: Labels) -> bool:
    return convert(selector or {}, Selector).matches(labels)
