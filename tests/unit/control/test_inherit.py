"""A new instance that begins with what another one learned: sooner at work, as safe, and the same on replay."""

from msgspec.structs import replace

from schemas.domain import Domain
from schemas.inherited import Inherited
from schemas.messages import Decision, decode, encode
from services.bench.fleet.warm import CASES, compare_starts, take_over
from services.control import Controller
from services.decision.siblings import find_siblings
from services.plant.scenario import SCENARIOS
from services.plant.simulated.closed_loop import play
from services.tools.replay.verifier import RECORDED

SCENARIO = SCENARIOS["steady"]
DOMAIN = SCENARIO.domain("learned")


def test_it_needs_no_exploration() -> None:
    """Where less is there than the nameplate says, it need not find that out by breaking objectives."""
    found = compare_starts(CASES[1], seeds=1)
    print(found)
    assert found.warm.share > found.cold.share
    assert found.warm.bad_seconds < found.cold.bad_seconds


def test_the_decision_carries_what_was_inherited() -> None:
    """Decided again from what is on record, it is the same, byte for byte; without it, another."""
    run = play(SCENARIO, DOMAIN, Controller(DOMAIN))
    inherited = take_over(run.decisions[-1], seq=7)
    sample = run.samples[10]
    controller = Controller(DOMAIN)
    first = controller.answer(None, sample, sample.end, inherited=inherited)
    recorded = RECORDED.decode(encode(first)).inherited
    assert recorded is not None
    assert (recorded.domain, recorded.seq) == (DOMAIN.name, 7)
    assert encode(controller.answer(None, sample, sample.end, inherited=recorded)) == encode(first)
    assert controller.answer(None, sample, sample.end).state.memory != first.state.memory
    # Only the first decision: later ones go on from the state.
    later = run.samples[11]
    assert controller.answer(first.state, later, later.end, inherited=inherited).inherited is None
    assert decode(Decision, encode(first)).inherited is not None


def test_what_cannot_be_used_begins_afresh() -> None:
    """Of another policy, or of a build that meant other fields by it."""
    controller = Controller(DOMAIN)
    sample = play(SCENARIO, DOMAIN, Controller(DOMAIN)).samples[10]
    fresh = controller.answer(None, sample, sample.end).state
    for inherited in (
        Inherited("other", 1, "aimd/1", {"quiet_until": 3}),
        Inherited("other", 1, controller.policy.version, {"knee": "high"}),
        Inherited("other", 1, controller.policy.version, None),
    ):
        assert controller.answer(None, sample, sample.end, inherited=inherited).state == fresh


def test_siblings_are_instances_of_the_same_definition() -> None:
    """At most eight, always the same for an instance, and others for another."""
    names = [f"uplink@node-{number}" for number in range(100)] + ["press", "rack@node-1"]
    some = [find_siblings(domain, names) for domain in (_named("uplink@node-3"), _named("uplink@node-4"))]
    assert [len(one) for one in some] == [8, 8]
    assert some[0] != some[1]
    assert "uplink@node-3" not in some[0]
    assert find_siblings(_named("uplink@node-3"), reversed(names)) == some[0]
    assert find_siblings(_named("press"), names) == []


def _named(name: str) -> Domain:
    return replace(DOMAIN, name=name)
