"""Rises of what is in force: bounded whatever is decided, and whatever could not be written for however long."""

from hypothesis import given
from hypothesis import strategies as st

from services.actuator.desired_limit import HELD_BACK, RiseBound
from tests.support.kube.objects import order

RISE = 15_000
"""Of [5M, 80M], a fifth a second."""


def test_an_outage_saves_up_no_leap() -> None:
    """Forty seconds without a patch, and 94M were decided meanwhile: one second's rise at once, then step by step."""
    bound = RiseBound(RISE)
    assert bound.next_step(order(50_000), 50_000, 0.0).limit == 50_000
    wanted = order(94_000)
    first = bound.next_step(wanted, 50_000, 40.0)
    assert first.limit == 65_000
    assert HELD_BACK in first.reason
    assert "94M was decided" in first.reason
    in_force, now, steps = 65_000, 40.0, [65_000]
    while in_force < 80_000:
        bound.next_step(wanted, in_force, now)
        now += max(bound.wait_s(wanted, in_force), 0.01)
        in_force = bound.next_step(wanted, in_force, now).limit
        steps.append(in_force)
    assert steps[1] - steps[0] <= RISE
    assert now >= 41.0


def test_a_rise_that_the_shield_allows_is_not_touched() -> None:
    """Decisions that rise at the full rate come with jitter, and after a pause a whole second's rise at once."""
    bound = RiseBound(RISE)
    in_force, now = 5_000, 100.0
    for gap, rise in ((0.5, 7_500), (0.4, 7_500), (0.6, 7_500), (0.3, 7_500), (0.7, 7_500), (3.0, 15_000)):
        now += gap
        wanted = order(in_force + rise)
        assert bound.next_step(wanted, in_force, now) is wanted
        in_force = wanted.limit


def test_cuts_and_first_limits_are_never_bounded() -> None:
    """A cut comes at once, and so does any limit where there was none."""
    bound = RiseBound(RISE)
    for wanted, in_force in ((order(5_000), 80_000), (order(80_000), None), (order(30_000), 30_000)):
        assert bound.next_step(wanted, in_force, 0.0) is wanted


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.01, 0.1, 0.5, 2.0, 40.0]), st.integers(5_000, 80_000), st.sampled_from([0, 1, 2])
        ),
        max_size=60,
    )
)
def test_over_any_time_the_rise_is_bounded(story: list[tuple[float, int, int]]) -> None:
    """Orders at will; a patch succeeds, fails, or reaches a part of the objects: what is in force rises at the rate."""
    bound = RiseBound(RISE)
    lowest, highest, now = 10_000, 10_000, 0.0
    past = [(now, lowest)]
    for gap, limit, success in story:
        now += gap
        step = bound.next_step(order(limit), lowest, now)
        assert step.limit <= max(limit, lowest)
        if success:
            highest = max(step.limit, highest if success == 1 else 0)
        if success == 2:
            lowest = highest = step.limit
        past.append((now, lowest))
        for then, was in past:
            if all(low >= was for at, low in past if at >= then):
                assert highest <= was + RISE * (now - then + 1) + 1 or highest <= max(low for _, low in past)
