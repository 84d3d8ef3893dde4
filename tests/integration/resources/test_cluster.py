"""Domains described in the cluster: read, refused, paused, withdrawn, and told how they stand, on an API server."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import yaml

from schemas.config import Resources
from schemas.messages import Action, CriticalMeasure, Decision, Sample, State, TargetDecision, TargetMeasure
from schemas.units import Duration
from services.bus.bus import Bus
from services.definitions.definition_set import DefinitionSet
from services.kube.client import KubeClient
from services.plant.kube_emulator.emulator import Emulator
from services.resources import crd, keeper
from services.resources.service import ResourceDomains
from tests.support.decision_services import join
from tests.support.kube import servers
from tests.support.kube.apiserver import ApiServer
from tests.support.kube.servers import MERGE_PATCH, Server, eventually
from tests.support.nats_server import NatsServer

S = 10**9
SPEC: dict[str, Any] = {
    "critical": [{"workload": "robot"}],
    "targets": [{"deployment": "upload", "min": "5M", "max": "900M", "failSafe": "20M"}],
    "policy": "learned",
}
(DEFINITION, _) = crd.render().values()
EVERY_S = 0.5
REAL = pytest.param("apiserver", marks=[pytest.mark.apiserver, pytest.mark.customresources])


async def install(server: Server) -> None:
    """Install the definition, and wait until resources can be made."""
    group = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    await server.request("POST", group, yaml.safe_load(DEFINITION))

    async def is_served() -> bool:
        return (await server.request("GET", "/apis/sluice.dev/v1alpha1/bandwidthdomains"))[0] == 200

    await eventually(is_served)


@pytest.fixture(params=["emulator", REAL])
async def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """A Kubernetes API that has the kind, and a fresh namespace; a status may be written every half second."""
    monkeypatch.setattr(keeper, "_EVERY_S", EVERY_S)
    monkeypatch.setattr(keeper, "_LOOK_S", 0.05)
    if request.param == "emulator":
        async with servers.emulate(Emulator(starts_after=None)) as one:
            yield one
    else:
        running: ApiServer = request.getfixturevalue("apiserver")
        async with servers.real(running) as one:
            await install(one)
            yield one


def path(server: Server, name: str = "") -> str:
    """Where a resource is."""
    return f"/apis/sluice.dev/v1alpha1/namespaces/{server.namespace}/bandwidthdomains" + (f"/{name}" if name else "")


async def create(server: Server, name: str = "line", **spec: Any) -> tuple[int, Any]:
    """Make a resource; gives status and answer."""
    body = {"apiVersion": "sluice.dev/v1alpha1", "kind": "BandwidthDomain", "metadata": {"name": name}}
    return await server.request("POST", path(server), body | {"spec": SPEC | spec})


class Scene(msgspec.Struct):
    """A part of an actuator at work."""

    server: Server
    definitions: DefinitionSet
    domains: ResourceDomains

    @property
    def name(self) -> str:
        """Of the domain."""
        return f"{self.server.namespace}/line"

    async def has_status(self, **expected: Any) -> dict[str, Any]:
        """Wait until the resource's status has these fields; returns it."""

        async def found() -> dict[str, Any] | None:
            status = (await self.server.must("GET", path(self.server, "line"))).get("status") or {}
            return status if status.items() >= expected.items() else None

        return await eventually(found)

    async def holds(self, *names: str) -> None:
        """Wait until these resources' domains hold."""
        wanted = {f"{self.server.namespace}/{name}" for name in names}

        async def is_so() -> bool:
            return set(self.definitions.holding) == wanted

        await eventually(is_so)


@asynccontextmanager
async def working(server: Server, bus: Bus | None = None) -> AsyncIterator[Scene]:
    """What the actuator does for resources, while the context lasts."""
    definitions = DefinitionSet((), Duration(S // 2))
    async with KubeClient.connect(server.config) as client:
        domains = ResourceDomains(
            client,
            definitions,
            Resources(namespace=server.namespace),
            on_change=lambda: None,
            set_note=lambda _about, _text: None,
            is_in_charge=lambda: True,
        )
        domains.keeper.bus = bus
        task = asyncio.create_task(domains.run())
        yield Scene(server, definitions, domains)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Status and reason, by type."""
    return {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}


async def test_a_resource_becomes_a_domain_until_it_is_deleted(server: Server) -> None:
    """Made, changed, paused, handed back and deleted; nothing is left that would keep it from going."""
    async with working(server) as scene:
        await create(server)
        await create(server, "other", targets=[{**SPEC["targets"][0], "deployment": "backup"}])
        await scene.holds("line", "other")
        await server.must("PATCH", path(server, "line"), {"spec": {"deadMan": "9s"}}, MERGE_PATCH)

        async def is_changed() -> bool:
            return scene.definitions.holding[scene.name].domain.dead_man == 9 * S

        await eventually(is_changed)
        for value, paused in (("maintenance", True), (None, False)):
            change = {"metadata": {"annotations": {"sluice.dev/paused": value}}}
            await server.must("PATCH", path(server, "line"), change, MERGE_PATCH)

            async def follows(wanted: bool = paused) -> bool:
                return (scene.domains.pause_of(scene.name) is not None) is wanted

            await eventually(follows)
        await server.must("DELETE", path(server, "line"))
        await scene.holds("other")
        assert (await server.request("GET", path(server, "line")))[0] == 404


async def test_an_invalid_generation_leaves_the_one_before_in_force(server: Server) -> None:
    """The status says why, and since when; on a server without CEL the schema cannot say it."""
    async with working(server) as scene:
        await create(server)
        await scene.has_status(state="Waiting", observedGeneration=1)
        await server.must("PATCH", path(server, "line"), {"spec": {"capacity": "10M"}}, MERGE_PATCH)
        status = await scene.has_status(observedGeneration=2)
        ready = next(one for one in status["conditions"] if one["type"] == "Ready")
        assert (ready["status"], ready["reason"]) == ("False", "Refused")
        assert "the fail-safe limits add up to 20M, above the capacity of 10M" in ready["message"]
        assert "the definition before it holds" in ready["message"]
        assert scene.definitions.holding[scene.name].domain.capacity is None
        await create(server, "late")  # whose target is the first one's
        await scene.holds("line")


async def publish(bus: Bus, namespace: str, p95: float, limit: int, *, violated: bool = False) -> None:
    """What sampler, decision service and actuator say of one period."""
    name, end = f"{namespace}/line", time.time_ns() // 10**6 * 10**6
    sample = Sample(
        domain=name,
        start=end - 2 * S,
        end=end,
        period=S // 2,
        source="scrape",
        critical=(CriticalMeasure(f"{namespace}/robot", jitter=p95 / 4, p95=p95, observations=500),),
        targets=(TargetMeasure(f"{namespace}/upload", limit * 9 // 10),),
    )
    decision = Decision(
        domain=name,
        sample=sample.id,
        end=end,
        expires=end + 5 * S,
        targets=(TargetDecision(f"{namespace}/upload", limit, limit, "none", limit),),
        reason="steady" if not violated else "violation: cut",
        state=State(epoch=1, seq=1, end=end, shield={}, policy="learned/7"),
        policy="learned/7",
        stress=p95 / 0.002,
        violated=violated,
    )
    action = Action(
        id=f"{end}",
        domain=name,
        target=f"{namespace}/upload",
        cause="decision",
        outcome="applied",
        limit=limit,
        reason="as decided",
    )
    subjects = bus.subjects
    await bus.publish(subjects.sample(name), sample, msg_id=sample.id)
    await bus.publish(subjects.decision(name), decision, msg_id=decision.id)
    await bus.publish(subjects.action(name, action.target), action, msg_id=action.id)


async def test_the_status_follows_the_run(server: Server, nats: NatsServer) -> None:
    """It holds, is violated and is blind, with the figures of each; it is written if it changed, and not too often."""
    async with join(nats.url, "sluice") as bus, working(server, bus) as scene:
        await create(server)
        await scene.has_status(state="Waiting")
        await publish(bus, server.namespace, 0.00181, 210_000)
        status = await scene.has_status(state="Holds", p95="1.8ms", objective="2ms", limit="210M", use="190M")
        assert set(conditions(status).values()) == {
            ("True", "Accepted"),
            ("False", "Measured"),
            ("False", "WithinObjectives"),
            ("False", "Active"),
            ("True", "InForce"),
        }
        await asyncio.sleep(EVERY_S)
        writes = scene.domains.keeper.writes
        await publish(bus, server.namespace, 0.00182, 210_000)  # the same in two digits
        await asyncio.sleep(2.5 * EVERY_S)
        assert scene.domains.keeper.writes == writes
        began = time.monotonic()
        for number in range(20):
            await publish(bus, server.namespace, 0.004 + number / 1e3, 100_000 - number, violated=True)
            await asyncio.sleep(0.05)
        await scene.has_status(state="Violated", reason="violation: cut", p95="23ms")
        assert scene.domains.keeper.writes - writes <= 1 + (time.monotonic() - began) / EVERY_S
        blind = await scene.has_status(state="Blind")  # no sample for more than the dead-man time
        assert conditions(blind)["Violated"] == ("Unknown", "Blind")


@pytest.mark.apiserver
@pytest.mark.customresources
async def test_kubectl_shows_how_it_stands(apiserver: ApiServer, nats: NatsServer, tmp_path: Any) -> None:
    """The columns; an invalid resource is refused by the server with a message that names the field."""
    async with servers.real(apiserver) as server, join(nats.url, "sluice") as bus:
        await install(server)
        status, answer = await create(server, targets=[{**SPEC["targets"][0], "min": "banana", "weight": 0}])
        assert status == 422
        assert "spec.targets.min: Invalid value" in answer["message"]
        assert "spec.targets.weight" in answer["message"]
        async with working(server, bus) as scene:
            await create(server)
            await publish(bus, server.namespace, 0.00181, 210_000)
            await scene.has_status(state="Holds")
        words = ("kubectl", f"--kubeconfig={apiserver.kubeconfig()}", "-n", server.namespace, "get", "bwd")
        head, row = (await asyncio.to_thread(subprocess.check_output, words, text=True)).splitlines()
        assert head.split() == ["NAME", "POLICY", "P95", "OBJECTIVE", "LIMIT", "USE", "STATE", "AGE"]
        assert row.split()[:-1] == ["line", "learned", "1.8ms", "2ms", "210M", "190M", "Holds"]
