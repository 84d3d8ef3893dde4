"""The request to Relay, and the reader of its messages."""

import pytest

from services.exporter.flow_reader import FlowReader, UnusableFlow, build_request, guess_workload
from services.exporter.observer_pb2 import Flow, GetFlowsResponse
from services.exporter.pairing import TO_ENDPOINT, TO_NETWORK
from tests.support.hubble.filters import apply_mask, passes
from tests.support.hubble.flows import CELL, ROBOT, UPLOAD, End, Talk

T = 1_800_000_000_000_000_000
CRITICAL = ["factory/robot-control"]
TARGETS = ["factory/telemetry-upload"]
ASKED = build_request(CRITICAL, TARGETS, (53,), None)


def read(flow: Flow, critical: list[str] = CRITICAL) -> object:
    """The result for a flow after the request's filters and mask."""
    left = apply_mask(ASKED.field_mask.paths, flow)
    return FlowReader(critical, TARGETS, (53,)).read(GetFlowsResponse(flow=left, node_name=left.node_name))


def through(flow: Flow) -> bool:
    """Whether the request passes a flow."""
    return passes(ASKED.whitelist, ASKED.blacklist, flow)


def test_both_directions_at_both_ends_pass() -> None:
    """A node names the workload of its own end only: the remote critical pod is found by its pod's name."""
    for local in ("client", "server"):
        for client, server in ((ROBOT, CELL), (CELL, ROBOT)):
            for protocol in ("tcp", "udp"):
                talk = Talk(protocol, client, server, local=local)
                assert through(talk.ask(T, TO_NETWORK))
                assert through(talk.answer(T, TO_ENDPOINT))


def test_what_cannot_be_paired_stays_with_relay() -> None:
    """Other workloads, other events, points of arrival, established connections, name servers, throttled pods."""
    other = Talk(client=End("10.0.1.6", "factory", "erp-5d5f7c8b9d-x2x4z", "erp"))
    policy = Talk().ask(T, TO_NETWORK)
    policy.event_type.type = 5
    established = Talk().ask(T, TO_NETWORK)
    established.l4.TCP.flags.SYN = False
    throttled = Talk(client=ROBOT, server=UPLOAD, local="server").ask(T, TO_ENDPOINT)
    for flow in (
        other.ask(T, TO_NETWORK), policy, established, throttled,
        Talk().ask(T, 5), Talk("udp", service=53).ask(T, TO_NETWORK),
    ):  # fmt: skip
        assert not through(flow)


def test_a_pods_prefix_is_not_enough() -> None:
    """Relay passes another workload with a longer name; the reader does not."""
    longer = End("10.0.1.6", "factory", "robot-control-spare-6d5f7c8b9d-x2x4z", "robot-control-spare")
    flow = Talk(client=longer).ask(T, TO_NETWORK)
    assert through(flow)
    with pytest.raises(UnusableFlow, match="not-critical"):
        read(flow)


def test_a_target_is_left_out_at_the_far_end_too() -> None:
    """Relay cannot know the workload of a remote pod, but the reader can."""
    flow = Talk(client=ROBOT, server=UPLOAD).ask(T, TO_NETWORK)
    assert through(flow)
    with pytest.raises(UnusableFlow, match="throttled"):
        read(flow)


def test_the_mask_keeps_what_is_needed_and_invents_nothing() -> None:
    """A masked flow reads like the whole one, and an unknown direction stays unknown."""
    seen = read(Talk("udp").answer(T, TO_ENDPOINT))
    whole = FlowReader(CRITICAL, TARGETS, ()).read(GetFlowsResponse(flow=Talk("udp").answer(T, TO_ENDPOINT)))
    assert seen == whole
    assert whole.flow.answer is True
    assert whole.flow.conversation == "udp 10.0.1.5 40000 10.0.3.7 443 n1"
    unknown = FlowReader(CRITICAL, TARGETS, ()).read(
        GetFlowsResponse(flow=apply_mask(ASKED.field_mask.paths, Talk("udp").ask(T, TO_NETWORK, reply="unknown")))
    )
    assert unknown.flow.answer is None


def test_a_syn_ack_that_is_no_reply_has_no_direction() -> None:
    """An answer needs both flags and connection tracking; a SYN alone is a request."""
    reader = FlowReader(CRITICAL, TARGETS, ())
    for reply in (False, "unknown"):
        flow = Talk().answer(T, TO_ENDPOINT, reply=reply)
        assert reader.read(GetFlowsResponse(flow=flow)).flow.answer is None
    assert reader.read(GetFlowsResponse(flow=Talk().ask(T, TO_NETWORK, reply="unknown"))).flow.answer is False


@pytest.mark.parametrize("field", ["time", "IP", "l4", "event_type"])
def test_a_flow_with_a_part_missing_is_unusable(field: str) -> None:
    """It is counted under a reason, without any other effect."""
    flow = Talk().ask(T, TO_NETWORK)
    flow.ClearField(field)
    with pytest.raises(UnusableFlow):
        FlowReader(CRITICAL, TARGETS, ()).read(GetFlowsResponse(flow=flow))


def test_endless_names_are_refused() -> None:
    """No name longer than Kubernetes allows enters a key or a cache."""
    reader = FlowReader(CRITICAL, TARGETS, ())
    flow = Talk().ask(T, TO_NETWORK)
    flow.IP.source = "1" * 100
    with pytest.raises(UnusableFlow, match="malformed"):
        reader.read(GetFlowsResponse(flow=flow))
    flow = Talk().ask(T, TO_NETWORK)
    flow.destination.pod_name = "x" * 100_000
    with pytest.raises(UnusableFlow, match="malformed"):
        reader.read(GetFlowsResponse(flow=flow))


@pytest.mark.parametrize(
    ("pod", "workload"),
    [
        ("robot-control-6d5f7c8b9d-x2x4z", "robot-control"),
        ("web-0", "web"),
        ("cilium-x2x4z", "cilium"),
        ("standalone", "standalone"),
        ("robot-cell-0", "robot-cell"),
    ],
)
def test_workloads_by_the_names_of_their_pods(pod: str, workload: str) -> None:
    """Deployments, StatefulSets and DaemonSets name their pods by known schemes."""
    assert guess_workload(pod) == workload


def test_a_replay_is_asked_for_by_time() -> None:
    """``since`` has nanoseconds, and excludes a number of flows."""
    asked = build_request(CRITICAL, TARGETS, (), T + 7)
    assert asked.since.ToNanoseconds() == T + 7
    assert (asked.number, asked.follow, asked.first) == (0, True, False)
