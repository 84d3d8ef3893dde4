"""After a reconnection no flow is counted twice, and none is missed that Relay still has."""

from services.exporter.replay_filter import ReplayFilter

S = 1_000_000_000
T = 1_800_000_000 * S


def make_filter() -> ReplayFilter:
    """The first stream is open."""
    resume = ReplayFilter()
    resume.start_stream(T, 0)
    return resume


def test_the_first_stream_starts_now() -> None:
    """It has nothing to repeat; a second stream repeats what the first one did not deliver."""
    resume = ReplayFilter()
    assert resume.start_stream(T, 0) is None
    assert resume.start_stream(T + 5 * S, 5 * S) == T


def test_a_replay_starts_at_the_slowest_node() -> None:
    """Each node's own clock counts; a node that has been quiet for long does not delay the others."""
    resume = make_filter()
    resume.is_new("gone", T - 3600 * S, 1, 90 * S)
    resume.is_new("n1", T, 2, 100 * S)
    assert resume.start_stream(T + 2 * S, 101 * S) == T + S - 15 * S
    near = make_filter()
    near.is_new("n1", T, 1, 100 * S)
    near.is_new("n2", T - S, 2, 100 * S)
    assert near.start_stream(T + S, 101 * S) == T - S


def test_a_clock_that_is_ahead_does_not_ask_for_the_future() -> None:
    """A replay from a future time would be empty."""
    resume = make_filter()
    resume.is_new("n1", T + 3600 * S, 1, 0)
    assert resume.start_stream(T, 0) == T


def test_what_was_seen_is_dropped_in_a_replay_only() -> None:
    """Flows before the latest are replayed, flows at the same time are compared, later ones are new."""
    resume = make_filter()
    assert resume.is_new("n1", T, "a", 0)
    assert resume.is_new("n1", T, "b", 0)
    resume.start_stream(T, 0)
    assert not resume.is_new("n1", T - 5, "old", 1)
    assert not resume.is_new("n1", T, "a", 1)
    assert not resume.is_new("n1", T, "b", 1)
    assert resume.is_new("n1", T, "c", 1)
    assert resume.is_new("n1", T + 1, "d", 1)
    assert resume.is_new("n1", T, "late but live", 1)
    assert resume.repeated == 3


def test_each_node_has_its_own_mark() -> None:
    """One node's mark does not affect another's flows."""
    resume = make_filter()
    resume.is_new("n1", T, "a", 0)
    resume.start_stream(T, 0)
    assert resume.is_new("n2", T - S, "b", 1)


def test_a_clock_that_stepped_back_blinds_for_half_a_minute_at_most() -> None:
    """After a replay's time, flows that look old are new."""
    resume = make_filter()
    resume.is_new("n1", T, "a", 0)
    resume.start_stream(T, 0)
    assert not resume.is_new("n1", T - 60 * S, "b", 29 * S)
    assert resume.is_new("n1", T - 59 * S, "c", 31 * S)


def make_resumed_filter() -> ReplayFilter:
    """A stream that resumed at T, and continued for an hour: a flow every second."""
    resume = make_filter()
    resume.is_new("n1", T, 0, 0)
    assert resume.start_stream(T, 0) == T
    assert all(resume.is_new("n1", T + second * S, second, second * S) for second in range(1, 3601))
    return resume


def test_a_node_that_relay_asks_again_is_not_counted_again() -> None:
    """In the middle of a stream all of it is repeated, from any position, however often; new flows follow."""
    resume = make_resumed_filter()
    for start, end in ((0, 3601), (3000, 3602)):
        was = resume.repeated
        now = (end + 10) * S
        again = [resume.is_new("n1", T + second * S, second, now) for second in range(start, end + 1)]
        assert again == [False] * (end - start) + [True]
        assert resume.repeated == was + end - start


def test_a_clock_that_steps_back_in_a_stream_blinds_for_half_a_minute_at_most() -> None:
    """It looks like a replay for that long; a step to before the stream's beginning never does."""
    resume = make_resumed_filter()
    now = 3600 * S
    steps = [resume.is_new("n1", T + (1000 + second) * S, "a", now + second * S) for second in range(60)]
    assert steps == [False] * 30 + [True] * 30
    other = make_resumed_filter()
    assert all(other.is_new("n1", T + (second - 60) * S, "b", now + second * S) for second in range(60))


def test_the_first_stream_repeats_nothing() -> None:
    """Relay requests only new flows from a node."""
    resume = make_filter()
    resume.is_new("n1", T, "a", 0)
    assert resume.is_new("n1", T - 60 * S, "b", S)


def test_many_nodes_take_bounded_memory() -> None:
    """Names that an adversary makes up evict the oldest."""
    resume = ReplayFilter()
    for number in range(20_000):
        resume.is_new(f"node-{number}", T, number, 0)
    assert len(resume._marks) == 5000
