"""Adversarial flow streams: memory stays bounded, every flow is counted, and no error is raised."""

import time

from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from prometheus_client import CollectorRegistry, generate_latest

from services.exporter.flow_follower import FlowFollower
from services.exporter.flow_reader import FlowReader
from services.exporter.metrics import LatencyMetrics
from services.exporter.observer_pb2 import Flow, GetFlowsResponse
from services.exporter.pairing import TO_ENDPOINT, TO_NETWORK, PairingTable
from tests.support.hubble.flows import CELL, ROBOT, UPLOAD, End, Talk

ROBOT_KEY = "factory/robot-control"
S = 1_000_000_000
ENTRIES, BYTES, PEERS = 300, 60_000, 4


def follower() -> FlowFollower:
    """All stages behind the stream, with small bounds."""
    registry = CollectorRegistry()
    latencies = LatencyMetrics([ROBOT_KEY], (0.001, 0.01, 0.1), PEERS, registry)
    made = FlowFollower(
        lambda _: iter(()),  # type: ignore[arg-type,return-value]
        FlowReader([ROBOT_KEY], ["factory/telemetry-upload"], (53,)),
        PairingTable(5 * S, S, ENTRIES, BYTES),
        latencies,
        30 * S,
    )
    registry.register(made.status)
    made.registry = registry  # type: ignore[attr-defined]
    return made


def count_flows(made: FlowFollower) -> int:
    """Flows that were counted, are pending, or became an observation or half of one."""
    counts = made._pairing.counts
    silent = ("unanswered", "evicted", "server-side", "overheard")
    dropped = sum(number for reason, number in counts.items() if reason not in silent)
    return sum(made.status.unusable.values()) + dropped + made._replay_filter.repeated


wild_times = st.one_of(
    st.integers(-(2**62), 2**62),
    st.integers(-10 * S, 10 * S).map(lambda off: time.time_ns() + off),
)
ends = st.sampled_from([ROBOT, CELL, UPLOAD, End("", "", "", ""), End("::1", "x" * 300, "y" * 300, "z")]) | st.builds(
    End, st.text(max_size=60), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20)
)
talks = st.builds(
    Talk,
    st.sampled_from(["tcp", "udp"]),
    ends,
    ends,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["n1", "n2", "", "n" * 400]),
    st.sampled_from(["client", "server"]),
)
points = st.sampled_from([0, 3, 4, 5, 10, 11, 101, 999, -7])


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused_or_processed(body: bytes) -> None:
    """Bytes that are no message are a decoding error; bytes that happen to be one cause no error."""
    made = follower()
    try:
        message = GetFlowsResponse.FromString(body)
    except DecodeError:
        return
    made.process(message, 1)


@given(st.lists(st.tuples(talks, wild_times, points, st.sampled_from([True, False, "unknown"]), st.booleans())))
@settings(max_examples=150, deadline=None)
def test_any_flows_are_processed(events: list[tuple[Talk, int, int, bool, bool]]) -> None:
    """Arbitrary times, points, names, ports and directions: each flow is counted under a reason or kept."""
    made = follower()
    for number, (talk, when, point, reply, back) in enumerate(events):
        stamp = max(min(when, 253402300799 * S), -62135596800 * S)
        flow = (talk.answer if back else talk.ask)(stamp, point, reply)
        made.process(GetFlowsResponse(flow=flow), number * 1000 + 1)
    assert made.status.received == len(events)
    assert count_flows(made) <= len(events)
    assert made._pairing.pending <= ENTRIES
    generate_latest(made.registry)  # type: ignore[attr-defined]


fields = st.sampled_from([field.name for field in Flow.DESCRIPTOR.fields])


@settings(deadline=None)
@given(st.lists(fields, min_size=1, max_size=14, unique=True), st.booleans())
def test_any_fields_may_be_missing(missing: list[str], back: bool) -> None:
    """A flow with missing parts is usable or unusable, and never an error."""
    made = follower()
    flow = (Talk().answer if back else Talk().ask)(time.time_ns(), TO_NETWORK)
    for name in missing:
        flow.ClearField(name)
    made.process(GetFlowsResponse(flow=flow), 1)
    assert made.status.received == 1


@settings(deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.integers(0, 2**63), st.text(max_size=30))
def test_unknown_enums_are_named_unknown(state: int, source: int, number: int, node: str) -> None:
    """States and losses that only a newer Hubble knows are counted as unknown."""
    made = follower()
    message = GetFlowsResponse(node_name=node)
    message.node_status.state_change = state  # type: ignore[assignment]
    message.node_status.node_names.append(node)
    made.process(message, 1)
    lost = GetFlowsResponse(node_name=node)
    lost.lost_events.source = source  # type: ignore[assignment]
    lost.lost_events.num_events_lost = number
    made.process(lost, 2)
    assert sum(made.status.lost.values()) == number
    assert len(made.status.nodes) == 1
    generate_latest(made.registry)  # type: ignore[attr-defined]


class Stream(RuleBasedStateMachine):
    """Floods, ordinary handshakes, reconnections and clocks that jump, in any order."""

    def __init__(self) -> None:
        """A new exporter, at some time."""
        super().__init__()
        self.made = follower()
        self.now = 100 * S
        self.wall = time.time_ns() - 3600 * S
        self.port = 1024

    @rule(step=st.integers(1, 3 * S))
    def time_passes(self, step: int) -> None:
        """Both clocks advance."""
        self.now += step
        self.wall += step

    @rule(step=st.integers(-1800 * S, 1800 * S))
    def the_nodes_clock_is_set(self, step: int) -> None:
        """Only the node's clock is set; this process does not notice."""
        self.wall += step

    @rule(size=st.integers(1, 400), protocol=st.sampled_from(["tcp", "udp"]))
    def a_flood(self, size: int, protocol: str) -> None:
        """Unanswered requests, each from another port."""
        for _ in range(size):
            self.port += 1
            self._take(Talk(protocol, port=self.port).ask(self.wall, TO_NETWORK))  # type: ignore[arg-type]

    @rule(took=st.integers(0, S))
    def a_handshake(self, took: int) -> None:
        """A request and its answer without events in between are always paired, whatever came before."""
        self.port += 1
        talk = Talk(port=self.port)
        before = self.made._latencies.observations[ROBOT_KEY]
        replayed = self.made._replay_filter.repeated
        self._take(talk.ask(self.wall, TO_NETWORK))
        self.wall += took
        self._take(talk.answer(self.wall, TO_ENDPOINT))
        if self.made._replay_filter.repeated == replayed and self.wall < time.time_ns():
            assert self.made._latencies.observations[ROBOT_KEY] == before + 1

    @rule()
    def a_reconnection(self) -> None:
        """The stream is cut and opened again."""
        self.made._replay_filter.start_stream(self.wall, self.now)
        self.made._pairing.mark_interrupted()

    @rule()
    def new_peers(self) -> None:
        """Pods of many new workloads talk to the critical one."""
        for _ in range(10):
            self.port += 1
            peer = End("10.0.9.9", "factory", f"peer{self.port}-0", f"peer{self.port}")
            talk = Talk(port=self.port, server=peer)
            self._take(talk.ask(self.wall, TO_NETWORK))
            self._take(talk.answer(self.wall + 1000, TO_ENDPOINT))

    def _take(self, flow: Flow) -> None:
        self.now += 1000
        self.made.process(GetFlowsResponse(flow=flow), self.now)

    @invariant()
    def all_is_bounded(self) -> None:
        """Entries, bytes, remembered conversations, peers and series are bounded."""
        pairing = self.made._pairing
        assert pairing.pending <= ENTRIES
        assert 0 <= pairing.pending_bytes <= BYTES
        assert sum(map(len, pairing._heard)) <= ENTRIES
        assert len(self.made._latencies._observe) <= 2 * (PEERS + 2)


Stream.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestStream = Stream.TestCase
