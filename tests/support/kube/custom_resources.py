"""What an API server does with a custom resource before it stores it: defaults, schema, and rules in CEL.

The rules are evaluated by cel-python, with the functions that Kubernetes adds to CEL.  An API server before 1.25 drops
them: ``with_rules=False``.
"""

import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import celpy
import jsonschema
from celpy import celtypes
from celpy.adapter import json_to_cel


def _find(text: celtypes.StringType, pattern: celtypes.StringType) -> celtypes.StringType:
    match = re.search(str(pattern), str(text))
    return celtypes.StringType(match[0] if match else "")


def _sum(items: Any) -> celtypes.IntType:
    return celtypes.IntType(sum(map(int, items)))


@cache
def _program(rule: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule), functions={"find": _find, "sum": _sum})


RESERVED = frozenset(
    word
    for line in (
        "true false null in as break const continue else for function",
        "if import let loop package namespace return",
    )
    for word in line.split()
)
"""What Kubernetes' documentation lists: a field of such a name is ``__name__`` in a rule."""


def find_broken_defaults(schema: dict[str, Any]) -> Iterator[str]:
    """Rules that do not hold for a default as it stands, without the defaults within it: the definition is refused."""
    if "default" in schema:
        yield from _broken_rules(schema, schema["default"])
    for inner in (*schema.get("properties", {}).values(), *(schema[key] for key in ("items",) if key in schema)):
        yield from find_broken_defaults(inner)


def admit(schema: dict[str, Any], value: Any, *, with_rules: bool = True) -> tuple[Any, list[str]]:
    """The value as it would be stored, and why it is refused; no reasons: it is accepted."""
    stored = _fill_in(schema, deepcopy(value))
    reasons = [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(stored)]
    if with_rules and not reasons:
        reasons = list(_broken_rules(schema, stored))
    return stored, reasons


def _fill_in(schema: dict[str, Any], value: Any) -> Any:
    """Set defaults and drop unknown fields."""
    if isinstance(value, list):
        return [_fill_in(schema.get("items", {}), item) for item in value]
    properties = schema.get("properties")
    if not isinstance(value, dict) or properties is None:
        return value
    kept = {key: item for key, item in value.items() if key in properties}
    for key, inner in properties.items():
        if key not in kept and "default" in inner:
            kept[key] = deepcopy(inner["default"])
    return {key: _fill_in(properties[key], item) for key, item in kept.items()}


def _escape(schema: dict[str, Any], value: Any) -> Any:
    if isinstance(value, list):
        return [_escape(schema.get("items", {}), item) for item in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    properties = schema["properties"]
    return {
        f"__{key}__" if key in RESERVED else key: _escape(properties.get(key, {}), item) for key, item in value.items()
    }


def _broken_rules(schema: dict[str, Any], value: Any) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if not _program(rule["rule"]).evaluate({"self": json_to_cel(_escape(schema, value))}):
            yield rule["message"]
    if isinstance(value, list):
        for item in value:
            yield from _broken_rules(schema["items"], item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _broken_rules(schema.get("properties", {}).get(key, {}), item)
