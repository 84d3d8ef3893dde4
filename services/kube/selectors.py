"""Label selectors: as they are in an object, in a request's query, and as a test on labels.  Pure."""

import re
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct, field

_SET = re.compile(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)")
_EQUALITY = re.compile(r"([^=!\s]+)\s*(==|=|!=)\s*(\S*)")
_EXISTENCE = re.compile(r"(!?)([^=!\s()]+)")


class Requirement(Struct, frozen=True):
    """One expression of a label selector."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels meet it; an absent label meets ``NotIn``."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None

    def query(self) -> str:
        """The form in a request."""
        values = ",".join(self.values)
        match self.operator:
            case "In":
                return f"{self.key} in ({values})"
            case "NotIn":
                return f"{self.key} notin ({values})"
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"


class Selector(Struct, frozen=True, rename="camel"):
    """A selector in an object: which Pods belong to a workload, which endpoints a policy is about."""

    match_labels: dict[str, str] = field(default_factory=dict)
    match_expressions: tuple[Requirement, ...] = ()

    def query(self) -> str:
        """The form in a request."""
        equalities = [f"{key}={value}" for key, value in self.match_labels.items()]
        return ",".join([*equalities, *(one.query() for one in self.match_expressions)])

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether it selects an object with these labels."""
        is_equal = all(labels.get(key) == value for key, value in self.match_labels.items())
        return is_equal and all(one.matches(labels) for one in self.match_expressions)


def parse_selector(query: str) -> list[Requirement]:
    """Read a label or field selector from a request; all requirements must be met.

    Raises:
        ValueError: a part of it is no requirement.
    """
    found: list[Requirement] = []
    # Commas inside of parentheses separate values, not requirements.
    for part in re.split(r",(?![^(]*\))", query):
        text = part.strip()
        if match := _SET.fullmatch(text):
            values = tuple(value.strip() for value in match[3].split(","))
            found.append(Requirement(match[1], "In" if match[2] == "in" else "NotIn", values))
        elif match := _EQUALITY.fullmatch(text):
            found.append(Requirement(match[1], "NotIn" if match[2] == "!=" else "In", (match[3],)))
        elif match := _EXISTENCE.fullmatch(text):
            found.append(Requirement(match[2], "DoesNotExist" if match[1] else "Exists"))
        elif text:
            raise ValueError(f"unable to parse requirement: {text!r}")
    return found
