"""The kubelet's page, as kubelets and runtimes write it, and the pods that it tells of."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from services.meter.host_network import HostNetwork
from services.meter.kubelet import parse_page
from services.meter.pods import NodePod
from services.meter.reading import NodeMeter, OtherSources, PodBytes
from tests.support.cadvisor_page import CGROUPFS, HOST, UID, Sandbox, write_page
from tests.support.node_network import NodeNetwork, node_pod

NOW = 1_795_814_409_000
STAMP = 1_795_814_400_000
OTHER = "0683e192-de93-11ed-855f-b496913f5328"


def pod(name: str = "a", uid: str = UID, *, host_network: bool = False) -> NodePod:
    """A pod of the node with this uid."""
    one = node_pod(name, "10.0.1.5", host_network=host_network)
    return replace(one, metadata=replace(one.metadata, uid=uid))


def read(*sandboxes: Sandbox, pods: tuple[NodePod, ...] = ()) -> dict[str, PodBytes]:
    """What the page tells, by the pod's name; by default of a pod ``a``."""
    found = parse_page(write_page(sandboxes), pods or (pod(),), NOW)
    return {name: one for (_, name), one in found.items()}


@pytest.mark.parametrize("sent", [0, 125_842, 1_000_000, 23_174_557, 330_484_503_673, 2**53 - 1])
def test_a_counter_is_read_to_the_byte_with_its_time(sent: int) -> None:
    """Go writes it with an exponent from a million on; none of the host's interfaces is a pod's."""
    (one,) = read(Sandbox("a", sent, received=7)).values()
    assert (one.sent, one.received, one.stamp, one.source) == (sent, 7, STAMP, "kubelet")


@pytest.mark.parametrize(
    "sandbox",
    [
        Sandbox("a", 5, group=CGROUPFS),
        Sandbox("a", 5, container="POD", sandbox="k8s_POD_a_factory_1cdae767_0", group=CGROUPFS),
        Sandbox("a", 5, group="/kubelet.slice/kubelet-kubepods.slice" + "/x-pod{uid}.slice/crio-{sandbox}.scope"),
        Sandbox("a", 5, group="/kata_overhead/{sandbox}"),
        Sandbox("a", 5, group="/kubepods/burstable/pod4e0f5b6a9d3c2b1a0f9e8d7c6b5a4938/{sandbox}"),
    ],
    ids=["cgroupfs", "docker", "kind", "kata", "static"],
)
def test_every_runtime_names_a_sandbox_in_its_own_way(sandbox: Sandbox) -> None:
    """Where its control group does not tell the pod's uid, the pod's name does."""
    assert read(sandbox)["a"].sent == 5


def test_labels_may_come_in_any_order_and_have_any_text() -> None:
    """A runtime that answers for cAdvisor puts them in its own order, and a name may hold what ends a label."""
    labels = r'interface="eth0",name="x\",interface=\"net1\"} 9",pod="a",id="/x",pod_name="b",namespace="factory"'
    lines = [
        f"container_network_{way}_bytes_total{{{labels}}} 12 {STAMP}\n".encode() for way in ("receive", "transmit")
    ]
    assert [one.sent for one in parse_page(lines, (pod(),), NOW).values()] == [12]


def test_a_runtime_that_counts_on_demand_writes_no_time() -> None:
    """Then it was counted when the page was read."""
    assert read(Sandbox("a", 5, stamp=None))["a"].stamp == NOW


def test_further_networks_of_a_pod_do_not_count() -> None:
    """No limit applies to them."""
    assert read(Sandbox("a", 5, interfaces=("eth0", "net1", "tunl0")))["a"].sent == 5
    assert not read(Sandbox("a", 5, interfaces=("net1",)))


def test_a_pod_on_the_hosts_network_has_no_counters_of_its_own() -> None:
    """The page has all of the host's interfaces for it."""
    assert not read(Sandbox("a", 5, interfaces=HOST), pods=(pod(host_network=True),))


@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_sandboxes_the_one_that_is_still_counted_is_believed(is_first: bool) -> None:
    """A sandbox that ended stays on the page for a while, before or after the new one."""
    ended = Sandbox("a", 10**9, stamp=STAMP - 60_000, sandbox="0" if is_first else "f")
    page = (ended, Sandbox("a", 5)) if is_first else (Sandbox("a", 5), ended)
    assert read(*page)["a"].sent == 5


def test_a_pod_that_was_made_again_does_not_get_the_counters_of_the_one_before() -> None:
    """A StatefulSet's has the same name: by the name alone, its bytes would fall when the old series goes."""
    old = Sandbox("a", 10**9, uid=OTHER)
    assert not read(old)
    assert read(old, Sandbox("a", 5, stamp=STAMP - 1000))["a"].sent == 5
    assert not read(Sandbox("a", 10**9, uid=OTHER, group=CGROUPFS))


def test_series_of_pods_that_are_gone_and_of_other_nodes_pods_are_left_out() -> None:
    """The API says which pods there are."""
    assert read(Sandbox("gone", 7), Sandbox("a", 5)).keys() == {"a"}


def test_one_of_two_counters_is_none() -> None:
    """As where a page ends within a family."""
    page = write_page([Sandbox("a", 5)])
    assert not parse_page([line for line in page if b"transmit_bytes" not in line], (pod(),), NOW)


@pytest.mark.parametrize(
    "line",
    [
        'container_network_transmit_bytes_total{namespace="factory",pod="a",interface="eth0"} NaN 1',
        'container_network_transmit_bytes_total{namespace="factory",pod="a",interface="eth0"} -5 1',
        'container_network_transmit_bytes_total{namespace="factory",pod="a",interface="eth0" 5 1',
        "container_network_transmit_bytes_total 5",
        "<html>",
        "",
    ],
)
def test_what_is_no_counter_is_passed_over(line: str) -> None:
    """The others on the page stand."""
    page = write_page([Sandbox("a", 5)], more=[line])
    assert [one.sent for one in parse_page(page, (pod(),), NOW).values()] == [5]


def test_netkit_devices_are_counted_by_the_kubelet_and_the_reason_says_so(tmp_path: Path) -> None:
    """The host's end of a netkit device is in /proc as a veth's is; only the driver's name differs."""
    network = NodeNetwork(tmp_path)
    network.attach("10.0.1.5", "lxc1", received=3)
    meter = NodeMeter(HostNetwork(tmp_path), driver_of=lambda _: "netkit", now=lambda: NOW)
    counters = parse_page(write_page([Sandbox("a", 5)]), (pod(),), NOW)
    (one,) = meter.read([pod()], OtherSources(counters=counters)).metered
    assert (one.sent, one.source, one.stamp) == (5, "kubelet", STAMP)
    faults = ("kubelet: its page has no counter of the pod",)
    (missing,) = meter.read([pod()], OtherSources(faults=faults)).unmetered
    assert missing.reason.startswith("netkit: ")
    assert missing.reason.endswith(f"; {faults[0]}")
