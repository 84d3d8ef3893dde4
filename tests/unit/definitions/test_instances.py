"""Definitions that stand for an instance for each node, or for each value of a label."""

from typing import Any

import pytest
from msgspec import UNSET, structs

from schemas.definition import Definition, DefinitionSource
from schemas.domain import Critical, Domain, Enrolment, Target
from schemas.messages import decode, encode
from schemas.units import Duration, Rate
from services.definitions.definition_set import DefinitionSet
from services.definitions.enrolment import Applicant
from services.definitions.follower import Follower
from services.definitions.instances import Instances

PERIOD = Duration(500 * 10**6)
TARGET = Target(deployment="upload", min=Rate(1000), fail_safe=Rate(2000), max=Rate(80_000))


def make_domain(name: str = "floor", per: str | None = "node", most: int = 80_000) -> Domain:
    """A definition per node, per label, or of one bottleneck."""
    target = structs.replace(TARGET, max=Rate(most))
    return Domain(name=name, critical=(Critical(workload="robot"),), targets=(target,), per=per or UNSET)


class Clock:
    """A steady clock that is moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        """The time, seconds."""
        return self.now


def watch(known: Instances) -> list[list[str]]:
    """Collects what is announced."""
    seen: list[list[str]] = []
    known.on_change(lambda names: seen.append(sorted(names)))
    return seen


def names_of(known: Instances) -> list[str]:
    """The domains that are controlled, in order."""
    return [one.name for one in known.domains]


def on(*nodes: str) -> dict[str, frozenset[str]]:
    """Pods on these nodes."""
    return {node: frozenset({node}) for node in nodes}


def test_an_instance_stands_for_each_node_with_pods_and_goes_a_while_after_the_last_one() -> None:
    """A Pod that is replaced within the time takes nothing away."""
    clock = Clock()
    known = Instances(DefinitionSet((make_domain(),), PERIOD), 60, clock)
    seen = watch(known)
    assert names_of(known) == []
    known.see("floor", on("n1", "n2"))
    known.see("floor", on("n1", "n2"))
    assert [(one.name, one.of, one.on, one.places) for one in known.domains] == [
        ("floor@n1", "floor", "n1", ("n1",)),
        ("floor@n2", "floor", "n2", ("n2",)),
    ]
    assert known.holding["floor@n1"].source == DefinitionSource(name="floor")
    known.see("floor", on("n1"))
    clock.now += 59
    known.expire()
    known.see("floor", on("n1", "n2"))  # back in time
    known.see("floor", on("n1"))
    clock.now += 59
    known.expire()
    assert len(known.domains) == 2
    clock.now += 1
    known.expire()
    known.expire()
    assert names_of(known) == ["floor@n1"]
    assert seen == [["floor@n1", "floor@n2"], ["floor@n2"]]


def test_instances_without_a_critical_pod_are_told_apart() -> None:
    """Once it is known where critical Pods are, and until one comes; where it is not known, nothing is said."""
    known = Instances(DefinitionSet((make_domain(),), PERIOD))
    known.see("floor", on("n1", "n2"))
    assert known.holding["floor@n1"].without_critical is None
    seen = watch(known)
    known.see("floor", on("n1", "n2"), {"n1"})
    assert known.find_without_critical("floor") == {"n2"}
    known.see("floor", on("n1", "n2"), {"n1"})
    known.see("floor", on("n1", "n2"))  # the watch begins anew
    assert known.find_without_critical("floor") == {"n2"}
    known.see("floor", on("n1", "n2"), {"n1", "n2"})
    assert known.find_without_critical("floor") == set()
    known.see("floor", {}, set())
    assert known.find_without_critical("floor") == {"n1", "n2"}
    assert seen == [["floor@n1", "floor@n2"], ["floor@n2"], ["floor@n1", "floor@n2"]]


def test_a_change_of_the_definition_reaches_every_instance() -> None:
    """And without per it is one bottleneck again; with another one, the places are others."""
    definitions = DefinitionSet((make_domain(),), PERIOD)
    known = Instances(definitions)
    known.see("floor", on("n1", "n2"))
    seen = watch(known)
    definitions.replace_file((make_domain(most=90_000),))
    assert {one.targets[0].max for one in known.domains} == {90_000}
    definitions.replace_file((make_domain(per="topology.kubernetes.io/zone"),))
    assert names_of(known) == []
    known.see("floor", {"a": frozenset({"n1", "n3"})})
    [zone] = known.domains
    assert (zone.name, zone.places, zone.place_key) == ("floor@a", ("n1", "n3"), "topology.kubernetes.io/zone=a")
    definitions.replace_file((make_domain(per=None),))
    assert [(one.name, one.places) for one in known.domains] == [("floor", None)]
    definitions.replace_file(())
    assert names_of(known) == []
    both = ["floor", "floor@n1", "floor@n2"]
    assert seen == [both, both, ["floor@a"], ["floor", "floor@a"], ["floor"]]


def test_a_workload_that_joins_is_a_target_of_every_instance() -> None:
    """Without a target of its own the definition has no instance before; who leaves, leaves all of them."""
    bounds: dict[str, Any] = {"min": TARGET.min, "fail_safe": TARGET.fail_safe, "max": TARGET.max}
    template = structs.replace(make_domain(), targets=(), enrol=Enrolment(namespaces=("plant",), **bounds))
    definitions = DefinitionSet((template,), PERIOD)
    known, place = Instances(definitions), ("Deployment", "plant")
    known.see("floor", on("n1"))
    assert names_of(known) == []
    definitions.replace_applicants(place, [Applicant("Deployment", "plant", name, "floor") for name in ("a", "b")])
    known.see("floor", on("n1", "n2"))
    assert {one.name: [target.key for target in one.targets] for one in known.domains} == {
        "floor@n1": ["plant/a", "plant/b"],
        "floor@n2": ["plant/a", "plant/b"],
    }
    seen = watch(known)
    definitions.replace_applicants(place, [Applicant("Deployment", "plant", "b", "floor")])
    assert {target.key for one in known.domains for target in one.targets} == {"plant/b"}
    assert seen == [["floor", "floor@n1", "floor@n2"]]
    # A process that starts has the instances from the bus, before the API server tells who has the label.
    published, source = known.domains, known.holding["floor@n1"].source
    later = Instances(DefinitionSet((template,), PERIOD))
    for domain in published:
        later.remember(domain, source)
    assert later.domains == published


def test_instances_on_the_bus_are_taken_up_and_go_if_no_pod_is_there() -> None:
    """A process that starts does not give a node up before it has seen the Pods."""
    clock = Clock()
    known = Instances(DefinitionSet((make_domain(),), PERIOD), 60, clock)
    was = make_domain(most=70_000).build_instance("n1", ())
    source = DefinitionSource(name="floor")
    known.remember(was, source)
    known.remember(make_domain(per="zone").build_instance("z", ("n1",)), source)  # of another definition
    assert list(known.domains) == [make_domain().build_instance("n1", ())]  # as the file has it by now
    clock.now += 60
    known.expire()
    assert names_of(known) == []


def test_an_instance_travels_as_a_definition_that_older_readers_of_others_never_see() -> None:
    """The fields are left out where they are not set; a template is refused by whoever follows."""
    plain, template = make_domain(per=None), make_domain()
    assert not {b'"per"', b'"of"', b'"on"', b'"nodes"'} & {
        word for word in (b'"per"', b'"of"', b'"on"', b'"nodes"') if word in encode(_define(plain))
    }
    instance = template.build_instance("n1", ())
    assert decode(Definition, encode(_define(instance))).configuration == instance
    assert instance.build_template() == template
    notes: dict[str, str | None] = {}
    follower = Follower((template, make_domain("other", None)), notes.__setitem__)
    assert list(follower.defined) == ["other"]
    follower.take(_define(template), 1)
    follower.take(_define(instance), 2)
    assert list(follower.defined) == ["other", "floor@n1"]
    assert "stands for an instance per node" in (notes["definition of floor"] or "")


def _define(domain: Domain) -> Definition:
    return Definition(domain.name, 1, DefinitionSource(name="floor"), domain)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"per": "a b"}, "per: 'a b' is neither 'node' nor the key of a label"),
        ({"per": ""}, "neither 'node' nor the key of a label"),
        ({"of": "floor", "on": "n1"}, "of and on are an instance's, which needs per and both"),
        ({"per": "node", "on": "n1"}, "of and on are an instance's, which needs per and both"),
        ({"per": "node", "nodes": ("n1",)}, "nodes is an instance's, which needs on"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(fields: dict[str, object], reason: str) -> None:
    """With what is wrong."""
    with pytest.raises(ValueError, match=reason):
        structs.replace(make_domain(per=None), **fields)
