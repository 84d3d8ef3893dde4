"""`sluice check --cluster` reads from each running service what it waits for, through the API server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from schemas.config import Config
from schemas.domain import Critical, Domain, Target
from schemas.units import Rate
from services.runtime.health import Health, serve
from services.tools.check.running_services import check_services
from tests.integration.tools.test_check_cluster import my_address
from tests.support.commands import running
from tests.support.kube.servers import KINDS, Server, eventually, open_server
from tests.support.ports import free_port

HOME = "sluice"


@pytest.fixture(params=KINDS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """An API server, with the namespace that the services have."""
    async with open_server(request) as one:
        yield one


def configure(server: Server) -> Config:
    """A configuration whose bus is in the test's namespace, as all services are."""
    target = Target(deployment="app", namespace="factory", min=Rate(1000), max=Rate(9000), fail_safe=Rate(2000))
    config = Config((Domain("line", (Critical("robot"),), (target,)),), kubernetes=server.config)
    return replace(config, bus=replace(config.bus, servers=(f"nats://nats.{server.namespace}.svc:4222",)))


async def run_pod(server: Server, service: str, port: int, *, ready: bool | None = None) -> str:
    """A Pod of a service, which is this machine; returns how findings call it."""
    name = f"sluice-{service}-0"
    labels = {"app.kubernetes.io/name": f"sluice-{service}"}
    container = {"name": service, "image": "sluice:1", "ports": [{"name": "http", "containerPort": port}]}
    spec = {"containers": [container], "automountServiceAccountToken": False}
    await server.must("POST", server.pods, {"metadata": {"name": name, "labels": labels}, "spec": spec})
    mine = my_address()
    status: dict[str, Any] = {"phase": "Running", "podIP": mine, "podIPs": [{"ip": mine}]}
    if ready is not None:
        status["conditions"] = [{"type": "Ready", "status": str(ready)}]
    await server.must("PATCH", f"{server.pods}/{name}/status", {"status": status}, "application/merge-patch+json")
    return f"pod {server.namespace}/{name}"


@asynccontextmanager
async def health_of(*problems: tuple[str, str], notes: dict[str, str] | None = None) -> AsyncIterator[int]:
    """A service's health page; gives its port."""
    health = Health()
    for condition, reason in problems:
        health.set_failed(condition, reason)
    for about, text in (notes or {}).items():
        health.set_note(about, text)
    async with serve(health, "0.0.0.0", 0) as port:
        yield port


async def found_in(config: Config) -> list[tuple[str, str, str]]:
    """The findings: level, object, text."""
    result = await check_services(config)
    assert result is not None
    return [(one.level, one.where, one.what) for one in result.findings]


async def test_what_a_service_cannot_read_is_named_with_its_reason(server: Server) -> None:
    """The sampler's source fails where it runs, whoever else reaches it; notes are warnings."""
    reason = "http://exporter.sluice.svc:9965/metrics: HTTP status 403"
    async with health_of(("source", reason)) as sampler, health_of(notes={"meters": "1 never answered"}) as decision:
        blind = await run_pod(server, "sampler", sampler)
        noted = await run_pod(server, "decision", decision)
        async with health_of() as actuator:
            await run_pod(server, "actuator", actuator)
            result = await check_services(configure(server))
    assert result is not None
    assert result.state == "sampler 1 of 1, decision 1 of 1, actuator 1 of 1"
    assert [(one.level, one.where, one.what) for one in result.findings] == [
        ("error", blind, f"not ready: source: {reason}"),
        ("warning", noted, "meters: 1 never answered"),
    ]


async def test_a_meter_that_is_not_ready_is_a_warning(server: Server) -> None:
    """Without it limits still move."""
    async with health_of(("pods", "403 Forbidden")) as meter:
        where = await run_pod(server, "meter", meter)
        assert await found_in(configure(server)) == [("warning", where, "not ready: pods: 403 Forbidden")]


@pytest.mark.parametrize("ready", [False, True])
async def test_where_the_api_server_does_not_reach_a_pod_its_kubelet_is_believed(server: Server, ready: bool) -> None:
    """A policy or a firewall between: an error with the way around it, or nothing where the kubelet's probe works."""
    closed = free_port()
    where = await run_pod(server, "sampler", closed, ready=ready)
    found = await found_in(configure(server))
    if ready:
        assert found == []
    else:
        assert [one[:2] for one in found] == [("error", where)]
        assert f"port-forward sluice-sampler-0 {closed}, then see localhost:{closed}/readyz" in found[0][2]


async def test_nothing_is_asked_before_the_install_or_of_what_does_not_run(server: Server) -> None:
    """No Pods: no result.  A Pod that is pending is counted, and not asked."""
    assert await check_services(configure(server)) is None
    labels = {"app.kubernetes.io/name": "sluice-sampler"}
    spec = {"containers": [{"name": "sampler", "image": "sluice:1"}], "automountServiceAccountToken": False}
    await server.must("POST", server.pods, {"metadata": {"name": "waiting", "labels": labels}, "spec": spec})
    result = await check_services(configure(server))
    assert result is not None
    assert (result.state, result.findings) == ("sampler 0 of 1", ())


async def test_a_running_exporter_says_that_it_does_not_reach_relay(server: Server, tmp_path: Path) -> None:
    """The real service, whose source is away from where it runs."""
    port, relay = free_port(), free_port()
    config = tmp_path / "config.yaml"
    config.write_text(
        f"exporter: {{relay: {{address: '127.0.0.1:{relay}'}}}}\n"
        f"listen: {{host: 0.0.0.0, exporter: {port}}}\n"
        "domains:\n"
        "- name: line\n"
        "  critical: [{workload: robot, namespace: factory}]\n"
        "  targets: [{deployment: app, namespace: factory, min: 1M, max: 9M, fail_safe: 2M}]\n"
    )
    with running("exporter", "--config", config):
        where = await run_pod(server, "exporter", port)

        async def complaint() -> str | None:
            found = await found_in(configure(server))
            asked = [text for _, at, text in found if at == where and text.startswith("not ready: relay: ")]
            return next((text for text in asked if "not yet" not in text), None)

        assert "refused" in (await eventually(complaint)).lower()
