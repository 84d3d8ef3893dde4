"""Definitions that cannot be used, whatever they raise: they are refused with the reason, and nothing else stops."""

from typing import Any

import pytest
from msgspec import Struct, structs

from schemas.definition import Definition, DefinitionSource
from schemas.domain import Domain
from schemas.messages import encode
from schemas.settings import Settings
from schemas.units import Duration
from services.bus.envelope import RawMessage
from services.bus.subjects import Subjects
from services.control import POLICIES
from services.definitions.definition_set import DefinitionSet
from services.definitions.follower import Follower
from services.resources.manifest import InvalidResource, read_domain
from tests.support.kube.objects import LINE

ERRORS = (
    TypeError("no parameter"),
    OverflowError("too large"),
    KeyError("gain"),
    RecursionError(),
    ZeroDivisionError(),
)
SPEC: dict[str, Any] = {
    "critical": [{"workload": "robot"}],
    "targets": [{"deployment": "app", "min": "5M", "max": "80M", "failSafe": "10M"}],
}


class Broken:
    """A policy of another package that cannot be made."""

    version = "broken/1"
    memory_type = Struct
    parameters_type = Settings
    error: Exception = ValueError()

    def __init__(self, _domain: Domain) -> None:
        """Fail."""
        raise self.error

    def propose(self, *_: Any) -> None:
        """Never asked."""


DOMAIN = structs.replace(LINE, policy=f"{__name__}:Broken")


class Bus:
    """Only its subjects."""

    subjects = Subjects()


@pytest.mark.parametrize("error", ERRORS, ids=lambda one: type(one).__name__)
def test_a_policy_that_raises_anything_ends_no_service(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The definition before holds on."""
    monkeypatch.setattr(Broken, "error", error)
    notes: dict[str, str | None] = {}
    follower = Follower((LINE,), notes.__setitem__)
    source = DefinitionSource("resource", "plant", "line", "u", 2)
    body = encode(Definition("line", 2, source, DOMAIN))
    follower._receive(Bus, RawMessage(Subjects().definition("line"), {}, body, 1, 1))  # type: ignore[arg-type]
    assert follower.domains == (LINE,)
    assert "refused, the one before holds" in str(notes["definition of line"])
    known = DefinitionSet((), Duration(500 * 10**6))
    assert known.put(DOMAIN, source)
    assert not known.domains


def test_of_what_is_removed_only_its_age_is_kept() -> None:
    """An older definition that comes late is refused, a newer one is taken; nodes come and go for ever."""
    follower, source = Follower((), lambda *_: None), DefinitionSource("resource", "plant", "line", "u", 2)
    line = Definition("line", 2, source, LINE)
    follower.take(line, 1)
    follower.take(structs.replace(line, revision=3, removed=True), 2)
    assert len(repr(follower._removed)) < 50
    follower.take(line, 1)
    assert not follower.domains
    follower.take(structs.replace(line, revision=4), 3)
    assert follower.domains == (LINE,)
    follower.take(structs.replace(line, revision=1), 4)
    assert follower.defined["line"].revision == 1, "the bus was wiped"


@pytest.mark.parametrize("error", ERRORS, ids=lambda one: type(one).__name__)
def test_a_resource_whose_policy_raises_anything_is_refused(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names an installed policy, and that fails."""
    monkeypatch.setattr(Broken, "error", error)
    monkeypatch.setitem(POLICIES, "broken", Broken)
    with pytest.raises(InvalidResource):
        read_domain("plant", "line", SPEC | {"policy": "broken"})


@pytest.mark.parametrize("field", ["deadMan", "settle", "decay", "p95", "jitter"])
@pytest.mark.parametrize("text", ["9" * 31 + "h", "9" * 400 + "h", "1" + "0" * 100_000 + "ns"])
def test_a_duration_beyond_every_date_is_refused(field: str, text: str) -> None:
    """As a resource's and as a message's."""
    spec = {**SPEC, "shield": {}, "critical": [{"workload": "robot"}]}
    place = spec if field == "deadMan" else spec["critical"][0] if field in ("p95", "jitter") else spec["shield"]
    place[field] = text
    with pytest.raises(InvalidResource, match="31 years"):
        read_domain("plant", "line", spec)
