"""A short form of ``make prove``."""

import inspect

import pytest

from services.actuator.desired_limit import DesiredLimit
from services.actuator.ownership import Succession
from services.control import shield
from tests.closed_loop.conformance import find_breach
from tests.proof import liveness, loop
from tests.proof.claims import CLAIMS
from tests.proof.enumeration import check_all
from tests.proof.fences import Overtaken, explore
from tests.proof.mutants import find_killer, mutants
from tests.proof.sharing import check_share
from tests.proof.solver import prove_all


def test_every_claim_is_proven_for_all_integers() -> None:
    """Z3 finds no integers that break a claim, on the shipped source."""
    assert len(list(prove_all(shield))) == len(CLAIMS) + 1


def test_every_claim_holds_on_a_small_grid() -> None:
    """The shipped function itself keeps every claim in every situation of a small grid."""
    assert check_all(shield, 2) > 10_000


def test_shares_are_within_bounds_add_up_and_are_fair() -> None:
    """Every budget over every small pair of targets."""
    assert check_share(2) > 1_000


def test_fences_hold_in_every_order_of_events() -> None:
    """Two samples, two replicas, two actuators, duplicates, restarts and a wiped bus."""
    assert explore(2) > 1_000


def test_a_fence_on_epoch_and_sequence_alone_fails() -> None:
    """After a wipe, a sample in flight would bring an older answer into force."""
    with pytest.raises(Overtaken):
        explore(2, lambda held, new: held is None or (new.epoch, new.seq) > held[1:])


def test_broken_shields_are_noticed() -> None:
    """Every tenth mutant of the shield makes a proof fail; ``make prove`` tries all of them."""
    survivors = [one.where for one in list(mutants(inspect.getsource(shield)))[::10] if find_killer(one) is None]
    assert not survivors


def test_the_closed_loop_holds_in_every_order_of_events() -> None:
    """Outages, returns, restarts, a second actuator and a wiped bus, around the shipped shield and rise bound."""
    assert loop.explore() > 1_000


@pytest.mark.parametrize("name", loop.WEAKER)
def test_a_loop_that_is_open_somewhere_fails(name: str) -> None:
    """Each variant breaks a claim."""
    start, bounded = loop.WEAKER[name]
    with pytest.raises(loop.Broken):
        loop.explore(start, bounded=bounded)


def list_traces() -> list[tuple[liveness.World, tuple[liveness.Event, ...]]]:
    """Every state of the model of two actuators, and a shortest trace to it."""
    traces: list[tuple[liveness.World, tuple[liveness.Event, ...]]] = []
    liveness.explore(visit=lambda world, trace: traces.append((world, trace)))
    return traces


def test_the_fail_safe_comes_or_somebody_says_why_not() -> None:
    """In every state of the model; each rule of the actuators is needed for it."""
    assert len(list_traces()) > 500
    for rules in liveness.WEAKER.values():
        with pytest.raises(liveness.Promise):
            liveness.explore(rules)


def test_the_reconcilers_do_as_the_model() -> None:
    """Driven through every fortieth trace; ``make prove`` takes all of them."""
    assert [breach for one in list_traces()[::40] if (breach := find_breach(*one))] == []


def test_reconcilers_that_break_the_promise_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that stands by for ever, and one whose dead-man does nothing."""
    handed_over: tuple[liveness.Event, ...] = (("ahead", 0), ("start", 1), ("stop", 1))
    silent: tuple[liveness.Event, ...] = (("decisions", 0),)
    assert find_breach(liveness.follow(*handed_over), handed_over) is None
    monkeypatch.setattr(Succession, "take_over", lambda _self, _now, **_: 1.0)
    assert "the model has" in str(find_breach(liveness.follow(*handed_over), handed_over))
    monkeypatch.undo()
    monkeypatch.setattr(DesiredLimit, "_fall_back", lambda *_, **__: None)
    assert "the model has" in str(find_breach(liveness.follow(*silent), silent))
