"""The fence, rule by rule."""

from schemas.messages import Decision, State
from services.control import rejection_reason

S = 10**9
DECISION = Decision("d", "d:1", 100 * S, 105 * S, (), "", State(1, 1, 100 * S, {}, "p/1"), "p/1")


def test_the_first_decision_is_accepted() -> None:
    """Nothing is in force, and the decision is fresh."""
    assert rejection_reason(None, DECISION, 101 * S) is None


def test_a_newer_sample_replaces_an_older_one() -> None:
    """The sample's time counts, whatever the epochs."""
    assert rejection_reason(99 * S, DECISION, 101 * S) is None


def test_the_same_or_an_older_sample_is_rejected() -> None:
    """A repeated decision, and one that arrives late."""
    for held in (100 * S, 101 * S):
        assert "in force" in (rejection_reason(held, DECISION, 101 * S) or "")


def test_an_expired_decision_is_rejected() -> None:
    """From the time of its expiry on."""
    assert "expired" in (rejection_reason(None, DECISION, 105 * S) or "")


def test_a_decision_from_the_future_is_rejected() -> None:
    """A clock that was ahead must not lock later decisions out."""
    assert "future" in (rejection_reason(None, DECISION, 80 * S) or "")


def test_a_decision_in_force_from_the_future_is_void() -> None:
    """A wrong clock wrote it: a fresh decision replaces it."""
    assert rejection_reason(1000 * S, DECISION, 101 * S) is None
