"""Division of a budget when not every target needs its share."""

import itertools

from services.control.allocation import defer_raises, divide, estimate_demand

CLAIMS = [(1_000, 100_000, 1), (1_000, 100_000, 1)]


def test_an_unmeasured_target_wants_everything() -> None:
    """No target is capped on a guess."""
    assert estimate_demand(5_000, None, 20_000, 100_000, settled=True) == 0


def test_an_idle_target_is_capped_at_what_it_sends_and_some_room() -> None:
    """The cap is a quarter above its traffic, plus 2 % of its maximum."""
    assert estimate_demand(0, 4_000, 35_000, 100_000, settled=True) == 7_000


def test_a_limit_that_just_changed_gives_no_estimate() -> None:
    """The throughput belongs to the previous limit."""
    assert estimate_demand(0, 4_000, 35_000, 100_000, settled=False) == 0


def test_a_capped_target_that_fills_its_limit_wants_everything_again() -> None:
    """The cap is removed at once, settled or not."""
    assert estimate_demand(7_000, 6_400, 7_000, 100_000, settled=False) == 0


def test_small_changes_of_demand_keep_the_cap() -> None:
    """They are not worth a patch; large changes are."""
    assert estimate_demand(7_000, 3_000, 7_000, 100_000, settled=True) == 7_000
    assert estimate_demand(7_000, 500, 7_000, 100_000, settled=True) == 2_625
    assert estimate_demand(7_000, 6_000, 30_000, 100_000, settled=True) == 9_500


def test_what_one_leaves_idle_the_other_gets() -> None:
    """The limits still add up to the budget."""
    assert divide(70_000, CLAIMS, [0, 2_000]) == [68_000, 2_000]
    assert divide(70_000, CLAIMS, [0, 0]) == [35_000, 35_000]


def test_what_no_target_wants_is_shared_out_too() -> None:
    """The whole budget is distributed."""
    assert divide(70_000, CLAIMS, [10_000, 2_000]) == [35_000, 35_000]


def test_what_is_divided_never_exceeds_the_budget() -> None:
    """This holds for every cap from none to the maximum, on a small grid."""
    claims = [(1, 9, 1), (1, 7, 3), (2, 5, 2)]
    for budget in range(4, 25):
        for caps in ((0, 0, 0), (3, 0, 0), (0, 2, 4), (1, 1, 2), (9, 9, 9), (0, 20, 1)):
            shares = divide(budget, claims, caps)
            assert min(budget, 21) - 3 < sum(shares) <= min(budget, 21)
            assert all(low <= one <= high for one, (low, high, _) in zip(shares, claims, strict=True))


def test_raises_wait_until_others_have_released_the_bandwidth() -> None:
    """Limits come into force in any order, so raises wait for cuts by one step.

    What the shield cuts short anyway leaves room for the rest.
    """
    assert defer_raises([70_000, 2_000], [40_000, 30_000], [40_000, 30_000]) == [40_000, 2_000]
    assert defer_raises([40_000, 2_000], [40_000, 30_000], [40_000, 30_000]) == [40_000, 30_000]
    assert defer_raises([40_000, 2_000], [35_000, 15_000], [35_000, 15_000]) == [35_000, 10_000]


def test_limits_never_add_up_to_more_than_before_and_after() -> None:
    """This holds for every step on a small grid, whatever limits are in force first."""
    for before, wanted in itertools.product(itertools.product(range(4), repeat=3), repeat=2):
        for shortened in range(4):
            allowed = [min(new, old + shortened) for old, new in zip(before, wanted, strict=True)]
            after = defer_raises(before, wanted, allowed)
            limits = [min(new, ok) for new, ok in zip(after, allowed, strict=True)]
            meanwhile = sum(max(old, new) for old, new in zip(before, limits, strict=True))
            assert meanwhile <= max(sum(before), sum(allowed))
            assert all(new <= max(old, want) for old, new, want in zip(before, after, wanted, strict=True))
