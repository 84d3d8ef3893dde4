"""Instances of a definition see the Pods on their own nodes alone, whichever source measures."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from schemas.config import Prometheus, Scrape, Signal
from schemas.domain import Critical, Domain, Target
from schemas.messages import Sample
from schemas.units import Duration, Rate
from services.sampler.loop import build_sample, explain_blindness
from services.sampler.prometheus.by_place import PlacedPrometheusSource
from services.sampler.scrape.source import ScrapeSource
from services.sampler.workloads import Workloads, metric_names
from tests.support.broken_server import BrokenServer
from tests.support.prometheus_server import PrometheusServer

S = 10**9
PERIOD = Duration(S // 4)
START = 1_700_000_000
ZONE = "topology.kubernetes.io/zone"
UPLOAD = Target(deployment="upload", namespace="factory", min=Rate(1000), fail_safe=Rate(2000), max=Rate(80_000))


def make_domain(name: str, **more: Any) -> Domain:
    """A domain that protects the robot from the upload."""
    critical = (Critical(workload="robot", namespace="factory"),)
    return Domain(name=name, critical=critical, targets=(UPLOAD,), min_observations=10, **more)


PER_NODE = make_domain("floor", per="node")
PER_ZONE = make_domain("hall", per=ZONE)
N1, N2 = (PER_NODE.build_instance(node, ()) for node in ("n1", "n2"))
ZONE_A = PER_ZONE.build_instance("a", ("n1", "n3"))
WHOLE = make_domain("all", per=UNSET)


def page(at: int, **slow: bool) -> str:
    """An exporter's and all meters' page in one: 50 observations and a million bytes a period on each node.

    Args:
        at: how many periods have passed.
        slow: by node, whether its latencies are 1.8 ms instead of 0.4 ms; the node ``none`` has no label.
    """
    lines = []
    for node, is_slow in slow.items():
        label = "" if node == "none" else f'node="{node}",'
        series = f'namespace="factory",workload="robot",{label}peer="plc"'
        for bound in ("0.0005", "0.0015", "0.002", "0.0025", "+Inf"):
            count = 0 if is_slow and bound in ("0.0005", "0.0015") else 50 * at
            lines.append(f'hubble_flow_latency_seconds_bucket{{{series},le="{bound}"}} {count}\n')
        lines.append(f"hubble_flow_latency_seconds_count{{{series}}} {50 * at}\n")
        lines.append(f"hubble_flow_lost_total{{{series}}} {at if is_slow else 0}\n")
        pod = f"upload-5d9c-{node}pod"
        sent = f'namespace="factory",workload="upload",kind="Deployment",pod="{pod}",{label}source="device"'
        lines.append(f"container_network_transmit_bytes_total{{{sent}}} {10**6 * at} {1000 * at // 4}\n")
    return "".join(lines)


@contextmanager
def scraping(server: BrokenServer, *domains: Domain) -> Iterator[ScrapeSource]:
    """A source for these domains, with buckets that are coarse."""
    signal = Signal(period=PERIOD, window=Duration(S), timeout=Duration(10 * S), scrape=Scrape((server.url,)))
    with closing(ScrapeSource(signal, Workloads.from_domains(metric_names(signal), domains))) as source:
        yield source


async def sample(
    source: ScrapeSource, server: BrokenServer, at: int, domains: Mapping[str, Domain]
) -> dict[str, Sample]:
    """Measure the windows after pages ``at`` to ``at + 3``; the last one's sample of each domain."""
    signal = Signal(period=PERIOD, window=Duration(S))
    measured = None
    for number in range(at, at + 4):
        slow = {"n1": True, "n2": False, "n3": False}
        server.body = page(number, **slow).encode()
        measured = await source.measure(100 * S + number * PERIOD)
    assert measured is not None
    return {name: build_sample(one, signal, 100 * S, measured) for name, one in domains.items()}


async def test_each_instance_measures_its_own_nodes() -> None:
    """One node's queue and losses are its own; a zone adds its nodes up, and a whole domain all of them."""
    domains = {"n1": N1, "n2": N2, "a": ZONE_A, "all": WHOLE}
    with BrokenServer("body") as server, scraping(server, *domains.values()) as source:
        found = await sample(source, server, 1, domains)
        seen = {name: (one.critical[0].observations, one.critical[0].lost) for name, one in found.items()}
        assert seen == {"n1": (150, 3), "n2": (150, 0), "a": (300, 3), "all": (450, 3)}
        p95 = {name: one.critical[0].p95 or 0 for name, one in found.items()}
        assert p95["n2"] < 0.0005
        assert min(p95["n1"], p95["a"], p95["all"]) > 0.0015
        rate = 10**6 * 8 // 250
        assert {name: (one.targets[0].throughput, one.targets[0].pods) for name, one in found.items()} == {
            "n1": (rate, 1),
            "n2": (rate, 1),
            "a": (2 * rate, 2),
            "all": (3 * rate, 3),
        }
        assert {one.critical[0].workload for one in found.values()} == {"factory/robot"}
        assert {one.targets[0].target for one in found.values()} == {"factory/upload"}
        # An instance goes and another one comes: what is known of the others is kept.
        n3 = PER_NODE.build_instance("n3", ())
        source.define(Workloads.from_domains(metric_names(Signal()), (N1, n3)))
        found = await sample(source, server, 5, {"n1": N1, "n3": n3})
        assert all(one.critical[0].observations == 200 for one in found.values())


@pytest.mark.prometheus
async def test_prometheus_is_asked_by_node_and_by_label(tmp_path: Path) -> None:
    """Each node in one query, a label's nodes by a matcher, and all nodes without; the figures are those of pages.

    The kubelets are scraped, too: their counts of Pods that a meter counts are left out, those of another Pod are not.
    """
    lines = []
    for at in range(1, 37):
        for node in ("n1", "n2", "n3", "n4"):
            series = f'namespace="factory",pod="upload-5d9c-{node}pod",interface="eth0"'
            series = f"container_network_transmit_bytes_total{{{series}}}"
            lines.append((series, f"{series} {10**6 * at} {START + at}"))
        for line in page(at, n1=True, n2=False, n3=False).splitlines():
            series, _, rest = line.partition("} ")
            lines.append((series + "}", f"{series}}} {rest.partition(' ')[0]} {START + at}"))
    text = "".join(f"{line}\n" for _, line in sorted(lines, key=lambda one: one[0])) + "# EOF\n"
    domains = {"n1": N1, "n2": N2, "a": ZONE_A, "all": WHOLE}
    with PrometheusServer(tmp_path, history=text) as server:
        prometheus = Prometheus(url=server.url, scrape_interval=Duration(S))
        signal = Signal(
            source="prometheus",
            period=Duration(S),
            window=Duration(8 * S),
            timeout=Duration(10 * S),
            prometheus=prometheus,
        )
        workloads = Workloads.from_domains(metric_names(signal), domains.values())
        with closing(PlacedPrometheusSource(signal, workloads)) as source:
            measured = await source.measure((START + 36) * S)
            found = {name: build_sample(one, signal, 0, measured) for name, one in domains.items()}
            assert {name: one.critical[0].missing for name, one in found.items()} == dict.fromkeys(domains)
            counts = {name: one.critical[0].observations for name, one in found.items()}
            assert counts["n1"] == counts["n2"]
            assert abs(counts["a"] - 2 * counts["n1"]) + abs(counts["all"] - 3 * counts["n1"]) <= 3
            p95 = {name: one.critical[0].p95 or 0 for name, one in found.items()}
            assert p95["n2"] < 0.0005
            assert min(p95["n1"], p95["a"], p95["all"]) > 0.0015
            assert found["n1"].critical[0].lost == pytest.approx(8, abs=1.5)
            assert found["n2"].critical[0].lost == 0
            rates = {name: one.targets[0].throughput for name, one in found.items()}
            assert rates == {"n1": 8_000, "n2": 8_000, "a": 16_000, "all": 32_000}
            assert found["all"].targets[0].pods == 4
            source.define(Workloads.from_domains(metric_names(signal), (N2,)))
            assert set((await source.measure((START + 36) * S)).latency) == {"factory/robot@n2"}


async def test_an_exporter_that_names_no_node_is_no_data() -> None:
    """With the reason; so is a node that no series names."""
    with BrokenServer("body") as server, scraping(server, N1, N2, WHOLE) as source:
        for number in (1, 2, 3):
            server.body = page(number, none=False, n2=False).encode()
            measured = await source.measure(100 * S + number * PERIOD)
        samples = {one.name: build_sample(one, Signal(), 100 * S, measured) for one in (N1, N2, WHOLE)}
        assert "have no label node: the exporter is older" in (explain_blindness(N1, samples[N1.name]) or "")
        assert explain_blindness(N2, samples[N2.name]) is None
        assert samples["all"].critical[0].observations == 200
        assert "no page has a series" in (samples[N1.name].targets[0].throughput_missing or "")
        server.body = page(4, n2=False).encode()
        measured = await source.measure(100 * S + 4 * PERIOD)
        assert "for it on n1" in (explain_blindness(N1, build_sample(N1, Signal(), 100 * S, measured)) or "")
