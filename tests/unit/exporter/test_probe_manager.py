"""Names become probers: every address is probed, all share the rate, and an unresolved name is reported."""

import asyncio
import socket
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from schemas.exporter import Probe
from schemas.units import Duration
from services.exporter.metrics import LatencyMetrics
from services.exporter.node_query import ask_node
from services.exporter.probe_manager import ProbeManager, probe_counter
from tests.support.hubble.sidecar import serving
from tests.support.waiting import PATIENCE_S

ROBOT = "factory/robot-control"


async def test_both_protocols_are_probed_and_the_service_can_stop() -> None:
    """UDP and TCP give observations, loss starts at zero, and cancelling ends everything."""
    registry = CollectorRegistry()
    latencies = LatencyMetrics([ROBOT], (0.001, 0.1), 5, registry)
    with serving() as ports:
        probe = Probe(
            "robot-control", "127.0.0.1", "factory", rate=200.0, tcp_rate=50.0, udp=ports["udp"], tcp=ports["tcp"]
        )
        probing = ProbeManager(probe, latencies, probe_counter(registry))
        assert str(probing.problem) == "not yet resolved"
        task = asyncio.create_task(probing.run())
        labels = {"namespace": "factory", "workload": "robot-control"}

        def answered(protocol: str) -> float:
            name, more = "sluice_exporter_probes_total", {"protocol": protocol, "outcome": "answered"}
            return registry.get_sample_value(name, labels | more) or 0

        async with asyncio.timeout(PATIENCE_S):
            while min(answered("udp"), answered("tcp")) < 5:  # noqa: ASYNC110 - a counter has no event
                await asyncio.sleep(0.01)
        assert probing.problem is None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert latencies.observations[ROBOT] >= 10
    more = {"peer": "sluice-exporter", "source": "probe", "locality": "remote", "node": ""}
    for protocol in ("udp", "tcp"):
        assert registry.get_sample_value("hubble_flow_lost_total", labels | more | {"protocol": protocol}) == 0


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
async def test_a_probes_latencies_are_of_the_node_that_its_sidecar_names(protocol: str) -> None:
    """As long as an instance looks at that node; a sidecar that names none has latencies of no node."""
    registry = CollectorRegistry()
    latencies = LatencyMetrics([ROBOT], (0.001, 0.1), 5, registry)
    latencies.define([ROBOT], {ROBOT: ["a-node.with.a-name.that-is-longer.than-a-probe.internal"]})
    with serving(node="a-node.with.a-name.that-is-longer.than-a-probe.internal") as ports:
        udp, tcp = (ports[name] if name == protocol else None for name in ("udp", "tcp"))
        probe = Probe("robot-control", "127.0.0.1", "factory", rate=200.0, tcp_rate=50.0, udp=udp, tcp=tcp)
        task = asyncio.create_task(ProbeManager(probe, latencies, probe_counter(registry)).run())

        def counted() -> float:
            return sum(
                one.value
                for metric in registry.collect()
                for one in metric.samples
                if one.name == "hubble_flow_latency_seconds_count" and one.labels["node"].startswith("a-node")
            )

        async with asyncio.timeout(PATIENCE_S):
            while counted() < 5:  # noqa: ASYNC110 - a counter has no event
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    with serving() as ports:
        assert await ask_node(("127.0.0.1", ports[protocol]), socket.AF_INET, is_tcp=protocol == "tcp") == ""


async def test_a_name_without_an_address_is_reported() -> None:
    """The reason names it; no probe counts as lost."""
    registry = CollectorRegistry()
    latencies = LatencyMetrics([ROBOT], (0.001, 0.1), 5, registry)
    probing = ProbeManager(Probe("robot-control", "nowhere.invalid", "factory"), latencies, probe_counter(registry))
    task = asyncio.create_task(probing.run())
    async with asyncio.timeout(PATIENCE_S):
        while "nowhere.invalid" not in (probing.problem or ""):  # noqa: ASYNC110 - a reason has no event
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert latencies.observations[ROBOT] == 0


async def test_all_addresses_of_a_name_share_the_rate() -> None:
    """A change of addresses restarts the probers with the right share; the same addresses change nothing."""
    latencies = LatencyMetrics([ROBOT], (0.001, 0.1), 5, CollectorRegistry())
    probing = ProbeManager(Probe("robot-control", "any", "factory"), latencies, probe_counter(CollectorRegistry()))
    shares: list[tuple[str, int]] = []

    async def probe_address(address: tuple[int, str], sharing: int) -> None:
        shares.append((address[1], sharing))
        await asyncio.Event().wait()

    probing._probe_address = probe_address  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as group:
        for addresses in ({(2, "a")}, {(2, "a")}, {(2, "a"), (2, "b")}):
            probing.reconcile(set(addresses), group)
            await asyncio.sleep(0)
        for running in probing._running.values():
            running.cancel()
    assert sorted(shares) == [("a", 1), ("a", 2), ("b", 2)]


async def test_a_replaced_pod_is_resolved_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """When its address falls silent, the name is resolved long before its time, and probes until then count as lost."""
    registry = CollectorRegistry()
    latencies = LatencyMetrics([ROBOT], (0.001, 0.1), 5, registry)
    with serving("127.0.0.3") as ports, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.2", ports["udp"]))
        answers = iter(["127.0.0.2"])

        async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
            place = (next(answers, "127.0.0.3"), 0)
            return [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", place)]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        probe = Probe(
            "robot-control",
            "robot-control.factory.svc",
            "factory",
            rate=200.0,
            udp=ports["udp"],
            tcp=None,
            timeout=Duration(50_000_000),
        )
        task = asyncio.create_task(ProbeManager(probe, latencies, probe_counter(registry)).run())
        async with asyncio.timeout(PATIENCE_S):
            while latencies.observations[ROBOT] < 5:  # noqa: ASYNC110 - a counter has no event
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    lost = [
        one.value for metric in registry.collect() for one in metric.samples if one.name == "hubble_flow_lost_total"
    ]
    assert lost[0] > 0
