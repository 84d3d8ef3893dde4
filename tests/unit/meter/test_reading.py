"""From routes and counters to pods, and every reason why a pod is not measured."""

from pathlib import Path

import pytest

from schemas.config import Signal
from services.meter.host_network import HostNetwork
from services.meter.page import PageBuilder
from services.meter.reading import NodeMeter, OtherSources, PodBytes, Reading
from services.sampler.scrape.parser import PageReader
from services.sampler.workloads import Workloads, metric_names
from tests.support.node_network import NodeNetwork, node_pod


class Node:
    """A node's files and the meter that reads them."""

    def __init__(self, folder: Path, driver: str = "veth", *, trust_netkit: bool = False) -> None:
        """Begin without pods."""
        self.network = NodeNetwork(folder)
        self.time = 1000
        self.meter = NodeMeter(
            HostNetwork(folder), trust_netkit=trust_netkit, driver_of=lambda _: driver, now=lambda: self.time
        )


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node without pods."""
    return Node(tmp_path)


def sent(reading: Reading) -> dict[str, int]:
    """Bytes by pod."""
    return {one.pod.metadata.name: one.sent for one in reading.metered}


def reasons(reading: Reading) -> dict[str, str]:
    """Reasons by pod."""
    return {one.pod.metadata.name: one.reason for one in reading.unmetered}


def test_what_a_device_received_the_pod_sent(node: Node) -> None:
    """IPv4, IPv6 alone, and a device name as long as the kernel allows."""
    node.network.attach("10.0.1.5", "lxc0123456789ab", received=2**40, sent=7)
    node.network.attach("fd00:1::a", "lxc2", received=5)
    reading = node.meter.read([node_pod("a", "10.0.1.5"), node_pod("b", "fd00:1::a")])
    assert sent(reading) == {"a": 2**40, "b": 5}
    assert reading.metered[0].received == 7
    assert {one.stamp for one in reading.metered} == {1000}
    assert not reading.unmetered


def test_counters_are_read_anew_each_time(node: Node) -> None:
    """There is no cache between the kernel and the page."""
    pod = node_pod("a", "10.0.1.5")
    for count in range(5):
        node.network.attach("10.0.1.5", "lxc1", received=count)
        assert sent(node.meter.read([pod])) == {"a": count}


def test_a_pod_without_a_route_is_named(node: Node) -> None:
    """One that has no address yet has sent nothing; one that is being removed may have lost its device already."""
    pods = [
        node_pod("running", "10.0.1.5"),
        node_pod("pending", phase="Pending"),
        node_pod("going", "10.0.1.6", deleted=True),
        node_pod("host", "192.168.1.1", host_network=True),
        node_pod("ended", "10.0.1.7", phase="Succeeded"),
    ]
    reading = node.meter.read(pods)
    assert not reading.metered
    assert list(reasons(reading)) == ["running"]
    assert "endpointRoutes.enabled" in reasons(reading)["running"]


def test_a_terminating_pod_is_measured_while_its_device_is_there(node: Node) -> None:
    """It may send for its whole grace period."""
    node.network.attach("10.0.1.5", "lxc1", received=9)
    assert sent(node.meter.read([node_pod("a", "10.0.1.5", deleted=True)])) == {"a": 9}


def test_an_address_that_is_used_again_belongs_to_the_new_pod(node: Node) -> None:
    """Neither the removed pod nor one that ended counts the new one's bytes."""
    node.network.attach("10.0.1.5", "lxc2", received=4)
    pods = [
        node_pod("old", "10.0.1.5", deleted=True),
        node_pod("new", "10.0.1.5"),
        node_pod("ended", "10.0.1.5", phase="Succeeded"),
    ]
    for order in (pods, pods[::-1]):
        reading = node.meter.read(order)
        assert sent(reading) == {"new": 4}
        assert not reading.unmetered


def test_a_device_that_changes_under_a_pod_is_not_believed_until_the_api_tells(node: Node) -> None:
    """The API may be late: then the address is another pod's, and its bytes must not count for this one."""
    node.network.attach("10.0.1.5", "lxc1", received=100)
    node.meter.read([node_pod("a", "10.0.1.5")])
    node.network.detach("10.0.1.5")
    node.network.attach("10.0.1.5", "lxc2", received=3)
    for _ in range(2):
        reading = node.meter.read([node_pod("a", "10.0.1.5")])
        assert reasons(reading) == {"a": "its address moved from device lxc1 to lxc2"}
    assert sent(node.meter.read([node_pod("a", "10.0.1.5", version="2")])) == {"a": 3}


def test_a_device_without_a_counter_is_named(node: Node) -> None:
    """Route and device are read one after the other."""
    node.network.routes["10.0.1.5"] = "lxc1"
    node.network.write()
    assert reasons(node.meter.read([node_pod("a", "10.0.1.5")])) == {"a": "its device lxc1 is gone"}


def test_a_name_from_elsewhere_takes_the_place_of_a_route(node: Node) -> None:
    """Where Cilium's endpoints tell the device."""
    node.network.counters["lxc9"] = (6, 1)
    node.network.write()
    assert sent(node.meter.read([node_pod("a", "10.0.1.5")], OtherSources(names={"uid-a": "lxc9"}))) == {"a": 6}


def test_netkit_is_trusted_only_where_the_configuration_says_so(tmp_path: Path) -> None:
    """What BPF redirects is in no counter of the host's end."""
    for trusted in (False, True):
        node = Node(tmp_path, "netkit", trust_netkit=trusted)
        node.network.attach("10.0.1.5", "lxc1", received=9)
        reading = node.meter.read([node_pod("a", "10.0.1.5")])
        assert bool(reading.metered) is trusted
        assert ("netkit" in reasons(reading).get("a", "")) is not trusted


def test_the_kubelet_counts_for_pods_without_a_device(node: Node) -> None:
    """With its own time, and marked as such; a device's counter comes first."""
    pod, other = node_pod("a", "10.0.1.5"), node_pod("b", "10.0.1.6")
    node.network.attach("10.0.1.6", "lxc2", received=8)
    kubelet = {
        ("factory", one.metadata.name): PodBytes(pod=one, sent=1, received=2, source="kubelet", stamp=500)
        for one in (pod, other)
    }
    reading = node.meter.read([pod, other], OtherSources(counters=kubelet))
    assert [(one.source, one.sent, one.stamp) for one in reading.metered] == [("kubelet", 1, 500), ("device", 8, 1000)]


def test_the_sampler_reads_the_page(node: Node) -> None:
    """By workload, though the pod's name does not tell it; with the time of the reading."""
    node.network.attach("10.0.1.5", "lxc1", received=77)
    page = PageBuilder('worker"1\\').build(node.meter.read([node_pod("x2x4z", "10.0.1.5")]), watching=True)
    reader = PageReader(Workloads(metric_names(Signal()), ("factory/robot",), ("factory/upload",)))
    scraped = reader.read(page)
    ((series, counts),) = scraped.counters.items()
    assert (series.kind, series.workload, counts) == ("throughput", "factory/upload", (77.0,))
    assert scraped.stamps[series] == 1000
    assert dict(series.labels) == {
        "namespace": "factory",
        "workload": "upload",
        "kind": "Deployment",
        "pod": "x2x4z",
        "node": 'worker"1\\',
        "source": "device",
    }


def test_a_page_names_what_is_not_measured(node: Node) -> None:
    """Each pod with its reason, in a valid page."""
    page = PageBuilder("n1").build(node.meter.read([node_pod("x2x4z", "10.0.1.5")]), watching=False).decode()
    assert 'sluice_meter_unmetered{namespace="factory",workload="upload",kind="Deployment",pod="x2x4z"' in page
    assert 'sluice_meter_pods{node="n1",source="device"} 0' in page
    assert 'sluice_meter_watching{node="n1"} 0' in page
