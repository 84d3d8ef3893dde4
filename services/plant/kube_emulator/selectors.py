"""The emulator's label and field selectors, as they stand in a query string."""

import re
from collections.abc import Callable, Mapping

from services.plant.kube_emulator.errors import StatusError
from services.plant.kube_emulator.store import Tree

Test = Callable[[Mapping[str, str]], bool]

_SET = re.compile(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)")
_EQUAL = re.compile(r"([^=!\s]+)\s*(==|=|!=)\s*(\S*)")
_WORD = re.compile(r"(!?)([^=!\s()]+)")


def build_filter(params: Mapping[str, str]) -> Callable[[Tree], bool]:
    """A test for objects from ``labelSelector`` and ``fieldSelector``.

    Raises:
        StatusError: a selector cannot be read.
    """
    labels = [_requirement(part) for part in _parts(params.get("labelSelector", ""))]
    fields = [_requirement(part) for part in _parts(params.get("fieldSelector", ""))]

    def matches(tree: Tree) -> bool:
        own = tree["metadata"].get("labels") or {}
        return all(test(own) for test in labels) and (not fields or all(test(_fields(tree)) for test in fields))

    return matches


def _fields(tree: Tree) -> dict[str, str]:
    return {
        "metadata.name": tree["metadata"]["name"],
        "metadata.namespace": tree["metadata"].get("namespace", ""),
        "spec.nodeName": (tree.get("spec") or {}).get("nodeName", ""),
        "status.phase": (tree.get("status") or {}).get("phase", ""),
        "involvedObject.name": (tree.get("involvedObject") or {}).get("name", ""),
        "involvedObject.uid": (tree.get("involvedObject") or {}).get("uid", ""),
    }


def _parts(selector: str) -> list[str]:
    """Split at commas that stand outside of parentheses."""
    return [part.strip() for part in re.split(r",(?![^(]*\))", selector) if part.strip()]


def _requirement(part: str) -> Test:
    if match := _SET.fullmatch(part):
        name, operator, values = match[1], match[2], {value.strip() for value in match[3].split(",")}
        if operator == "in":
            return lambda labels: labels.get(name) in values
        return lambda labels: labels.get(name) not in values
    if match := _EQUAL.fullmatch(part):
        name, operator, value = match[1], match[2], match[3]
        if operator == "!=":
            return lambda labels: labels.get(name) != value
        return lambda labels: labels.get(name) == value
    if match := _WORD.fullmatch(part):
        absent, name = match[1], match[2]
        return lambda labels: (name not in labels) if absent else (name in labels)
    raise StatusError(400, "BadRequest", f"unable to parse requirement: {part!r}")
