"""Workloads that join a domain by a label: who may, within which bounds, and what goes before them."""

from typing import Any

import pytest
from msgspec import structs

from schemas.definition import DefinitionSource
from schemas.domain import Critical, Domain, Enrolment, Target
from schemas.units import Duration, Rate
from services.definitions.definition_set import DefinitionSet
from services.definitions.enrolment import LABEL, MOST_TARGETS, Applicant

PLACE = ("Deployment", "plant")
SOURCE = DefinitionSource("resource", "plant", "line", "uid-line", 1)
OTHER = DefinitionSource("resource", "plant", "other", "uid-other", 1)


def make_domain(name: str = "line", *targets: str, enrols: bool = True, **more: Any) -> Domain:
    """A domain that takes workloads of its namespace."""
    bounds: dict[str, Any] = {"min": Rate(1000), "fail_safe": Rate(2000), "max": Rate(80_000)}
    enrol = Enrolment(namespaces=("plant",), weight=5, kinds=("Deployment", "StatefulSet"), **bounds)
    return Domain(
        name=f"plant/{name}",
        critical=(Critical(workload="robot"),),
        targets=tuple(Target(deployment=one, namespace="plant", **bounds) for one in targets),
        enrol=enrol if enrols else None,
        **more,
    )


def labelled(name: str, wanted: str = "line", kind: str = "Deployment", **settings: str) -> Applicant:
    """A workload with the label, and annotations."""
    notes = {f"sluice.dev/{key.replace('_', '-')}": value for key, value in settings.items()}
    found = Applicant.read(kind, "plant", name, {LABEL: wanted}, notes)
    assert found is not None
    return found


def make_set(*domains: Domain) -> DefinitionSet:
    """A set with resources named after their domains."""
    known = DefinitionSet((), Duration(500 * 10**6))
    for domain in domains:
        name = domain.name.rpartition("/")[2]
        assert known.put(domain, structs.replace(SOURCE, name=name, uid=name)) is None
    return known


def keys_of(known: DefinitionSet, name: str = "plant/line") -> list[str]:
    """A domain's targets."""
    held = known.holding.get(name)
    return [] if held is None else [one.key for one in held.domain.targets]


def test_a_workload_joins_and_leaves_by_its_label() -> None:
    """A domain holds with its first target, and no longer without one; what is published names no enrolment."""
    known = make_set(make_domain())
    assert known.places == {PLACE, ("StatefulSet", "plant")}
    assert (keys_of(known), dict(known.refusals)) == ([], {})
    seen: list[list[str]] = []
    known.on_change(lambda names: seen.append(sorted(names)))
    known.replace_applicants(PLACE, [labelled("a"), labelled("b", "elsewhere")])
    known.replace_applicants(("StatefulSet", "plant"), [labelled("a", kind="StatefulSet")])
    assert keys_of(known) == ["plant/a", "plant/statefulset/a"]
    assert known.holding["plant/line"].domain.enrol is None
    assert [known.find_owner(key) for key in ("plant/a", "plant/b")] == ["plant/line", None]
    known.replace_applicants(PLACE, [labelled("a"), labelled("b", "elsewhere")])
    known.replace_applicants(PLACE, [])
    known.replace_applicants(("StatefulSet", "plant"), [])
    assert seen == [["plant/line"]] * 4
    assert known.holding == {}
    assert known.enrolling.keys() == {SOURCE.key}
    known.withdraw(SOURCE)
    assert seen[-1] == []  # where workloads may join has changed
    assert known.places == set()


def test_annotations_narrow_the_bounds_of_one_workload() -> None:
    """What is not asked for follows from the domain's, and from what is."""
    known = make_set(make_domain())
    known.replace_applicants(
        PLACE,
        [labelled("a", min="5M", max="10M", weight="2", scope="per-pod"), labelled("b", fail_safe="1500k")],
    )
    a, b = known.holding["plant/line"].domain.targets
    assert (a.min, a.max, a.fail_safe, a.weight, a.scope) == (5000, 10_000, 5000, 2, "per-pod")
    assert (b.min, b.max, b.fail_safe, b.weight, b.scope) == (1000, 80_000, 1500, 5, "aggregate")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max": "1G"}, "sluice.dev/max 1G is outside of what the domain gives: 1M to 80M"),
        ({"min": "1k"}, "sluice.dev/min 1k is outside of what the domain gives: 1M to 80M"),
        ({"min": "9M", "max": "8M"}, "expected min <= fail_safe <= max"),
        ({"max": "fast"}, "sluice.dev/max: 'fast' is not a rate"),
        ({"weight": "6"}, "sluice.dev/weight 6 is outside of what the domain gives: 1 to 5"),
        ({"weight": "much"}, "sluice.dev/weight: 'much' is not a whole number"),
        ({"scope": "each"}, "sluice.dev/scope: 'each' is not aggregate or per-pod"),
    ],
)
def test_what_a_workload_may_not_ask_for_keeps_it_out_alone(settings: dict[str, str], reason: str) -> None:
    """Others join, and the reason goes with what it is about."""
    known = make_set(make_domain())
    known.replace_applicants(PLACE, [labelled("a", **settings), labelled("b")])
    assert keys_of(known) == ["plant/b"]
    assert reason in known.turned_away[SOURCE.key]["plant/a"]
    known.replace_applicants(PLACE, [labelled("a"), labelled("b")])
    assert keys_of(known) == ["plant/a", "plant/b"]
    assert known.turned_away == {}


def test_what_a_definition_names_goes_before_who_joins() -> None:
    """Also where the definition comes later; a capacity and a number bound who may join."""
    known = make_set(make_domain(capacity=Rate(5000)))
    known.replace_applicants(PLACE, [labelled(name) for name in ("a", "b", "c")])
    assert keys_of(known) == ["plant/a", "plant/b"]
    assert "more than the capacity of 5M" in known.turned_away[SOURCE.key]["plant/c"]
    assert known.put(make_domain("other", "a", enrols=False), OTHER) is None
    assert keys_of(known) == ["plant/b", "plant/c"]
    assert known.turned_away == {SOURCE.key: {"plant/a": "it belongs to domain 'plant/other' already"}}
    known.withdraw(OTHER)
    assert keys_of(known) == ["plant/a", "plant/b"]
    known.put(make_domain("line", "c"), SOURCE)
    assert keys_of(known)[0] == "plant/c"
    known.replace_applicants(PLACE, [labelled(f"w{number}") for number in range(MOST_TARGETS)])
    assert len(keys_of(known)) == MOST_TARGETS
    assert "targets already" in next(iter(known.turned_away[SOURCE.key].values()))


@pytest.mark.parametrize("bus_is_first", [False, True])
def test_a_restart_takes_nobody_out(bus_is_first: bool) -> None:
    """Until the API server has told of a place, those that the bus remembers of it stay."""
    before = make_set(make_domain())
    before.replace_applicants(PLACE, [labelled("a"), labelled("b")])
    published = before.holding["plant/line"].domain
    known = DefinitionSet((), Duration(500 * 10**6))
    if bus_is_first:
        known.remember(published, SOURCE)
    known.put(make_domain(), SOURCE)
    if not bus_is_first:
        known.remember(published, SOURCE)
    assert known.holding["plant/line"].domain == published
    known.replace_applicants(("StatefulSet", "plant"), [])
    assert known.holding["plant/line"].domain == published
    known.replace_applicants(PLACE, [labelled("b")])
    assert keys_of(known) == ["plant/b"]


def test_a_domain_of_the_file_takes_workloads_too() -> None:
    """It needs namespaces, since a file has none of its own."""
    known = DefinitionSet((structs.replace(make_domain(), name="line"),), Duration(500 * 10**6))
    known.replace_applicants(PLACE, [labelled("a")])
    assert keys_of(known, "line") == ["plant/a"]
    with pytest.raises(ValueError, match="needs at least one namespace"):
        Enrolment(min=Rate(1), max=Rate(1), fail_safe=Rate(1))
