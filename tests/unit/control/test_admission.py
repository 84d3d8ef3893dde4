"""Which samples are admitted: a wrong clock locks no domain out."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.domain import Critical, Domain, Target
from schemas.messages import Sample, State
from schemas.units import Duration, Rate
from services.control.admission import FutureSample, RejectedSample, StaleSample, admit

S = 10**9
NOW = 1_790_000_000 * S
DEAD_MAN = 5 * S
DOMAIN = Domain(
    "line",
    (Critical("robot"),),
    (Target(deployment="upload", min=Rate(1000), max=Rate(9000), fail_safe=Rate(2000)),),
    dead_man=Duration(DEAD_MAN),
)


def sample(end: int) -> Sample:
    """A sample that ends at that time."""
    return Sample(domain="line", start=end - 2 * S, end=end, period=S, source="test")


def state(end: int) -> State:
    """The state after a sample that ended at that time."""
    return State(end - 100 * S, 101, end, {}, "proportional/1")


def test_the_next_sample_goes_on_from_the_state() -> None:
    """The ordinary case, and the first sample of all."""
    assert admit(DOMAIN, state(NOW), sample(NOW + S), NOW + S) == state(NOW)
    assert admit(DOMAIN, None, sample(NOW), NOW) is None


@pytest.mark.parametrize("end", [NOW, NOW - S])
def test_a_sample_that_is_not_newer_is_stale(end: int) -> None:
    """It was delivered twice, or overtaken."""
    with pytest.raises(StaleSample):
        admit(DOMAIN, state(NOW), sample(end), NOW)


def test_a_sample_from_the_future_is_refused() -> None:
    """As a state it would make every valid sample look old; the error gives the difference."""
    with pytest.raises(FutureSample, match=r"6.000 s ahead"):
        admit(DOMAIN, state(NOW), sample(NOW + 6 * S), NOW)
    with pytest.raises(FutureSample):
        admit(DOMAIN, None, sample(NOW + 6 * S), NOW)
    assert admit(DOMAIN, state(NOW), sample(NOW + 5 * S), NOW) == state(NOW)


def test_after_the_servers_clock_was_set_back_an_epoch_begins() -> None:
    """A state that is an hour ahead of both clocks is discarded."""
    assert admit(DOMAIN, state(NOW + 3600 * S), sample(NOW), NOW) is None


@example([(6, 0)], 1)
@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(0, 3)), max_size=30), st.integers(-20, 20))
def test_no_history_of_wrong_clocks_locks_a_domain(history: list[tuple[int, int]], shift: int) -> None:
    """Once both clocks are right again, a sample is admitted within a dead-man time.

    The samples come a second apart, and one that ends when the state ends is stale still.
    """
    held: State | None = None
    now = NOW
    for wrong, forward in history:
        now += forward * S
        server = now + shift * S
        try:
            before = admit(DOMAIN, held, sample(now + wrong * S), server)
        except RejectedSample:
            continue
        assert before in (held, None)
        held = state(now + wrong * S)
    first = 1
    for second in range(first, first + DEAD_MAN // S + 2):
        try:
            admit(DOMAIN, held, sample(now + second * S), now + second * S)
        except StaleSample:
            continue
        return
    pytest.fail("still stale")
