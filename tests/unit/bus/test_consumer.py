"""The reader's bookkeeping: a bounded number of messages in flight, and exact knowledge of who received what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bus.consumer import ConsumerLost, PullState, SharedPullState
from services.bus.envelope import Delivery


def delivery(seq: int, number: int, count: int = 1) -> Delivery:
    """The ``number``-th delivery of the consumer, the ``count``-th of this message."""
    return Delivery(seq=seq, count=count, number=number, published=0)


def test_it_asks_by_half_batches() -> None:
    """A new request is sent while the last half is still in flight, so that the reader never waits."""
    pull = PullState(10)
    assert pull.request_more(0) == 10
    assert pull.request_more(0) == 0
    for number in range(1, 5):
        pull.record_delivery(delivery(number, number))
    assert pull.request_more(0) == 0
    pull.record_delivery(delivery(5, 5))
    assert pull.request_more(0) == 5


@given(st.integers(1, 20), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3))))
def test_it_never_asks_for_more_than_it_can_hold(batch: int, rounds: list[tuple[int, int]]) -> None:
    """Whatever arrives in between, messages in flight and in the queue fit into the batch."""
    pull = PullState(batch)
    coming = waiting = number = 0
    for arriving, done in rounds:
        coming += pull.request_more(waiting)
        assert coming + waiting <= batch
        for _ in range(min(arriving, coming)):
            number += 1
            coming -= 1
            waiting += 1
            pull.record_delivery(delivery(number, number))
        waiting = max(waiting - done, 0)


def test_it_knows_since_when_it_received_everything() -> None:
    """A gap in the consumer's numbers is a message that went to another reader."""
    pull = PullState(10)
    arrivals = [(40, 7), (41, 8), (45, 9), (50, 11), (51, 12), (41, 13), (52, 15)]
    assert [pull.record_delivery(delivery(*one)) for one in arrivals] == [40, 40, 40, 50, 50, 50, 52]


def test_what_comes_again_does_not_begin_a_run() -> None:
    """Messages 4 to 6 went to a former reader: redelivery of 3, followed by 7, says nothing about them."""
    pull = PullState(10)
    arrivals = [(3, 7, 2), (7, 8, 1), (8, 9, 1), (4, 10, 2), (9, 11, 1)]
    assert [pull.record_delivery(delivery(*one)) for one in arrivals] == [3, 7, 7, 7, 7]


@pytest.mark.parametrize(
    "headers",
    [
        {"Status": "100", "Description": "Idle Heartbeat"},
        {"Status": "404", "Description": "No Messages"},
        {"Status": "408", "Description": "Request Timeout", "Nats-Pending-Messages": "10"},
        {"Status": "409", "Description": "Batch Completed"},
        {"Status": "409", "Description": "Message Size Exceeds MaxBytes", "Nats-Pending-Messages": "10"},
    ],
)
def test_ordinary_status_messages_go_on(headers: dict[str, str]) -> None:
    """An ended request is sent again; a heartbeat changes nothing."""
    pull = PullState(10)
    pull.request_more(0)
    pull.record_status(headers)
    assert pull.request_more(0) == (0 if headers["Status"] == "100" else 10)


@pytest.mark.parametrize(
    "headers",
    [
        {"Status": "503"},
        {"Status": "409", "Description": "Consumer Deleted"},
        {"Status": "409", "Description": "Leadership Change"},
        {"Status": "409", "Description": "Server Shutdown"},
        {"Status": "400", "Description": "Bad Request"},
        {},
    ],
)
def test_a_lost_consumer_is_noticed(headers: dict[str, str]) -> None:
    """The reader has to look up the consumer again."""
    with pytest.raises(ConsumerLost):
        PullState(10).record_status(headers)


def test_a_partly_answered_request_counts_what_is_left() -> None:
    """The server reports how many messages it did not send; messages in flight still count."""
    pull = PullState(10)
    pull.request_more(0)
    pull.record_delivery(delivery(1, 1))
    pull.record_status({"Status": "408", "Nats-Pending-Messages": "6"})
    assert pull.request_more(0) == 7


def test_a_sharer_always_has_a_request() -> None:
    """Requests of a second overlap; an overloaded reader sends none, so that the next one gets the messages."""
    now = 0.0
    pull = SharedPullState(10, lambda: now)
    asked = []
    for tick in range(21):
        now = tick / 8
        if pull.request_more(0):
            asked.append(tick)
    assert asked == [0, 4, 8, 12, 16, 20]
    assert pull.request_more(0) == 0
    now = 3.0
    assert pull.request_more(10) == 0, "a batch waits"
    assert pull.request_more(9) == 10


def test_a_busy_sharer_asks_before_its_requests_are_used_up() -> None:
    """Less than half a batch left would let messages go to another reader."""
    pull = SharedPullState(10, lambda: 0.0)
    assert pull.request_more(0) == 10
    for number in range(1, 6):
        pull.record_delivery(delivery(number, number))
        assert pull.request_more(0) == 0
    pull.record_delivery(delivery(6, 6))
    assert pull.request_more(0) == 10
