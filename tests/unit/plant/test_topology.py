"""The testbed's plan: names that the kernel accepts, unique addresses, bands for all pods."""

import pytest

from services.plant.topology import (
    FABRIC,
    NODES,
    ROBOT,
    TELEMETRY,
    Bands,
    Parameters,
    bottleneck,
    build_bands,
    build_pod_limit,
    build_setup_script,
    pods,
)

IFNAMSIZ = 15


def test_every_pod_has_a_place_of_its_own() -> None:
    """Names, addresses and devices are unique, and short enough for the kernel, also with many replicas."""
    places = pods(Parameters(uploads=12))
    for names in ([one.name for one in places], [one.address for one in places], [one.device for one in places]):
        assert len(set(names)) == len(names) == 20
    assert max(len(one.device) for one in places) <= IFNAMSIZ
    assert {one.node for one in places} == set(NODES)
    assert sum(one.workload == TELEMETRY for one in places) == 12


def test_the_script_makes_every_namespace() -> None:
    """Each node, each pod and the fabric is created, and each pod's traffic uses CUBIC."""
    script = build_setup_script(Parameters())
    for name in (FABRIC, *NODES, *(one.name for one in pods(Parameters()))):
        assert f"netns add {name}\n" in script
    assert script.count("congctl cubic") == len(pods(Parameters()))


def test_the_queue_size_matches_its_delay() -> None:
    """100 ms at 100 Mbit/s are 1.25 MB, which stay when the capacity changes."""
    parameters = Parameters(capacity=100_000, fifo=0.1)
    assert bottleneck(parameters, 50_000) == [
        "qdisc replace dev n3 root handle 1: tbf rate 50000kbit burst 4000 limit 1250000"
    ]


@pytest.mark.parametrize("bands", ["uplink", "bottleneck"])
def test_bands_are_where_they_should_be(bands: Bands) -> None:
    """On the uplinks of all three nodes, or on the bottleneck in place of its token bucket."""
    script = build_setup_script(Parameters(bands=bands))
    assert script.count("htb default") == (3 if bands == "uplink" else 1)
    assert ("dev n3 root handle 1: tbf" in script) == (bands == "uplink")


def test_each_sender_has_its_band() -> None:
    """robot-control is served first, telemetry-upload last; every pod has a filter of its own."""
    places = pods(Parameters())
    filters = [line for line in build_bands("n3", 100_000, 1_250_000, places) if line.startswith("filter")]
    assert len(filters) == len(places)
    flows = {line.split("src ")[1].split("/")[0]: line.split("flowid ")[1] for line in filters}
    band = {one.workload: flows[one.address] for one in places}
    assert (band[ROBOT], band["factory/safety-scanner"], band[TELEMETRY]) == ("1:10", "1:11", "1:12")


def test_a_pod_limit_is_a_token_bucket_or_nothing() -> None:
    """A rate replaces the bucket in place; None removes it."""
    assert build_pod_limit(60_000)[:2] == ["qdisc", "replace"]
    assert "60000kbit" in build_pod_limit(60_000)
    assert build_pod_limit(None) == ["qdisc", "delete", "dev", "eth0", "root"]
