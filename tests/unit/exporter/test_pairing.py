"""Which two events form a latency, which do not, and what the table keeps of pending ones."""

from typing import Literal

import pytest

from services.exporter.pairing import QUIET_NS, TO_ENDPOINT, TO_NETWORK, TO_OVERLAY, TO_STACK, Flow, Pair, PairingTable

MS = 1_000_000
S = 1_000_000_000
T = 1_800_000_000 * S
CLIENT, SERVER = "factory/robot-control", "factory/robot-cell"


def table(entries: int = 1000, most_bytes: int = 1 << 20) -> PairingTable:
    """A table with the usual times."""
    return PairingTable(5 * S, 1 * S, entries, most_bytes)


def make_flow(point: int, at: int, *, answer: bool | None = False, talk: str = "tcp a 1 b 2 n1") -> Flow:
    """An event of a conversation, ``at`` ns after T."""
    protocol: Literal["tcp", "udp"] = "tcp" if talk.startswith("tcp") else "udp"
    return Flow(talk, T + at, point, protocol, answer, CLIENT, SERVER)


def feed(pairing: PairingTable, *flows: Flow, start: int = 20 * S) -> list[Pair]:
    """The pairs of these events, each arriving at its own time."""
    pairs = [pairing.step(flow, start + flow.time - T) for flow in flows]
    return [pair for pair in pairs if pair is not None]


@pytest.mark.parametrize("point", [TO_STACK, TO_OVERLAY, TO_NETWORK])
def test_a_handshake_through_the_network(point: int) -> None:
    """A SYN that leaves and the SYN-ACK at the client's endpoint enclose the network, for every kind of routing."""
    [pair] = feed(table(), make_flow(point, 0), make_flow(TO_ENDPOINT, 3 * MS, answer=True))
    assert pair == Pair(0.003, "tcp", "handshake", False, CLIENT, SERVER, "n1")


def test_the_first_of_two_points_counts() -> None:
    """Legacy routing shows a SYN at the stack and at the device: the latency begins at the first."""
    [pair] = feed(
        table(), make_flow(TO_STACK, 0), make_flow(TO_NETWORK, MS // 2), make_flow(TO_ENDPOINT, 2 * MS, answer=True)
    )
    assert pair.latency == 0.002


def test_a_pair_within_one_node_is_labelled_so() -> None:
    """Both at an endpoint, or through the stack to an endpoint of the same node: the local path only."""
    [plain] = feed(table(), make_flow(TO_ENDPOINT, 0), make_flow(TO_ENDPOINT, MS, answer=True))
    assert (plain.local, plain.latency) == (True, 0.001)
    routed = [make_flow(TO_STACK, 0), make_flow(TO_ENDPOINT, MS), make_flow(TO_STACK, 2 * MS, answer=True)]
    [pair] = feed(table(), *routed, make_flow(TO_ENDPOINT, 3 * MS, answer=True))
    assert (pair.local, pair.latency) == (True, 0.002)


def test_the_servers_node_gives_no_pair() -> None:
    """An arriving SYN and a departing SYN-ACK enclose the server only, and do not count as unanswered."""
    pairing = table()
    assert not feed(pairing, make_flow(TO_ENDPOINT, 0), make_flow(TO_NETWORK, MS, answer=True))
    pairing.step(make_flow(TO_NETWORK, 60 * S, talk="tcp c 1 d 2 n1"), 80 * S)
    assert pairing.counts["server-side"] == 1
    assert pairing.counts["unanswered"] == 0


def test_nodes_are_never_mixed() -> None:
    """Two nodes' clocks differ: an event of one node does not answer a request of another."""
    pairing = table()
    assert not feed(pairing, make_flow(TO_NETWORK, 0), make_flow(TO_ENDPOINT, MS, answer=True, talk="tcp a 1 b 2 n3"))
    assert pairing.counts["unasked"] == 1


def test_a_repeated_syn_keeps_the_time_of_the_first() -> None:
    """A retransmitted SYN costs a second, which the latency includes."""
    pairing = table()
    [pair] = feed(
        pairing, make_flow(TO_NETWORK, 0), make_flow(TO_NETWORK, S), make_flow(TO_ENDPOINT, S + 2 * MS, answer=True)
    )
    assert pair.latency == pytest.approx(1.002)
    assert pairing.counts["repeated"] == 1


def test_a_port_that_is_used_again_is_another_conversation() -> None:
    """A SYN after the limit is a new request; the earlier one counts as unanswered."""
    pairing = table()
    [pair] = feed(
        pairing, make_flow(TO_NETWORK, 0), make_flow(TO_NETWORK, 6 * S), make_flow(TO_ENDPOINT, 6 * S + MS, answer=True)
    )
    assert pair.latency == 0.001
    assert pairing.counts["unanswered"] == 1


@pytest.mark.parametrize(("took", "reason"), [(-MS, "negative"), (5 * S + 1, "absurd")])
def test_impossible_latencies_are_counted_and_dropped(took: int, reason: str) -> None:
    """A clock that stepped gives no observation."""
    pairing = table()
    assert pairing.step(make_flow(TO_NETWORK, 0), 20 * S) is None
    assert pairing.step(make_flow(TO_ENDPOINT, took, answer=True), 20 * S + 1) is None
    assert pairing.counts[reason] == 1
    assert pairing.pending == 0


def test_what_cannot_be_placed_is_counted() -> None:
    """An event without direction, and a point that encloses nothing."""
    pairing = table()
    assert not feed(pairing, make_flow(TO_NETWORK, 0, answer=None), make_flow(10, 0))
    assert dict(pairing.counts) == {"direction-unknown": 1, "other-point": 1}


def test_time_bounds_the_table() -> None:
    """An unanswered request is removed and counted after at most one and a half times the limit."""
    pairing = table()
    pairing.step(make_flow(TO_NETWORK, 0), 20 * S)
    pairing.step(make_flow(TO_NETWORK, 0, talk="tcp z 1 z 2 n1"), 28 * S)
    assert pairing.pending == 1
    assert pairing.counts["unanswered"] == 1


def test_time_bounds_the_table_while_nothing_comes() -> None:
    """After a flood without further flows, pending requests expire all the same."""
    pairing = table()
    for number in range(100):
        pairing.step(make_flow(TO_NETWORK, 0, talk=f"tcp flood {number} b 2 n1"), 20 * S)
    pairing.expire(24 * S)
    assert pairing.pending == 100
    pairing.expire(28 * S)
    assert (pairing.pending, pairing.pending_bytes) == (0, 0)
    assert pairing.counts["unanswered"] == 100


def test_entries_bound_the_table_and_the_young_survive() -> None:
    """A flood of SYNs evicts the oldest entries; a handshake during the flood is still paired."""
    pairing = table(entries=300)
    for number in range(5000):
        pairing.step(make_flow(TO_NETWORK, number, talk=f"tcp flood {number} b 2 n1"), 20 * S + number)
        assert pairing.pending <= 300
    pairing.step(make_flow(TO_NETWORK, 0), 20 * S)
    for number in range(90):
        pairing.step(make_flow(TO_NETWORK, number, talk=f"tcp more {number} b 2 n1"), 21 * S)
    assert pairing.step(make_flow(TO_ENDPOINT, MS, answer=True), 21 * S) is not None
    assert pairing.counts["evicted"] > 4000


def test_bytes_bound_the_table() -> None:
    """Long names cannot make it large."""
    pairing = table(entries=100_000, most_bytes=60_000)
    for number in range(2000):
        pairing.step(make_flow(TO_NETWORK, 0, talk=f"tcp {'x' * 400} {number}"), 20 * S)
        assert pairing.pending_bytes <= 60_000
    assert pairing.pending > 50


def udp(point: int, at: int, *, answer: bool = False) -> Flow:
    """An event of one UDP conversation."""
    return make_flow(point, at, answer=answer, talk="udp a 1 b 2 n1")


def test_udp_first_request_and_first_reply() -> None:
    """The first packet of a conversation and the first one back are a pair; the later samples are not."""
    pairing = table()
    first = [udp(TO_NETWORK, 0), udp(TO_ENDPOINT, 2 * MS, answer=True)]
    samples = [udp(TO_NETWORK, 5 * S + MS), udp(TO_ENDPOINT, 5 * S + 400 * MS, answer=True)]
    [pair] = feed(pairing, *first, *samples)
    assert pair == Pair(0.002, "udp", "request", False, CLIENT, SERVER, "n1")
    assert pairing.counts["sampled"] == 1
    assert pairing.counts["unasked"] == 1


def test_udp_after_a_real_silence_counts_again() -> None:
    """A silence longer than aggregation causes is real: the next packet is a new request."""
    pairing = table()
    pairs = feed(pairing, udp(TO_NETWORK, 0), udp(TO_NETWORK, 8 * S), udp(TO_ENDPOINT, 8 * S + MS, answer=True))
    assert [pair.latency for pair in pairs] == [0.001]


def test_udp_is_not_trusted_after_an_interruption() -> None:
    """The missed event may have been the first packet, so for a while no UDP event counts as one."""
    pairing = table()
    pairing.mark_interrupted()
    assert not feed(pairing, udp(TO_NETWORK, 0), udp(TO_ENDPOINT, MS, answer=True))
    later = QUIET_NS + 2 * S
    assert feed(pairing, udp(TO_NETWORK, later), udp(TO_ENDPOINT, later + MS, answer=True))


def test_udp_that_relay_held_back_was_not_silent() -> None:
    """Sorting may release one report of a busy conversation at once and the next one late: their own times count."""
    pairing = table()
    for number, arrived in enumerate((20 * S, 21 * S, 60 * S, 61 * S, 90 * S)):
        others = make_flow(TO_NETWORK, number * 5 * S, talk=f"udp other {number} b 2 n1")
        pairing.step(others, arrived)
        pairing.step(udp(TO_NETWORK, number * 5 * S), arrived)
        pair = pairing.step(udp(TO_ENDPOINT, number * 5 * S + 300 * MS, answer=True), arrived)
        assert pairing.counts["sampled"] == number
        assert (pair is None) == (number > 0)


def test_udp_is_not_trusted_before_its_node_was_observed_for_long_enough() -> None:
    """A new stream's flows may be late: events before a node's first one are unknown."""
    pairing = table()
    pairing.mark_interrupted()
    other = "udp a 1 b 2 n2"
    assert not feed(pairing, udp(TO_NETWORK, 0), udp(TO_ENDPOINT, MS, answer=True), start=900 * S)
    assert not feed(
        pairing, make_flow(TO_NETWORK, 7 * S, talk=other), make_flow(TO_ENDPOINT, 7 * S + MS, answer=True, talk=other)
    )
    assert feed(pairing, udp(TO_NETWORK, 7 * S), udp(TO_ENDPOINT, 7 * S + MS, answer=True))


def test_udp_of_a_node_whose_clock_was_set_back_is_observed_again() -> None:
    """Trust restarts at once, not only when the old time is reached again."""
    pairing = table()
    pairing.mark_interrupted()
    other, third = "udp a 1 b 2 n1", "udp a 3 b 2 n1"
    feed(pairing, udp(TO_NETWORK, 3600 * S))
    feed(pairing, make_flow(TO_NETWORK, 0, talk=other), start=3700 * S)
    later = QUIET_NS + S
    asked = make_flow(TO_NETWORK, later, talk=third), make_flow(TO_ENDPOINT, later + MS, answer=True, talk=third)
    assert feed(pairing, *asked, start=3700 * S)


def test_a_udp_reply_after_the_limit_is_no_reply() -> None:
    """An occasional packet back in a one-way stream is not a round trip."""
    pairing = table()
    assert not feed(pairing, udp(TO_NETWORK, 0), udp(TO_ENDPOINT, 3 * S, answer=True))
    assert pairing.counts["absurd"] == 1


def test_udp_through_the_stack_to_the_same_node_is_local() -> None:
    """The second event of a first packet is no sample: it shows that both ends are on this node."""
    [pair] = feed(table(), udp(TO_STACK, 0), udp(TO_ENDPOINT, MS), udp(TO_ENDPOINT, 2 * MS, answer=True))
    assert pair.local


def test_a_flood_of_udp_stops_trust_instead_of_memory() -> None:
    """If conversations are forgotten early, none counts as new until a silence can be proven again."""
    pairing = table(entries=300)
    for number in range(1000):
        pairing.step(make_flow(TO_NETWORK, number, talk=f"udp flood {number} b 2 n1"), 20 * S + number)
    assert pairing.counts["overheard"] > 0
    assert not feed(pairing, udp(TO_NETWORK, MS), udp(TO_ENDPOINT, 2 * MS, answer=True))
