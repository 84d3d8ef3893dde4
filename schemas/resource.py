"""The custom resource that describes a domain in the cluster, generated from the types of the configuration file.

A ``BandwidthDomain`` has the fields of ``schemas.domain.Domain`` in Kubernetes' notation: ``fail_safe`` becomes
``failSafe``.  Ranges, defaults and descriptions come from the types.  What a type checks in code stands here once more
as a rule in CEL, which API servers from 1.25 on evaluate; a test compares the two.  Earlier servers drop the rules, and
the service that reads the resources refuses what the types refuse.
"""

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec import Struct

from schemas.domain import Critical, Domain, Enrolment, Shield, Target
from schemas.reference import Field, describe
from schemas.resource_status import ResourceStatus
from schemas.settings import Settings
from schemas.units import MAX_KBIT, MULTIPLIERS
from schemas.workloads import API_VERSION as ANY_API_VERSION
from schemas.workloads import (
    KIND_NAME,
    KINDS,
    LABEL_NAME,
    LABEL_VALUE,
    SELECTOR_NAME,
    LabelRequirement,
    LabelSelector,
)

GROUP = "sluice.dev"
API_VERSION = f"{GROUP}/v1alpha1"
KIND = "BandwidthDomain"
PLURAL = "bandwidthdomains"

RATE_PATTERN = r"^[0-9]+(\.[0-9]+)?([kMGT]i?)?$"
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$"
_NAME_PATTERN = r"^[^/\s]+$"

# A rule's cost is estimated from the largest object that there can be, and must stay below the API server's limit.
_LONGEST_NAME, _LONGEST_UNIT, _MOST_ITEMS = 253, 32, 100
_LONGEST_VALUE = 63
"""Of a label."""

_COLUMNS = (
    ("Policy", ".spec.policy", "The policy that proposes limits."),
    ("P95", ".status.p95", "The 95th percentile of the critical workload that is worst off."),
    ("Objective", ".status.objective", "What it may be at most."),
    ("Limit", ".status.limit", "What the targets together may send, bit/s."),
    ("Use", ".status.use", "What they send, bit/s."),
    ("State", ".status.state", "How it stands, in a word."),
)
_WIDE = (
    ("Jitter", ".status.jitter", "The jitter of the critical workload that is worst off."),
    ("Reason", ".status.reason", "Why the last limit is what it is."),
)


class Rule(NamedTuple):
    """What a type checks in code, as CEL about ``self``; ``message`` is what a person reads who breaks it."""

    cel: str
    message: str


def _kbit(rate: str) -> str:
    """CEL for the kbit/s of a rate, as ``Rate.parse`` reads it."""
    factors = ", ".join(f"'{suffix}': {factor}.0" for suffix, factor in MULTIPLIERS.items())
    return f"int(double({rate}.find('^[0-9.]+')) * {{{factors}}}[{rate}.find('[kMGT]i?$')] / 1000.0)"


def _unique(items: str, key: str) -> str:
    """CEL for a list whose items differ in ``key``, an expression about ``ITEM``."""
    same = f"{key.replace('ITEM', 'a')} == {key.replace('ITEM', 'b')}"
    return f"{items}.all(a, {items}.exists_one(b, {same}))"


def _whole(pattern: re.Pattern[str]) -> str:
    """A pattern that has to match the whole text."""
    return f"^(?:{pattern.pattern})$"


_KIND_CHECKS = (
    Rule("!has(self.apiVersion) || has(self.kind)", "apiVersion needs a kind"),
    Rule(
        f"!has(self.kind) || has(self.apiVersion) || self.kind in {list(KINDS)}",
        f"this kind needs an apiVersion; known without are {', '.join(KINDS)}",
    ),
    Rule("!has(self.kind) || self.kind != 'Pod'", "a Pod cannot be named, since another takes its place"),
)
_ORDERED = Rule(
    f"{_kbit('self.min')} <= {_kbit('self.failSafe')} && {_kbit('self.failSafe')} <= {_kbit('self.max')}",
    "expected min <= failSafe <= max",
)
_TARGET_KEY = (
    "[has(ITEM.__namespace__) ? ITEM.__namespace__ : '', has(ITEM.apiVersion) ? ITEM.apiVersion : '', "
    "has(ITEM.deployment) ? 'Deployment' : has(ITEM.kind) ? ITEM.kind : '', "
    "has(ITEM.deployment) ? ITEM.deployment : has(ITEM.name) ? ITEM.name : '']"
)

# A word that CEL reserves, such as namespace, stands between underscores.  An API server checks rules on each default
# as it is written, before the defaults within it.
RULES: dict[type[Struct], tuple[Rule, ...]] = {
    Critical: _KIND_CHECKS,
    LabelSelector: (
        Rule(
            "(has(self.matchLabels) && size(self.matchLabels) > 0) || "
            "(has(self.matchExpressions) && size(self.matchExpressions) > 0)",
            "it would select every Pod: matchLabels or matchExpressions must name a label",
        ),
        Rule(
            f"!has(self.matchLabels) || self.matchLabels.all(key, key.matches('{_whole(LABEL_NAME)}') && "
            f"self.matchLabels[key].matches('{_whole(LABEL_VALUE)}'))",
            "no label, or no value of one",
        ),
    ),
    LabelRequirement: (
        Rule(
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            "In and NotIn need at least one value, Exists and DoesNotExist none",
        ),
    ),
    Target: (
        Rule(
            "[has(self.deployment), has(self.kind), has(self.selector)].exists_one(one, one)",
            "needs exactly one of deployment, kind, selector",
        ),
        Rule(
            "has(self.deployment) != has(self.name)",
            "deployment is a name already; kind and selector need a name beside them",
        ),
        Rule(
            "!has(self.namespaces) || size(self.namespaces) == 0 || has(self.selector)",
            "namespaces needs a selector; an object is in one namespace",
        ),
        Rule(
            f"!has(self.selector) || !has(self.name) || self.name.matches('{_whole(SELECTOR_NAME)}')",
            "a selector's name has lower-case letters, digits and '-', at most 63",
        ),
        *_KIND_CHECKS,
        _ORDERED,
    ),
    Enrolment: (_ORDERED,),
    Shield: (
        Rule(
            "!has(self.deadband) || !has(self.risePerSecond) || self.deadband <= self.risePerSecond",
            "deadband is above risePerSecond: no rise would ever be large enough",
        ),
    ),
    Domain: (
        Rule("size(self.targets) > 0 || has(self.enrol)", "needs at least one target, or enrol"),
        Rule(
            _unique("self.critical", "[has(ITEM.__namespace__) ? ITEM.__namespace__ : '', ITEM.workload]"),
            "critical workload named twice",
        ),
        Rule(
            _unique("self.targets", _TARGET_KEY),
            "target named twice",
        ),
        Rule("!has(self.shadow) || !(self.policy in self.shadow)", "policy named twice: it is in shadow, too"),
        Rule(
            f"!has(self.capacity) || self.targets.map(one, {_kbit('one.failSafe')}).sum() <= {_kbit('self.capacity')}",
            "the fail-safe limits add up to more than the capacity",
        ),
    ),
}
"""The rules of each type, beside ranges and patterns."""

_KIND_RULES = {
    "rate": Rule(
        f"[{_kbit('self')}].all(kbit, kbit >= 1 && kbit <= {MAX_KBIT})",
        "outside the rates that can be set: 1k to 1T bit/s",
    ),
    "duration": Rule("duration(self) > duration('0s')", "a duration must be above zero"),
}
_SHAPES: dict[str, dict[str, Any]] = {
    "true or false": {"type": "boolean"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "text": {"type": "string", "maxLength": _LONGEST_NAME},
    "choice": {"type": "string"},
    "rate": {"type": "string", "pattern": RATE_PATTERN, "maxLength": _LONGEST_UNIT},
    "duration": {"type": "string", "pattern": DURATION_PATTERN, "maxLength": _LONGEST_UNIT},
    "anything": {"x-kubernetes-preserve-unknown-fields": True},
}
_MORE: dict[tuple[type[Struct], str], dict[str, Any]] = {
    (Domain, "critical"): {"minItems": 1},
    (Domain, "per"): {"pattern": _whole(LABEL_NAME)},
    (Domain, "targets"): {"default": []},
    (Enrolment, "kinds"): {"minItems": 1, "x-kubernetes-list-type": "set", "items": {"enum": list(KINDS)}},
    (Enrolment, "namespaces"): {"x-kubernetes-list-type": "set", "items": {"pattern": _NAME_PATTERN}},
    (Domain, "shadow"): {"x-kubernetes-list-type": "set", "maxItems": 16},
    (Domain, "parameters"): {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    (Critical, "workload"): {"pattern": _NAME_PATTERN},
    (Critical, "namespace"): {"pattern": _NAME_PATTERN},
    (Critical, "kind"): {"pattern": _whole(KIND_NAME)},
    (Critical, "apiVersion"): {"pattern": _whole(ANY_API_VERSION)},
    (Target, "deployment"): {"pattern": _NAME_PATTERN},
    (Target, "name"): {"pattern": _NAME_PATTERN},
    (Target, "namespace"): {"pattern": _NAME_PATTERN},
    (Target, "namespaces"): {"x-kubernetes-list-type": "set", "items": {"pattern": _NAME_PATTERN}},
    (Target, "kind"): {"pattern": _whole(KIND_NAME)},
    (Target, "apiVersion"): {"pattern": _whole(ANY_API_VERSION)},
    (LabelSelector, "matchLabels"): {"maxProperties": 32, "additionalProperties": {"maxLength": _LONGEST_VALUE}},
    (LabelSelector, "matchExpressions"): {"maxItems": 32},
    (LabelRequirement, "key"): {"pattern": _whole(LABEL_NAME)},
    (LabelRequirement, "values"): {"maxItems": 32, "items": {"pattern": _whole(LABEL_VALUE)}},
    (ResourceStatus, "targets"): {"maxItems": 500},
}
"""What else the types check of one field."""
_KEYS: dict[tuple[type[Struct], str], tuple[str, ...]] = {
    (ResourceStatus, "critical"): ("namespace", "workload"),
    (ResourceStatus, "targets"): ("target",),
    (ResourceStatus, "refused"): ("workload",),
    (ResourceStatus, "conditions"): ("type",),
}
"""By what the items of a list differ."""
OWN_NAMESPACE = frozenset({(Critical, "namespace"), (Target, "namespace"), (Enrolment, "namespaces")})
"""Fields that hold the resource's own namespace where it does not have them; a list holds it alone."""
_LEFT_OUT = frozenset({(Domain, "name"), (Domain, "of"), (Domain, "on"), (Domain, "nodes")})
"""The resource's own name takes the place of one; the others are an instance's, which no resource describes."""


def camel(name: str) -> str:
    """A field's name in Kubernetes' notation."""
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)


def fields_of(kind: type[Struct]) -> Iterator[Field]:
    """The fields of a type that a resource has; a status has other types, which are in this notation already."""
    return (field for field in describe(kind) if (kind, field.name) not in _LEFT_OUT)


def build_definition() -> dict[str, Any]:
    """The CustomResourceDefinition, for ``apiextensions.k8s.io/v1``."""
    columns = [{"name": name, "type": "string", "jsonPath": path, "description": text} for name, path, text in _COLUMNS]
    age = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
    wide = [
        {"name": name, "type": "string", "jsonPath": path, "description": text, "priority": 1}
        for name, path, text in _WIDE
    ]
    schema = {
        "description": "A domain: workloads that share a bottleneck, whom to protect, and whose limit may move.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": build_schema(Domain),
            "status": build_schema(ResourceStatus),
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{PLURAL}.{GROUP}",
            "labels": {"app.kubernetes.io/part-of": "sluice"},
            # To remove the definition would remove every resource.
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["bwd"],
            },
            "versions": [
                {
                    "name": API_VERSION.partition("/")[2],
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [*columns, age, *wide],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def build_schema(kind: type[Struct]) -> dict[str, Any]:
    """The structural schema of a type, in the form that a CustomResourceDefinition takes."""
    fields = tuple(fields_of(kind))
    required = [camel(field.name) for field in fields if field.default is None]
    found: dict[str, Any] = {
        "description": inspect.cleandoc(kind.__doc__ or "").replace("``", ""),
        "type": "object",
        **({"required": required} if required else {}),
        "properties": {camel(field.name): _property(kind, field) for field in fields},
    }
    rules = [{"rule": rule.cel, "message": rule.message} for rule in RULES.get(kind, ())]
    return found | ({"x-kubernetes-validations": rules} if rules else {})


def _property(kind: type[Struct], field: Field) -> dict[str, Any]:
    """What a field may hold, and its default."""
    word = field.kind.removeprefix("list of ").removeprefix("mapping to ")
    found = build_schema(field.section) if field.section is not None else dict(_SHAPES[word])
    if not issubclass(kind, Settings):
        found.pop("maxLength", None)
    if field.choices:
        found["enum"] = list(field.choices)
    if word in ("integer", "number"):
        bounds = {"minimum": field.minimum, "maximum": field.maximum}
        found |= {name: json.loads(bound) for name, bound in bounds.items() if bound is not None}
    if word in _KIND_RULES:
        found["x-kubernetes-validations"] = [{"rule": _KIND_RULES[word].cel, "message": _KIND_RULES[word].message}]
    if field.kind.startswith("list"):
        found = {"type": "array", "items": found, "maxItems": _MOST_ITEMS}
    elif field.kind.startswith("mapping"):
        found = {"type": "object", "additionalProperties": found}
    more = _MORE.get((kind, field.name), {})
    more = more | {key: found[key] | more[key] for key in ("items", "additionalProperties") if key in more}
    own = " By default the resource's own." if (kind, field.name) in OWN_NAMESPACE else ""
    found = {"description": f"{field.meaning.replace(' fail_safe', ' failSafe')}{own}", **found, **more}
    if found.get("x-kubernetes-preserve-unknown-fields"):
        found.pop("additionalProperties", None)
    if (kind, field.name) in _KEYS:
        found |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(_KEYS[kind, field.name])}
    default = _default(kind, field)
    return found if default is None else found | {"default": default}


def _default(kind: type[Struct], field: Field) -> Any:
    """A field's default as JSON; None where it has none, or none that the API server should fill in."""
    if field.default in (None, "none") or (kind, field.name) in OWN_NAMESPACE or not issubclass(kind, Settings):
        return None
    if field.section is not None:
        return {} if field.kind == "section" else None
    if field.kind in ("integer", "number", "true or false"):
        return json.loads(str(field.default))
    return field.default if field.kind in ("text", "choice", "rate", "duration") else None
