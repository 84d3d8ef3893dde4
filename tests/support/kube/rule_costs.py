"""What an API server estimates a rule in CEL to cost at most, before it accepts a custom resource's definition.

The figures are those of cel-go's checker and of Kubernetes' own functions: an access, a call or a comparison costs 1, a
list 10, a map 30, a tenth of the bytes of a text that is gone through, and every loop is as long as the schema lets its
list be.  A text of at most n characters has 4 n bytes.  What has no bound is as long as a request, 3 MiB.
"""

from collections.abc import Callable, Iterator, Mapping
from math import ceil
from typing import Any

import celpy
from lark import Token, Tree

MOST_PER_RULE, MOST_IN_ALL = 10_000_000, 100_000_000
"""A definition with a higher estimate is refused."""
MOST_PER_OBJECT = 10_000_000
"""An object whose rules cost more when they are evaluated is refused."""
_REQUEST, _LONGEST_LABEL = 3 * 1024 * 1024, 317
_SCALAR = {"bytes": 1}
_LOOPS = {"all": (0, 3, 1), "exists_one": (0, 2, 2), "map": (10, 12, 1)}
"""Of each macro, the costs before the loop, of a turn beside its predicate, and after it."""
_CALLS = frozenset({"int", "double", "duration", "size"})

Part = Mapping[str, Any]
"""A schema, or ``bytes`` and ``items`` of what an expression makes."""
Names = Mapping[str, Part]
Costed = tuple[int, Part]
"""The cost of an expression, and what it makes."""


def estimate_costs(schema: Part, path: str = "self", times: int = 1) -> Iterator[tuple[str, int]]:
    """Each rule below a schema, with its place, and the most that it costs for all places of one object."""
    for number, rule in enumerate(schema.get("x-kubernetes-validations", ())):
        yield f"{path} {number}", times * estimate(rule["rule"], schema)
    for name, inner in schema.get("properties", {}).items():
        yield from estimate_costs(inner, f"{path}.{name}", times)
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from estimate_costs(schema[key], f"{path}[]", times * size(schema))


def estimate(rule: str, schema: Part) -> int:
    """The most that one evaluation costs, where ``self`` has that schema."""
    return _visit(celpy.Environment().compile(rule), {"self": schema})[0]


def size(part: Part) -> int:
    """The most bytes, items or entries."""
    if "bytes" in part:
        return int(part["bytes"])
    if part["type"] == "string":
        longest = max((len(one) for one in part.get("enum", ())), default=_REQUEST)
        return 4 * int(part["maxLength"]) if "maxLength" in part else longest
    bound = {"array": "maxItems", "object": "maxProperties"}.get(part["type"])
    return 1 if bound is None else int(part.get(bound, _REQUEST))


def _visit(tree: Tree[Token], names: Names) -> Costed:
    return _NODES.get(str(tree.data), _visit_operator)(tree, names)


def _visit_all(tree: Tree[Token], names: Names) -> Iterator[Costed]:
    for one in tree.children:
        if isinstance(one, Tree) and one.data in ("exprlist", "mapinits"):
            yield from _visit_all(one, names)
        elif isinstance(one, Tree):
            yield _visit(one, names)


def _visit_literal(tree: Tree[Token], _names: Names) -> Costed:
    text = str(tree.children[0])
    return 0, {"bytes": len(text) - 2} if text[0] in "'\"" else _SCALAR


def _visit_function(tree: Tree[Token], names: Names) -> Costed:
    name, words = tree.children
    assert isinstance(words, Tree)
    ((cost, _),) = _visit_all(words, names)
    if name == "has":
        return cost - 1, _SCALAR  # of the field itself nothing is read
    assert name in _CALLS, name
    return cost + 1, _SCALAR


def _visit_list(tree: Tree[Token], names: Names) -> Costed:
    found = list(_visit_all(tree, names))
    widest = max((made for _, made in found), key=size, default=_SCALAR)
    return 10 + sum(cost for cost, _ in found), {"bytes": len(found), "items": widest}


def _visit_map(tree: Tree[Token], names: Names) -> Costed:
    found = list(_visit_all(tree, names))
    widest = max((made for _, made in found[1::2]), key=size)
    return 30 + sum(cost for cost, _ in found), {"bytes": len(found) // 2, "items": widest}


def _visit_operator(tree: Tree[Token], names: Names) -> Costed:
    """A choice, a comparison, arithmetic or logic; or a node that holds one other."""
    found = list(_visit_all(tree, names))
    cost, made = sum(one for one, _ in found), [one for _, one in found]
    if not found:
        return 0, _SCALAR  # the operator of another node
    if len(found) == 1:
        return found[0]
    if tree.data == "expr":
        return found[0][0] + max(found[1][0], found[2][0]), max(made[1:], key=size)
    if tree.data == "relation":
        operator = tree.children[0]
        is_in = isinstance(operator, Tree) and operator.data == "relation_in"
        return cost + (size(made[1]) if is_in else ceil(min(map(size, made)) / 10)), _SCALAR
    assert tree.data in ("conditionalor", "conditionaland") or {size(one) for one in made} == {1}, "texts are added"
    return cost + (0 if str(tree.data).startswith("conditional") else 1), _SCALAR


def _visit_field(tree: Tree[Token], names: Names) -> Costed:
    cost, part = _visit_target(tree, names)
    name, fields = str(tree.children[1]), part["properties"]
    return cost + 1, fields[name if name in fields else name.removeprefix("__").removesuffix("__")]


def _visit_index(tree: Tree[Token], names: Names) -> Costed:
    (cost, part), (index, _) = _visit_all(tree, names)
    return cost + index + 1, part.get("items", part.get("additionalProperties", _SCALAR))


def _visit_method(tree: Tree[Token], names: Names) -> Costed:
    """A macro's loop, or a call on something."""
    cost, part = _visit_target(tree, names)
    name = str(tree.children[1])
    if name == "sum":
        return cost + size(part), _SCALAR
    words = tree.children[2]
    assert isinstance(words, Tree)
    if name not in _LOOPS:
        assert name in ("find", "matches"), name
        ((pattern, regex),) = _visit_all(words, names)
        found = {"bytes": size(part)} if name == "find" else _SCALAR
        return cost + pattern + ceil((size(part) + 1) / 10) * ceil(size(regex) / 4), found
    variable, body = words.children
    assert isinstance(variable, Tree)
    assert isinstance(body, Tree)
    # Of a map the keys are gone through.  An API server's estimate takes them for empty; what it evaluates does not.
    item = {"bytes": _LONGEST_LABEL} if "additionalProperties" in part else part.get("items", _SCALAR)
    each, made = _visit(body, {**names, str(next(variable.scan_values(lambda _: True))): item})
    before, turn, after = _LOOPS[name]
    whole = {"bytes": size(part), "items": made} if name == "map" else _SCALAR
    return cost + before + size(part) * (turn + each) + after, whole


def _visit_target(tree: Tree[Token], names: Names) -> Costed:
    target = tree.children[0]
    assert isinstance(target, Tree)
    return _visit(target, names)


_NODES: dict[str, Callable[[Tree[Token], Names], Costed]] = {
    "literal": _visit_literal,
    "ident": lambda tree, names: (1, names[str(tree.children[0])]),
    "ident_arg": _visit_function,
    "list_lit": _visit_list,
    "map_lit": _visit_map,
    "member_dot": _visit_field,
    "member_dot_arg": _visit_method,
    "member_index": _visit_index,
}
