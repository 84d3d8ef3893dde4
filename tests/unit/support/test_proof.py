"""A short form of ``make prove``."""

import inspect

import pytest

from services.control import shield
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
