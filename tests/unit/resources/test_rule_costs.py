"""What the custom resource's rules in CEL cost at most, as an API server estimates it from the definition."""

from copy import deepcopy
from typing import Any

import pytest

from schemas.resource import build_definition
from tests.support.kube.rule_costs import MOST_IN_ALL, MOST_PER_OBJECT, MOST_PER_RULE, estimate, estimate_costs

(VERSION,) = build_definition()["spec"]["versions"]
SCHEMA: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]
NUMBER = {"type": "number"}
NUMBERS = {"type": "array", "maxItems": 10, "items": NUMBER}


def text(longest: int) -> dict[str, Any]:
    """The schema of a text."""
    return {"type": "string", "maxLength": longest}


@pytest.mark.parametrize(
    ("rule", "schema", "cost"),
    [
        ("self.all(x, true)", NUMBERS, 32),
        ("self.all(x, self.all(y, true))", NUMBERS, 352),
        ("self.all(x, self.all(y, self.all(z, true)))", NUMBERS, 3552),
        ("self.all(x, x.y == 25.2)", {**NUMBERS, "maxItems": 12, "items": {"properties": {"y": NUMBER}}}, 74),
        ("self.matches('x')", text(50), 22),
        ("self.matches('')", text(100), 1),
        ("''.matches('(((((((((())))))))))[0-9]')", text(10), 7),
        ("self.find('[0-9]+') == ''", text(10), 11),
        ("self == 'x'", text(0), 1),
    ],
)
def test_the_estimate_is_kubernetes_own(rule: str, schema: dict[str, Any], cost: int) -> None:
    """The costs are those of ``TestCostEstimation`` in k8s.io/apiextensions-apiserver, pkg/apiserver/schema/cel."""
    assert estimate(rule, schema) == cost


def test_the_definition_and_the_largest_resource_are_within_the_budgets() -> None:
    """Of each rule, of all, and of what the API server evaluates for one resource."""
    costs = dict(estimate_costs(SCHEMA))
    assert len(costs) >= 30
    assert max(costs.values()) < MOST_PER_RULE
    assert sum(costs.values()) < min(MOST_IN_ALL, MOST_PER_OBJECT)
    print(f"{len(costs)} rules, {max(costs.values()):,} the most, {sum(costs.values()):,} in all")


@pytest.mark.parametrize(
    ("path", "bound"),
    [
        (("targets",), "maxItems"),
        (("critical",), "maxItems"),
        (("targets", "items", "properties", "selector", "properties", "matchLabels"), "maxProperties"),
        (("targets", "items", "properties", "name"), "maxLength"),
        (("targets", "items", "properties", "min"), "maxLength"),
    ],
)
def test_without_a_bound_the_definition_would_be_refused(path: tuple[str, ...], bound: str) -> None:
    """The estimate sees every kind of bound that is missing."""
    schema = deepcopy(SCHEMA)
    at = schema["properties"]["spec"]["properties"]
    for step in path:
        at = at[step]
    del at[bound]
    assert max(cost for _, cost in estimate_costs(schema)) > MOST_PER_RULE
