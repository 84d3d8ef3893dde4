"""Ranges are declared once: they are checked, documented and published from one place."""

import json
import math
from typing import Annotated, Any

import jsonschema
import pytest
import yaml
from msgspec import Struct, field

from schemas import generate
from schemas.config import Config
from schemas.domain import Shield
from schemas.reference import Field, describe, docstrings
from schemas.settings import Settings, between
from schemas.units import Duration
from services.control import POLICIES

MS = 10**6


class Inner(Settings, frozen=True):
    """A section."""

    share: Annotated[float, between(0, 1)] = 0.5
    """A share."""


class Outer(Settings, frozen=True):
    """Settings with each kind of range."""

    required: Annotated[int, between(3, unit="bytes")]
    """Open above."""
    wait: Annotated[Duration, between(Duration(MS), Duration(9 * MS))] = Duration(2 * MS)
    maybe: Annotated[int | None, between(1, 2)] = None
    inner: Inner = field(default_factory=Inner)
    names: tuple[str, ...] = ("a",)


def sections(kind: type[Struct], path: str = "") -> list[tuple[str, Field]]:
    """Every field of a struct and of its sections, with its path."""
    found = []
    for one in describe(kind):
        found.append((f"{path}{one.name}", one))
        if one.section is not None:
            found += sections(one.section, f"{path}{one.name}.")
    return found


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"required": 2}, "required 2 is below 3"),
        ({"required": 3, "wait": Duration(10 * MS)}, "wait 10ms is outside 1ms to 9ms"),
        ({"required": 3, "maybe": 3}, "maybe 3 is outside 1 to 2"),
    ],
)
def test_a_value_outside_its_range_is_refused(settings: dict[str, Any], message: str) -> None:
    """In code as in a file, with the range in the file's notation."""
    with pytest.raises(ValueError, match=message):
        Outer(**settings)


def test_no_number_is_outside_of_every_range() -> None:
    """YAML can contain NaN, which compares as false with everything."""
    with pytest.raises(ValueError, match="share nan is outside 0 to 1"):
        Inner(math.nan)


def test_bounds_belong_to_the_range() -> None:
    """Both ends are allowed, and so is None for an optional field."""
    for share in (0, 1):
        assert Inner(share).share == share
    assert Outer(3, maybe=None).maybe is None


def test_a_description_matches_the_declaration() -> None:
    """Type, unit, default, range and meaning, each as text."""
    required, wait, maybe, inner, names = describe(Outer)
    assert (required.kind, required.unit, required.default, required.minimum, required.maximum, required.meaning) == (
        "integer", "bytes", None, "3", None, "Open above.",
    )  # fmt: skip
    assert (wait.kind, wait.default, wait.minimum, wait.maximum) == ("duration", "2ms", "1ms", "9ms")
    assert (maybe.kind, maybe.default, maybe.maximum) == ("integer", "none", "2")
    assert (inner.kind, inner.section) == ("section", Inner)
    assert (names.kind, names.default, names.section) == ("list of text", "[a]", None)


@pytest.mark.parametrize("kind", [Config, *(one.parameters_type for one in POLICIES.values())])
def test_every_setting_has_a_meaning(kind: type[Struct]) -> None:
    """In the configuration file and in every policy."""
    assert [path for path, one in sections(kind) if not one.meaning] == []
    if kind is not Config:
        assert [path for path, one in sections(kind) if one.kind in ("number", "integer") and not one.minimum] == []


def test_meanings_are_inherited() -> None:
    """A policy may extend another's parameters."""

    class More(Shield, frozen=True):
        """More of the same."""

        extra: int = 0
        """One more."""

    assert docstrings(More) == docstrings(Shield) | {"extra": "One more."}


def test_the_committed_config_schema_is_the_types() -> None:
    """The schema file matches the types; ``make schemas`` writes it."""
    committed = (generate.HOME / generate.CONFIG_FILE).read_text(encoding="utf-8")
    assert committed == generate.text(generate.config_schema())
    jsonschema.Draft202012Validator.check_schema(json.loads(committed))


GOOD = """
domains:
- name: line
  critical: [{workload: robot, p95: 1m30s}]
  targets: [{deployment: upload, min: 5M, max: 2.5Gi, fail_safe: 800k}]
  shield: {cut: 0.5}
  capacity: null
"""


def test_the_config_schema_knows_right_from_wrong() -> None:
    """An editor uses it for notation of units, ranges, choices and names."""
    validator = jsonschema.Draft202012Validator(generate.config_schema())
    assert validator.is_valid(yaml.safe_load(GOOD))
    for right, wrong in (
        ("5M", "5MB"), ("1m30s", "90"), ("0.5", "2"), ("capacity", "capacties"), ("name: line", "nme: line"),
        ("fail_safe: 800k", "fail_safe: 800k, scope: pod"),
    ):  # fmt: skip
        assert not validator.is_valid(yaml.safe_load(GOOD.replace(right, wrong))), wrong
