"""Decisions that come late: a limit that goes up with each and down again when it lapses is no limit."""

import pytest

from schemas.units import Duration
from services.actuator.desired_limit import HELD_BACK, DesiredLimit, Instant
from tests.support.actuators import Decider
from tests.support.kube.objects import NOW, TARGET

S = 10**9


def changes(ages: list[float], *, seconds: float = 12.0) -> tuple[int, DesiredLimit]:
    """How often the limit in force changes while 60M is decided twice a second, each decision so many seconds old."""
    desired = DesiredLimit(TARGET, Duration(5 * S), 0.0)
    decider = Decider(None, "default")  # type: ignore[arg-type]
    in_force, count = 10_000, 0
    for tick in range(int(seconds * 20)):
        instant = Instant(NOW + tick * S // 20, tick / 20)
        desired.expire(in_force, instant, is_observed=True)
        if tick % 10 == 0:
            end = instant.now - int(ages[tick // 10 % len(ages)] * S)
            decision = decider.decision({"app": 60_000}, end=end, good_for=5 * S)
            desired.accept(decision, decision.targets[0], instant.now, None, instant)
        desired.cap(in_force)
        if desired.order is not None and desired.order.limit != in_force:
            in_force, count = desired.order.limit, count + 1
    return count, desired


@pytest.mark.parametrize(
    "ages", [[4.6], [4.8], [4.6, 4.7, 4.8], [4.9, 4.55], [4.0, 4.8], [3.2, 4.9, 4.9], [2.0, 4.9, 4.9, 4.9]]
)
def test_skew_just_under_the_dead_man_does_not_flap(ages: list[float]) -> None:
    """In twelve seconds there are few changes, not two for every decision."""
    count, desired = changes(ages)
    assert count <= 6
    if min(ages) > 4.5:
        assert desired.order is not None
        assert desired.order.limit == 10_000
        assert "arrive late" in str(desired.lapses.why)


def test_decisions_in_time_are_not_held_back() -> None:
    """A delay of one second has no effect; after a lapse the first decision in time raises the limit."""
    assert changes([1.0])[0] == 1
    count, desired = changes([1.0] * 6 + [9.0] * 12 + [1.0] * 6)
    assert count == 3
    assert desired.order is not None
    assert (desired.order.limit, desired.lapses.why) == (60_000, None)


def test_the_reason_has_the_decided_limit() -> None:
    """Reports have the decided limit, and the reason why it is not in force."""
    _, desired = changes([4.7])
    reasons = desired.order.reason if desired.order is not None else ""
    assert HELD_BACK in reasons or "no decision for" in reasons
