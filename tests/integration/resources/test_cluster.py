"""Domains described in the cluster: read, refused, paused, withdrawn, and given a status, on an API server."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import yaml

from schemas.config import Resources
from schemas.messages import Action, CriticalMeasure, Decision, Sample, State, TargetDecision, TargetMeasure
from schemas.units import Duration
from services.bus.bus import Bus
from services.control import Controller
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
PERIOD = S // 2
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
        try:
            return (await server.request("GET", "/apis/sluice.dev/v1alpha1/bandwidthdomains"))[0] == 200
        except ValueError:
            return False  # "404 page not found", which is no JSON

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
async def working(
    server: Server, bus: Bus | None = None, places: Mapping[str, str] | None = None
) -> AsyncIterator[Scene]:
    """What the actuator does for resources, while the context lasts; ``places`` has the instances' names."""
    definitions = DefinitionSet((), Duration(S // 2))
    async with KubeClient.connect(server.config) as client:
        domains = ResourceDomains(
            client,
            definitions,
            Resources(namespace=server.namespace),
            on_change=lambda: None,
            set_note=lambda _about, _text: None,
            is_in_charge=lambda: True,
            find_instances=lambda _template: places or {},
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
                resources = scene.domains.watcher.resources.values()
                return {one.metadata.name: one.pause is not None for one in resources}.get("line") is wanted

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
        # Of two that want one target and were made in the same second, the first by name has it.
        await create(server, "other")
        await scene.holds("line")


async def publish(bus: Bus, namespace: str, p95: float, limit: int, *, violated: bool = False, place: str = "") -> None:
    """What sampler, decision service and actuator say of one period."""
    name, end = f"{namespace}/line{place}", time.time_ns() // 10**6 * 10**6
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
        id=f"{name}:{end}",  # the bus drops a second message of one id
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


async def test_the_status_of_a_definition_counts_its_instances(server: Server, nats: NatsServer) -> None:
    """With ``per`` the status has each instance that is there now, by its last messages, and names the worst."""
    places = {"node-1": "@node-1", "node-2": "@node-2", "node-3": "@node-3"}
    names = {on: f"{server.namespace}/line{place}" for on, place in places.items()}
    async with join(nats.url, "sluice") as bus, working(server, bus, names) as scene:
        await create(server, per="node", deadMan="10m")
        await scene.has_status(state="Waiting", instances=[{"state": "Waiting", "count": 3}])
        for on, place in places.items():
            p95 = 0.006 if on == "node-2" else 0.001
            await publish(bus, server.namespace, p95, 10_000, violated=on == "node-2", place=place)
        await publish(bus, server.namespace, 0.02, 10_000, violated=True, place="@node-gone")
        counts = [{"state": "Violated", "count": 1}, {"state": "Holds", "count": 2}]
        status = await scene.has_status(state="Violated", instances=counts)
        assert status["worst"][0] == {
            "on": "node-2",
            "state": "Violated",
            "stress": "300%",
            "limit": "10M",
            "reason": "violation: cut",
        }
        assert conditions(status)["Blind"] == ("False", "Measured")


async def test_the_status_follows_the_run(server: Server, nats: NatsServer) -> None:
    """It holds, is violated and is blind, with the figures of each; it is written if it changed, and not too often."""
    async with join(nats.url, "sluice") as bus, working(server, bus) as scene:
        await create(server, deadMan="10m")
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
        await publish(bus, server.namespace, 0.001811, 210_000)  # the same in two digits
        await asyncio.sleep(2.5 * EVERY_S)
        assert scene.domains.keeper.writes == writes
        began = time.monotonic()
        for number in range(20):
            await publish(bus, server.namespace, 0.004 + number / 1e3, 100_000 - number, violated=True)
            await asyncio.sleep(0.05)
        await scene.has_status(state="Violated", reason="violation: cut", p95="23ms")
        assert scene.domains.keeper.writes - writes <= 1 + (time.monotonic() - began) / EVERY_S
        await server.must("PATCH", path(server, "line"), {"spec": {"deadMan": "2s"}}, MERGE_PATCH)
        blind = await scene.has_status(state="Blind")  # no sample for more than the dead-man time
        assert conditions(blind)["Violated"] == ("Unknown", "Blind")


class Loop:
    """Sampler, decision service and actuator in one: the control core answers samples, and its limits are in force."""

    def __init__(self, bus: Bus, scene: Scene) -> None:
        """Begin at the fail-safe limit."""
        self._bus, self._namespace = bus, scene.server.namespace
        self._controller = Controller(scene.definitions.holding[scene.name].domain)
        self._state: State | None = None
        self._limit = 20_000

    async def measure(self, p95: float | None, windows: int = 1) -> None:
        """Send so many samples, half a second apart, up to now."""
        domain, subjects = f"{self._namespace}/line", self._bus.subjects
        last = time.time_ns() // PERIOD * PERIOD
        if self._state is not None:
            last = max(last, self._state.end + windows * PERIOD)
        for end in range(last - (windows - 1) * PERIOD, last + 1, PERIOD):
            sample = Sample(
                domain=domain,
                start=end - 2 * S,
                end=end,
                period=PERIOD,
                source="scrape",
                critical=()
                if p95 is None
                else (CriticalMeasure(f"{self._namespace}/robot", p95 / 3, p95, 500, throughput=90_000),),
                targets=(TargetMeasure(f"{self._namespace}/upload", self._limit, self._limit),),
                no_data=None if p95 is not None else "scrape: connection refused",
            )
            decision = self._controller.step(self._state, sample)
            self._state, self._limit = decision.state, decision.targets[0].limit
            target, reason = f"{self._namespace}/upload", decision.reason
            action = Action(f"{end}", domain, target, "decision", "applied", self._limit, reason)
            await self._bus.publish(subjects.sample(domain), sample, msg_id=sample.id)
            await self._bus.publish(subjects.decision(domain), decision, msg_id=decision.id)
            await self._bus.publish(subjects.action(domain, target), action, msg_id=action.id)


@pytest.mark.apiserver
@pytest.mark.customresources
async def test_kubectl_shows_how_it_stands(
    apiserver: ApiServer, nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The columns through a run, printed with -s; the server refuses an invalid resource, and names its fields."""
    monkeypatch.setattr(keeper, "_EVERY_S", EVERY_S)
    async with servers.real(apiserver) as server, join(nats.url, "sluice") as bus, working(server, bus) as scene:
        await install(server)
        words = ("kubectl", f"--kubeconfig={apiserver.kubeconfig()}", "-n", server.namespace)

        async def kubectl(*more: str, stdin: str | None = None) -> tuple[str, str]:
            done = await asyncio.to_thread(
                subprocess.run, [*words, *more], input=stdin, capture_output=True, text=True, check=False
            )
            return done.stdout, done.stderr

        manifest = {"apiVersion": "sluice.dev/v1alpha1", "kind": "BandwidthDomain", "metadata": {"name": "line"}}
        wrong = SPEC | {"targets": [{**SPEC["targets"][0], "min": "banana", "weight": 0}]}
        _, refused = await kubectl(
            "apply", "--validate=false", "-f", "-", stdin=yaml.safe_dump(manifest | {"spec": wrong})
        )
        print(refused)
        assert "spec.targets.min: Invalid value" in refused
        assert "spec.targets.weight: Invalid value" in refused
        rows: list[str] = []

        async def show(**expected: Any) -> None:
            await scene.has_status(**expected)
            head, row = (await kubectl("get", "bwd"))[0].splitlines()
            assert head.split() == ["NAME", "POLICY", "P95", "OBJECTIVE", "LIMIT", "USE", "STATE", "AGE"]
            rows.extend([head, row] if not rows else [row])

        made, _ = await kubectl(
            "apply", "-f", "-", stdin=yaml.safe_dump(manifest | {"spec": SPEC | {"policy": "aimd"}})
        )
        assert made == "bandwidthdomain.sluice.dev/line created\n"
        await show(state="Waiting")
        loop = Loop(bus, scene)
        await loop.measure(0.00031, windows=8)
        await show(state="Holds", p95="310us")
        await loop.measure(0.0064)
        await show(state="Violated", p95="6.4ms")
        await loop.measure(None)
        await show(state="Blind")
        await loop.measure(0.00031)
        await show(state="Holds", p95="310us")
        await kubectl("annotate", "bandwidthdomain", "line", "sluice.dev/paused=maintenance")
        await show(state="Paused")
        print("\n".join(rows))
        assert [row.split()[-2] for row in rows[1:]] == ["Waiting", "Holds", "Violated", "Blind", "Holds", "Paused"]
