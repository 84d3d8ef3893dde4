"""The custom resource's schema: generated, structural, and of the same opinion as the types."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from schemas.resource import build_definition
from services.resources import crd
from services.resources.manifest import InvalidResource, read_domain
from tests.support.kube.custom_resources import RESERVED, admit, find_broken_defaults

(VERSION,) = build_definition()["spec"]["versions"]
SPEC: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]["properties"]["spec"]
STATUS: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]["properties"]["status"]
BOUNDS = {"min": "5M", "max": "900M", "failSafe": "20M"}
BATCH = {"matchLabels": {"tier": "batch"}}
GOOD: dict[str, Any] = {
    "critical": [{"workload": "robot-control"}],
    "targets": [{"deployment": "upload", **BOUNDS}],
}


def change(path: str, value: Any) -> dict[str, Any]:
    """A good spec with one change, at a path such as ``targets.0.min``."""
    spec = deepcopy(GOOD)
    at: Any = spec
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in steps:
        at = at.setdefault(step, {}) if isinstance(step, str) else at[step]
    at[last] = value
    return spec


@pytest.mark.parametrize("path", crd.render(), ids=lambda path: path.name)
def test_the_committed_files_are_the_types(path: Path) -> None:
    """``make schemas`` was run after the last change of the types."""
    assert path.read_text(encoding="utf-8") == crd.render()[path]


def walk(schema: dict[str, Any], path: str) -> list[tuple[str, dict[str, Any]]]:
    """Every part of a schema, by its path."""
    found = [(path, schema)]
    for name, inner in schema.get("properties", {}).items():
        found += walk(inner, f"{path}.{name}")
    return found + (walk(schema["items"], f"{path}[]") if "items" in schema else [])


def test_rules_hold_on_each_default_as_it_is_written() -> None:
    """An API server checks them without the defaults within, and refuses the definition where one does not hold."""
    assert not list(find_broken_defaults({"properties": {"spec": SPEC, "status": STATUS}}))


def test_no_rule_names_a_field_by_a_reserved_word() -> None:
    """An API server compiles no such rule, and refuses the definition: ``__namespace__`` is the field's name there."""
    rules = [rule["rule"] for _, part in walk(SPEC, "spec") for rule in part.get("x-kubernetes-validations", ())]
    assert len(rules) > 20
    assert [rule for rule in rules if re.search(rf"\.(?:{'|'.join(RESERVED)})\b", rule)] == []


@pytest.mark.parametrize(("name", "schema"), [("spec", SPEC), ("status", STATUS)])
def test_the_schema_is_structural_and_described(name: str, schema: dict[str, Any]) -> None:
    """Every part has a type and none refers to another; every field has words; what rules look at is bounded."""
    parts = walk(schema, name)
    assert len(parts) > 10
    for path, part in parts:
        assert part["type"] in {"object", "array", "string", "integer", "number", "boolean"}, path
        assert not {"$ref", "anyOf"} & part.keys(), path
        assert not {"properties", "additionalProperties"} <= part.keys(), path
        assert path.endswith("[]") or part.get("description"), path
        if name == "spec" and part["type"] == "string":
            assert "maxLength" in part or "enum" in part, path
        if name == "spec" and part["type"] == "array":
            assert "maxItems" in part, path


def test_what_the_file_fills_in_the_api_server_fills_in() -> None:
    """A resource without optional fields is stored with the types' defaults, and reads as the file's domain does."""
    stored, reasons = admit(SPEC, GOOD)
    assert reasons == []
    assert stored["shield"]["cut"] == 0.5
    assert stored["deadMan"] == "5s"
    assert stored["targets"][0]["scope"] == "aggregate"
    assert "namespace" not in stored["targets"][0]
    assert read_domain("factory", "line", stored) == read_domain("factory", "line", GOOD)


@pytest.mark.parametrize(
    "naming",
    [
        {"kind": "StatefulSet", "name": "db"},
        {"kind": "Kafka", "apiVersion": "kafka.strimzi.io/v1beta2", "name": "log"},
        {"selector": BATCH, "name": "batch"},
        {"selector": {"matchExpressions": [{"key": "tier", "operator": "Exists"}]}, "name": "batch"},
    ],
)
def test_any_workload_can_be_named(naming: dict[str, Any]) -> None:
    """By kind and name, or by a label selector."""
    spec = change("targets.0", {**naming, **BOUNDS})
    assert admit(SPEC, spec)[1] == []
    assert read_domain("factory", "line", spec).targets[0].namespace == "factory"


REFUSED: list[tuple[str, Any, bool, str]] = [
    ("targets.0.failSafe", "1G", True, "expected min <= failSafe <= max"),
    ("targets.0.failSafe", "1M", True, "expected min <= failSafe <= max"),
    ("targets.0.min", "10", True, "outside the rates"),
    ("targets.0.max", "2T", True, "outside the rates"),
    ("targets.0.min", "banana", False, "does not match"),
    ("targets.0.min", 5, False, "is not of type"),
    ("targets.0.weight", 0, False, "minimum"),
    ("targets.0.scope", "each", False, "is not one of"),
    ("targets.0.deployment", "a/b", False, "does not match"),
    ("targets.0.kind", "StatefulSet", True, "exactly one of deployment, kind, selector"),
    ("targets.0.name", "x", True, "deployment is a name already"),
    ("targets.0", {**BOUNDS, "kind": "StatefulSet"}, True, "need a name beside"),
    ("targets.0", {**BOUNDS, "kind": "Pod", "name": "a"}, True, "this kind needs an apiVersion"),
    ("targets.0", {**BOUNDS, "kind": "Pod", "apiVersion": "v1", "name": "a"}, True, "a Pod cannot be named"),
    ("targets.0", {**BOUNDS, "kind": "Kafka", "name": "a"}, True, "this kind needs an apiVersion"),
    ("targets.0", {**BOUNDS, "kind": "kafka", "apiVersion": "a/v1", "name": "a"}, False, "does not match"),
    ("targets.0", {**BOUNDS, "name": "a"}, True, "exactly one of"),
    ("targets.0", {**BOUNDS, "name": "a", "selector": {}}, True, "it would select every Pod"),
    ("targets.0", {**BOUNDS, "name": "A.b", "selector": BATCH}, True, "a selector's name"),
    ("targets.0", {**BOUNDS, "name": "a", "selector": {"matchLabels": {"tier!": "x"}}}, True, "no label"),
    (
        "targets.0",
        {**BOUNDS, "name": "a", "selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
        True,
        "need at least one value",
    ),
    ("targets.0.apiVersion", "apps/v1", True, "apiVersion needs a kind"),
    ("targets.0.namespaces", ["factory"], True, "namespaces needs a selector"),
    ("critical.0.apiVersion", "apps/v1", True, "apiVersion needs a kind"),
    ("critical.0.kind", "Kafka", True, "this kind needs an apiVersion"),
    ("targets", [], True, "needs at least one target, or enrol"),
    ("enrol", {**BOUNDS, "failSafe": "1M"}, True, "expected min <= failSafe <= max"),
    ("enrol", {**BOUNDS, "kinds": ["Pod"]}, False, "is not one of"),
    ("enrol", {**BOUNDS, "kinds": []}, False, "non-empty"),
    ("enrol", {"min": "5M"}, False, "required"),
    ("targets", GOOD["targets"] * 2, True, "target named twice"),
    ("critical", [], False, "non-empty"),
    ("critical", GOOD["critical"] * 2, True, "critical workload named twice"),
    ("critical.0.p95", "0s", True, "above zero"),
    ("critical.0.p95", "2", False, "does not match"),
    ("critical.0", {}, False, "required"),
    ("shield.deadband", 0.3, False, "maximum"),
    ("shield", {"deadband": 0.02, "risePerSecond": 0.01}, True, "deadband is above risePerSecond"),
    ("shadow", ["learned"], True, "policy named twice"),
    ("capacity", "10M", True, "add up to more than the capacity"),
    ("minObservations", 0, False, "minimum"),
]


@pytest.mark.parametrize(("path", "value", "by_rule", "why"), REFUSED)
def test_what_is_invalid_is_refused_by_both(path: str, value: Any, by_rule: bool, why: str) -> None:
    """The API server names the reason, and Sluice refuses it as well: on a server without CEL it is the only one."""
    spec = change(path, value)
    _, reasons = admit(SPEC, spec)
    assert any(why in reason for reason in reasons), reasons
    assert (admit(SPEC, spec, with_rules=False)[1] == []) is by_rule
    with pytest.raises(InvalidResource):
        read_domain("factory", "line", spec)


NUMBERS = st.sampled_from(["0", "1", "5", "20", "999", "1000", "1.5", "0.001", "1000.5"])
RATES = st.builds("".join, st.tuples(NUMBERS, st.sampled_from(["", "k", "M", "G", "T", "Ki", "Mi"])))
DURATIONS = st.sampled_from(["0s", "1us", "2ms", "1m30s", "1.5h", "0.0s"])
NAMES = st.sampled_from(["a", "b", "line-1", "a.b", "a/b", "", "a b"])
NAMESPACES = st.sampled_from([None, "factory"])
SHARES = st.sampled_from([0.0, 0.001, 0.05, 0.2, 0.5, 1.0])


def without_none(tree: dict[str, Any]) -> dict[str, Any]:
    """Leave out absent fields."""
    return {key: value for key, value in tree.items() if value is not None}


NAMING = st.one_of(
    st.fixed_dictionaries({"deployment": NAMES}),
    st.fixed_dictionaries({"kind": st.sampled_from(["StatefulSet", "Kafka", "Pod"]), "name": NAMES}),
    st.fixed_dictionaries({"selector": st.sampled_from([BATCH, {}]), "name": NAMES}),
    st.fixed_dictionaries({}, optional={"deployment": NAMES, "kind": st.just("Job"), "name": NAMES}),
)
BOUNDED = st.fixed_dictionaries({"min": RATES, "max": RATES, "failSafe": RATES, "namespace": NAMESPACES})
TARGETS = st.builds(lambda naming, bounds: without_none(naming | bounds), NAMING, BOUNDED)
CRITICAL = st.fixed_dictionaries({"workload": NAMES, "p95": DURATIONS, "namespace": NAMESPACES}).map(without_none)
SPECS = st.fixed_dictionaries(
    {"critical": st.lists(CRITICAL, max_size=2), "targets": st.lists(TARGETS, max_size=2)},
    optional={
        "capacity": RATES,
        "deadMan": DURATIONS,
        "policy": st.sampled_from(["learned", "aimd"]),
        "shadow": st.lists(st.sampled_from(["learned", "aimd", "static"]), max_size=2),
        "shield": st.fixed_dictionaries({"deadband": SHARES, "risePerSecond": SHARES}),
        "minObservations": st.integers(0, 2),
    },
)


def is_accepted(spec: dict[str, Any]) -> bool:
    """Whether the types take it."""
    try:
        read_domain("factory", "line", spec)
    except InvalidResource:
        return False
    return True


def has_named_own_namespace(spec: dict[str, Any]) -> bool:
    """Whether one item names the resource's namespace and another leaves it out: only Sluice knows it is the same."""
    return any(len({one.get("namespace") for one in spec[key]}) > 1 for key in ("critical", "targets"))


@settings(max_examples=40, phases=[Phase.generate])
@given(SPECS)
def test_schema_and_types_agree(spec: dict[str, Any]) -> None:
    """What one refuses the other does."""
    shadow = spec.get("shadow", [])
    # A list of type `set` takes nothing twice, which is no JSON Schema.
    reasons = admit(SPEC, spec)[1] or ["shadow"] * (len(set(shadow)) < len(shadow))
    if reasons or not has_named_own_namespace(spec):
        assert (reasons == []) is is_accepted(spec), reasons


@pytest.mark.parametrize(
    ("low", "fail_safe", "fits"),
    [
        ("999", "1k", False),
        ("1.0009k", "1k", True),
        ("1Mi", "1048k", True),
        ("1049k", "1Mi", False),
        ("1Mi", "1.1M", True),
    ],
)
def test_rules_and_types_read_rates_alike(low: str, fail_safe: str, fits: bool) -> None:
    """The border is the same to the kbit/s, also with fractions and binary suffixes."""
    spec = change("targets.0", {"deployment": "a", "min": low, "failSafe": fail_safe, "max": "1G"})
    assert (admit(SPEC, spec)[1] == []) is is_accepted(spec) is fits
