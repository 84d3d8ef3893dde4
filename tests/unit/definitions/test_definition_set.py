"""One set of domains from the file and from resources."""

import random
from typing import Any

import pytest
from msgspec import structs

from schemas.definition import DefinitionSource
from schemas.domain import Critical, Domain, Target
from schemas.units import Duration, Rate
from services.definitions.definition_set import DefinitionSet

PERIOD = Duration(500 * 10**6)


def make_domain(name: str, *targets: str, most: int = 80_000, **more: Any) -> Domain:
    """A domain with these targets."""
    return Domain(
        name=name,
        critical=(Critical(workload="robot"),),
        targets=tuple(Target(deployment=one, min=Rate(1000), fail_safe=Rate(2000), max=Rate(most)) for one in targets),
        **more,
    )


def resource(name: str, generation: int = 1) -> DefinitionSource:
    """A resource's generation."""
    return DefinitionSource("resource", "plant", name, f"uid-{name}", generation)


def names_of(known: DefinitionSet) -> list[str]:
    """The domains that hold, in order."""
    return [one.name for one in known.domains]


def test_the_file_and_resources_hold_side_by_side() -> None:
    """A change is announced once it is whole; what changes nothing is not."""
    known = DefinitionSet((make_domain("a", "x"),), PERIOD)
    seen: list[tuple[list[str], list[str]]] = []
    known.on_change(lambda names: seen.append((sorted(names), names_of(known))))
    assert known.put(make_domain("b", "y"), resource("b")) is None
    assert known.put(make_domain("b", "y"), resource("b")) is None
    known.replace_file((make_domain("c", "z"), make_domain("a", "x")))
    known.withdraw(resource("b"))
    known.withdraw(resource("b"))
    assert seen == [(["b"], ["a", "b"]), (["c"], ["c", "a", "b"]), (["b"], ["c", "a"])]
    assert known.holding["a"].source == DefinitionSource(name="a")


def test_a_new_name_is_one_change() -> None:
    """In the file at once; of resources once the old one is gone: the target is never with two, nor with none."""
    known = DefinitionSet((make_domain("line", "x"),), PERIOD)
    seen: list[tuple[list[str], list[str | None]]] = []
    known.on_change(lambda names: seen.append((sorted(names), [known.find_owner("default/x")])))
    known.replace_file((make_domain("track", "x"),))
    assert seen == [(["line", "track"], ["track"])]
    known.replace_file(())
    known.put(make_domain("plant/old", "x"), resource("old"), "2026-01-01T00:00:00Z")
    seen.clear()
    refused = known.put(make_domain("plant/new", "x"), resource("new"), "2026-01-02T00:00:00Z")
    assert "belongs to domain 'plant/old'" in (refused or "")
    known.withdraw(resource("old"))
    assert seen == [([], ["plant/old"]), (["plant/new", "plant/old"], ["plant/new"])]
    assert names_of(known) == ["plant/new"]


@pytest.mark.parametrize(
    ("domain", "reason"),
    [
        (make_domain("b", "y", policy="wishful"), "no policy 'wishful'"),
        (make_domain("b", "y", dead_man=Duration(10**9)), "dead_man 1s is below three signal periods of 500ms"),
        (make_domain("a", "y"), "domain 'a' is defined by the file already"),
        (make_domain("b", "y", "x"), "target default/x belongs to domain 'a' of the file"),
    ],
)
def test_what_cannot_hold_is_refused_with_its_reason_and_the_last_one_holds(domain: Domain, reason: str) -> None:
    """The reason stays until the source offers something better."""
    known = DefinitionSet((make_domain("a", "x"),), PERIOD)
    good = make_domain("b", "y", most=5000)
    assert known.put(good, resource("b")) is None
    refused = known.put(domain, resource("b", 2))
    assert refused is not None
    assert reason in refused
    assert known.refusals == {resource("b").key: refused}
    assert known.holding["b"].domain == good
    assert known.holding["b"].source.generation == 1
    assert known.put(make_domain("b", "y"), resource("b", 3)) is None
    assert known.refusals == {}


def test_what_cannot_even_be_read_is_refused_too() -> None:
    """A resource of which nothing ever held is refused, and nothing holds."""
    known = DefinitionSet((make_domain("a", "x"),), PERIOD)
    known.refuse(resource("b"), "spec.targets: at least one is needed")
    assert known.refusals == {resource("b").key: "spec.targets: at least one is needed"}
    assert names_of(known) == ["a"]


def test_an_offer_holds_as_soon_as_nothing_is_in_its_way() -> None:
    """A target moves from one domain to the other: first refused, then given up by the file."""
    known = DefinitionSet((make_domain("a", "x"), make_domain("c", "z")), PERIOD)
    assert known.put(make_domain("b", "x"), resource("b")) is not None
    known.replace_file((make_domain("c", "z"),))
    assert known.refusals == {}
    assert names_of(known) == ["c", "b"]


def test_two_processes_agree_in_whatever_order_they_see_the_same_sources() -> None:
    """The file comes first, then the resource that was created first."""
    offers = [
        (make_domain("b", "y"), resource("later"), "2026-01-02T00:00:00Z"),
        (make_domain("b", "v"), resource("earlier"), "2026-01-01T00:00:00Z"),
        (make_domain("d", "x"), resource("clashes"), "2025-01-01T00:00:00Z"),
        (make_domain("e", "v", "w"), resource("also"), "2026-01-03T00:00:00Z"),
    ]
    outcomes = set()
    for seed in range(24):
        known = DefinitionSet((make_domain("a", "z"),), PERIOD)
        shuffled = random.Random(seed).sample([*offers, None], len(offers) + 1)
        for offer in shuffled:
            if offer is None:
                known.replace_file((make_domain("a", "x"),))
            else:
                known.put(*offer)
        outcomes.add(str((known.domains, sorted(known.refusals.items()))))
    assert len(outcomes) == 1
    assert names_of(known) == ["a", "b"]
    assert known.holding["b"].source.name == "earlier"


def test_a_clash_leaves_what_held_before() -> None:
    """A resource that reaches for another's target keeps its own."""
    known = DefinitionSet((make_domain("a", "x"),), PERIOD)
    before = make_domain("b", "y")
    known.put(before, resource("b"))
    known.put(structs.replace(before, targets=(*before.targets, *make_domain("b", "x").targets)), resource("b", 2))
    assert known.holding["b"].domain == before


def test_what_the_bus_remembers_holds_until_the_resources_are_known() -> None:
    """After a restart: a resource that is refused now keeps what held, and one that is gone keeps nothing."""
    known = DefinitionSet((make_domain("a", "x"),), PERIOD)
    for name, target in (("b", "y"), ("c", "z"), ("e", "x")):
        known.remember(make_domain(name, target), resource(name))
    assert names_of(known) == ["a", "b", "c"]
    known.refuse(resource("b", 2), "spec.targets: at least one is needed")
    known.confirm_resources([resource("b")])
    assert names_of(known) == ["a", "b"]
    known.remember(make_domain("d", "w"), resource("d"))
    assert names_of(known) == ["a", "b"]
