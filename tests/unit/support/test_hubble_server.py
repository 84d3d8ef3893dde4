"""The test server itself: aggregation and tracking as in Cilium's datapath, masks and filters as in Hubble."""

import pytest

from services.exporter.observer_pb2 import Flow, FlowFilter
from tests.support.hubble.conntrack import ACK, FIN, SYN, Conntrack, Packet
from tests.support.hubble.filters import InvalidMask, apply_mask, passes
from tests.support.hubble.flows import Talk

MS, S = 1_000_000, 1_000_000_000


def there(flags: int = 0, protocol: int = 6) -> Packet:
    """A packet from the client."""
    return Packet(protocol, "a", 1, "b", 2, flags)


def back(flags: int = 0, protocol: int = 6) -> Packet:
    """A packet from the server."""
    return Packet(protocol, "b", 2, "a", 1, flags)


def test_a_handshake_is_reported_once_in_each_direction() -> None:
    """SYN and SYN-ACK are new flags; a SYN that is retransmitted within the interval is not reported."""
    table = Conntrack()
    table.leaves(there(SYN), 0)
    assert table.passes(there(SYN)) == (True, False)
    table.leaves(there(SYN), S)
    assert table.passes(there(SYN)) == (False, False)
    assert table.arrives(back(SYN | ACK), S + MS) == (True, True)
    table.leaves(there(ACK), S + 2 * MS)
    assert table.passes(there(ACK)) == (False, False)
    assert table.arrives(back(FIN | ACK), 2 * S) == (True, True)


def test_a_busy_conversation_is_reported_every_five_seconds() -> None:
    """Of a UDP stream, the first packet and then one per interval; the first reply at once."""
    table = Conntrack()
    reports = []
    for number in range(1200):
        table.leaves(there(protocol=17), number * 10 * MS)
        verdict = table.passes(there(protocol=17))
        assert verdict is not None
        reports += [number * 10] if verdict.report else []
    assert reports == [0, 5010, 10020]
    assert table.arrives(back(protocol=17), 12 * S) == (True, True)
    assert table.arrives(back(protocol=17), 12 * S + MS) == (False, True)


def test_the_servers_node_sees_the_reverse() -> None:
    """A request arrives as no reply, its answer leaves as one; a packet without an endpoint is not tracked."""
    table = Conntrack()
    assert table.arrives(there(SYN), 0) == (True, False)
    table.leaves(back(SYN | ACK), MS)
    assert table.passes(back(SYN | ACK)) == (True, True)
    assert table.passes(there(SYN)) is None


def test_masks_follow_hubble() -> None:
    """Nested paths appear, leaves do not; both members of a oneof cannot be named; unknown paths are refused."""
    flow = Talk("udp").ask(1, 11, reply="unknown")
    assert not apply_mask(["is_reply"], flow).HasField("is_reply")
    assert apply_mask(["is_reply.value"], flow).HasField("is_reply")
    assert apply_mask(["l4"], flow).l4.HasField("UDP")
    assert not apply_mask(["l4.UDP.source_port", "l4.TCP.source_port"], flow).l4.HasField("UDP")
    for path in ("nothing", "time.nothing", "source.workloads.name"):
        with pytest.raises(InvalidMask):
            apply_mask([path], Flow())


def test_filters_follow_hubble() -> None:
    """Fields are ANDed, filters ORed; SYN matches SYN-ACK; a pod is a prefix in its namespace."""
    flow = Talk().answer(1, 101)
    syn = FlowFilter(protocol=["tcp"])
    syn.tcp_flags.add(SYN=True)
    assert passes([syn], [], flow)
    assert not passes([FlowFilter(protocol=["udp"])], [], flow)
    assert passes([FlowFilter(protocol=["udp"]), FlowFilter(source_pod=["factory/robot-ce"])], [], flow)
    assert not passes([FlowFilter(source_pod=["robot-ce"])], [], flow)
    assert not passes([], [FlowFilter(reply=[True])], flow)
    assert passes([], [FlowFilter(reply=[True])], Talk().ask(1, 11, reply="unknown"))
