"""A definition per node on an API server: a Deployment and a DaemonSet over two nodes, each with limits of its own.

The emulator in every run, and the real server with its controllers where there is one.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from msgspec import UNSET

from schemas.domain import Critical, Domain, Shield, Target
from schemas.messages import Action
from schemas.units import Duration, Rate
from services.actuator.outbox import ActionOutbox
from services.actuator.ownership import KEY
from services.actuator.places.placement import Placement
from services.actuator.target_set import TargetSet
from services.definitions.definition_set import DefinitionSet
from services.definitions.instances import Instances
from services.kube.client import KubeClient
from services.kube.objects import BANDWIDTH
from services.runtime.health import Health
from tests.support.actuators import build_dependencies
from tests.support.kube import servers
from tests.support.kube.servers import MERGE_PATCH, Server, deployment, eventually
from tests.support.kube.workload_cases import make_node
from tests.support.offered_limits import offer_limits

S = 10**9


@pytest.fixture(params=servers.BOTH)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """The emulator and a real server, without kubelets and a scheduler: the tests are those."""
    async with servers.open_server(request) as server:
        yield server


class Cluster:
    """Nodes, a critical Deployment, and a Deployment and a DaemonSet as targets."""

    def __init__(self, server: Server) -> None:
        """Nothing is there yet."""
        self.server = server

    def node(self, number: int) -> str:
        """A node's name."""
        return f"{self.server.namespace}-{number}"

    async def make_node(self, number: int, hall: str = "a") -> None:
        """Make a node that Pods can run on, with a label for its place."""
        labels = {"matrix": self.server.namespace, "example.com/hall": hall}
        await make_node(self.server, self.node(number), labels)

    async def make_workloads(self) -> None:
        """Two Pods of a Deployment, one of a DaemonSet a node, and a critical one."""
        await self.server.deploy("robot", 1)
        await self.server.deploy("app", 2)
        template = deployment("agent", 1)["spec"]["template"]
        template["spec"]["nodeSelector"] = {"matrix": self.server.namespace}
        spec = {"selector": {"matchLabels": {"app": "agent"}}, "template": template}
        body = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"}, "spec": spec}
        await self.server.must("POST", f"/apis/apps/v1/namespaces/{self.server.namespace}/daemonsets", body)

    async def schedule(self, app: str, count: int, *numbers: int) -> None:
        """Bind the Pods that have no node to these; a DaemonSet's Pods know theirs."""
        for pod in await self.server.pods_of(app, count):
            if pod["spec"].get("nodeName"):
                continue
            terms = str(pod["spec"].get("affinity", ""))
            own = next((number for number in numbers if f"'{self.node(number)}'" in terms), None)
            number = numbers[0] if own is None else own
            numbers = tuple(one for one in numbers if one != number)
            target = {"apiVersion": "v1", "kind": "Node", "name": self.node(number)}
            body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod["metadata"]["name"]}}
            path = f"{self.server.pods}/{pod['metadata']['name']}/binding"
            await self.server.must("POST", path, body | {"target": target})

    async def remove(self, app: str, number: int) -> None:
        """Remove a node's Pods of an app at once, as a node that is gone does."""
        for pod in (await self.server.must("GET", f"{self.server.pods}?labelSelector=app%3D{app}"))["items"]:
            if pod["spec"].get("nodeName") == self.node(number):
                path = f"{self.server.pods}/{pod['metadata']['name']}?gracePeriodSeconds=0"
                await self.server.request("DELETE", path)

    async def limits(self, app: str) -> list[tuple[int, str | None]]:
        """Each Pod's node and what it may send, in the order of the nodes."""
        pods = (await self.server.must("GET", f"{self.server.pods}?labelSelector=app%3D{app}"))["items"]
        found: list[tuple[int, str | None]] = [
            (int(node.rpartition("-")[2]), (pod["metadata"].get("annotations") or {}).get(BANDWIDTH))
            for pod in pods
            if (node := pod["spec"].get("nodeName")) and "deletionTimestamp" not in pod["metadata"]
        ]
        return sorted(found, key=str)

    async def declared(self, kind: str, name: str) -> tuple[str | None, bool]:
        """What a workload itself carries, and whether Sluice's record is on it."""
        meta = (await self.server.must("GET", f"/apis/apps/v1/namespaces/{self.server.namespace}/{kind}/{name}"))[
            "metadata"
        ]
        found = meta.get("annotations") or {}
        return found.get(BANDWIDTH), KEY in found

    async def wait_for(self, app: str, *limits: tuple[int, str | None]) -> None:
        """Wait until an app's Pods have these."""

        async def has() -> bool:
            return await self.limits(app) == list(limits)

        await eventually(has)

    async def wait_for_sum(self, kind: str, name: str, value: str | None) -> None:
        """Wait until a workload says this."""

        async def has() -> bool:
            return await self.declared(kind, name) == (value, value is not None)

        await eventually(has)


class Actuator:
    """One actuator in this process, its decisions and reports in memory, and a clock for instances."""

    def __init__(self, cluster: Cluster, client: KubeClient, per: str, process: str = "one") -> None:
        """Act per node, or per value of a label."""
        namespace = cluster.server.namespace
        self.now = 0.0
        self.actions: list[Action] = []
        self.health = Health()
        self._outbox = ActionOutbox()
        shared = build_dependencies(client, self.health, outbox=self._outbox, process=process)
        bounds: dict[str, Any] = {"min": Rate(1_000), "max": Rate(80_000), "fail_safe": Rate(2_000)}
        self.app = Target(deployment="app", namespace=namespace, **bounds)
        self.agent = Target(kind="DaemonSet", name="agent", namespace=namespace, scope="per-pod", **bounds)
        domain = Domain(
            name="floor",
            critical=(Critical(workload="robot", namespace=namespace),),
            targets=(self.app, self.agent),
            shield=Shield(rise_per_second=1),
            dead_man=Duration(600 * S),
            per=per,
        )
        self.definitions = DefinitionSet((domain,), Duration(S // 2))
        self.instances = Instances(self.definitions, steady=lambda: self.now)
        self.targets = TargetSet(client, self.health, shared, Placement(client, self.instances.see))
        self.targets.has_bus_answered = True
        self.instances.on_change(self._define)
        self._define(["floor"])

    def _define(self, names: Any) -> None:
        held = {name: self.instances.holding.get(name) or self.instances.templates.get(name) for name in names}
        self.targets.define({name: None if one is None else one.domain for name, one in held.items()})

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Actuator"]:
        """Act meanwhile."""

        async def publish(action: Action, _headers: object) -> None:
            self.actions.append(action)

        async def run() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.targets.run())
                group.create_task(self._outbox.run(publish))

        running = asyncio.create_task(run())
        try:
            yield self
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    async def wait_for_instances(self, *places: str) -> None:
        """Wait until there is one on each of these, with its parts."""

        async def has() -> bool:
            names = {f"floor@{place}" for place in places}
            return set(self.instances.holding) == names == {name for name, _ in self.targets.reconcilers}

        await eventually(has)

    def decide(self, place: str, app: int, agent: int, *, age: int = 0, good_for: int = 600 * S) -> None:
        """Hand a decision to an instance: limits in kbit/s, on a sample that ended ``age`` ago, ns."""
        name, end = f"floor@{place}", time.time_ns() - age
        limits = {self.app.key: app, self.agent.key: agent}
        reconcilers = {key: self.targets.reconcilers[name, key] for key in limits}
        offer_limits(name, reconcilers, limits, end, end + good_for, end)


async def test_each_node_has_limits_of_its_own(server: Server) -> None:
    """Through a Pod that moves, a node that comes, one that goes, drift, a restart, and the end of the definition."""
    cluster = Cluster(server)
    await cluster.make_node(1)
    await cluster.make_node(2)
    await cluster.make_workloads()
    n1, n2, n3 = (cluster.node(number) for number in (1, 2, 3))
    async with KubeClient.connect(server.config) as client:
        async with Actuator(cluster, client, "node").running() as actuator:
            # Until a Pod has a node, nothing is known of its bottleneck.
            await cluster.schedule("robot", 1, 1)
            await actuator.wait_for_instances(n1)
            await cluster.schedule("app", 2, 1, 2)
            await cluster.schedule("agent", 2, 1, 2)
            await actuator.wait_for_instances(n1, n2)
            assert actuator.instances.find_without_critical("floor") == {n2}
            await cluster.wait_for("app", (1, "2M"), (2, "2M"))  # the fail-safe limit of each
            actuator.decide(n1, 30_000, 4_000)
            actuator.decide(n2, 10_000, 3_000)
            await cluster.wait_for("app", (1, "30M"), (2, "10M"))
            await cluster.wait_for("agent", (1, "4M"), (2, "3M"))
            await cluster.wait_for_sum("deployments", "app", "40M")
            await cluster.wait_for_sum("daemonsets", "agent", "7M")
            # A Pod moves: it takes its share of the other node's limit before it runs.
            await cluster.remove("app", 2)
            await cluster.schedule("app", 2, 1)
            await cluster.wait_for("app", (1, "15M"), (1, "15M"))
            await cluster.wait_for_sum("deployments", "app", "30M")
            # Somebody changes what a Pod may send: its own node's limit is put back.
            [(name, _)] = await _names_on(cluster, "agent", 2)
            change = {"metadata": {"annotations": {BANDWIDTH: "70M"}}}
            await server.must("PATCH", f"{server.pods}/{name}", change, MERGE_PATCH)
            await cluster.wait_for("agent", (1, "4M"), (2, "3M"))
            await _see_reports(actuator, n1, n2)
            # A node comes with its DaemonSet's Pod, another one goes and is given up after a while.
            await cluster.make_node(3)
            await cluster.schedule("agent", 3, 3)
            await actuator.wait_for_instances(n1, n2, n3)
            await cluster.wait_for("agent", (1, "4M"), (2, "3M"), (3, "2M"))
            await server.must("DELETE", f"/api/v1/nodes/{n2}")
            await cluster.remove("agent", 2)
            await cluster.wait_for("agent", (1, "4M"), (3, "2M"))

            async def is_gone() -> bool:
                actuator.now += 60
                actuator.instances.expire()
                return n2 not in str(actuator.instances.holding.keys())

            await eventually(is_gone)
            await actuator.wait_for_instances(n1, n3)
            assert not [about for about in actuator.health.notes if n2 in about]
            await cluster.wait_for_sum("daemonsets", "agent", "6M")
        await _restart_and_restore(cluster, client, n1, n3)


async def _restart_and_restore(cluster: Cluster, client: KubeClient, n1: str, n3: str) -> None:
    """Another process goes on from what the Pods carry, by node, and puts everything back in the end."""
    async with Actuator(cluster, client, "node", "two").running() as actuator:
        await actuator.wait_for_instances(n1, n3)
        await cluster.wait_for("app", (1, "15M"), (1, "15M"))
        actuator.decide(n1, 70_000, 9_000, age=3600 * S, good_for=7200 * S)
        actuator.decide(n3, 5_000, 5_000)
        await cluster.wait_for("agent", (1, "4M"), (3, "5M"))
        # Without a decision one node falls to the fail-safe limit, and the other does not.
        actuator.decide(n3, 5_000, 5_000, good_for=S // 2)
        await cluster.wait_for("agent", (1, "4M"), (3, "2M"))
        actuator.definitions.replace_file(())
        await cluster.wait_for("app", (1, None), (1, None))
        await cluster.wait_for("agent", (1, None), (3, None))
        await cluster.wait_for_sum("deployments", "app", None)
        await cluster.wait_for_sum("daemonsets", "agent", None)
        assert actuator.targets.reconcilers == {}


async def test_nodes_with_one_value_of_a_label_share_a_limit(server: Server) -> None:
    """Whose label changes, whose Pods go over; and a definition that is per node no longer is one limit again."""
    cluster = Cluster(server)
    for number, hall in ((1, "a"), (2, "a"), (3, "b")):
        await cluster.make_node(number, hall)
    await cluster.make_workloads()
    await cluster.schedule("app", 2, 1, 2)
    await cluster.schedule("agent", 3, 1, 2, 3)
    async with (
        KubeClient.connect(server.config) as client,
        Actuator(cluster, client, "example.com/hall").running() as actuator,
    ):
        await actuator.wait_for_instances("a", "b")
        assert actuator.instances.holding["floor@a"].domain.places == (cluster.node(1), cluster.node(2))
        actuator.decide("a", 20_000, 4_000)
        actuator.decide("b", 6_000, 3_000)
        await cluster.wait_for("app", (1, "10M"), (2, "10M"))
        await cluster.wait_for("agent", (1, "4M"), (2, "4M"), (3, "3M"))
        await cluster.wait_for_sum("daemonsets", "agent", "11M")
        change = {"metadata": {"labels": {"example.com/hall": "b"}}}
        await server.must("PATCH", f"/api/v1/nodes/{cluster.node(2)}", change, MERGE_PATCH)
        await cluster.wait_for("app", (1, "20M"), (2, "6M"))
        await cluster.wait_for("agent", (1, "4M"), (2, "3M"), (3, "3M"))
        template = actuator.instances.templates["floor"].domain
        whole = Domain(name="floor", critical=template.critical, targets=template.targets, per=UNSET)
        actuator.definitions.replace_file((whole,))
        await cluster.wait_for("app", (1, "1M"), (2, "1M"))  # the fail-safe limit, divided
        await cluster.wait_for_sum("deployments", "app", "2M")


async def _names_on(cluster: Cluster, app: str, number: int) -> list[tuple[str, str]]:
    pods = (await cluster.server.must("GET", f"{cluster.server.pods}?labelSelector=app%3D{app}"))["items"]
    found = [(pod["metadata"]["name"], pod["spec"].get("nodeName")) for pod in pods]
    return [one for one in found if one[1] == cluster.node(number)]


async def _see_reports(actuator: Actuator, *places: str) -> None:
    """Every write is reported by instance, the sum under the definition's own name, and no id is used twice."""

    async def has_drift() -> bool:
        return any(one.cause == "drift" and one.domain == f"floor@{places[1]}" for one in actuator.actions)

    await eventually(has_drift)
    domains = {one.domain for one in actuator.actions if one.outcome == "applied"}
    assert domains == {"floor", *(f"floor@{place}" for place in places)}
    sums = [one for one in actuator.actions if one.domain == "floor"]
    assert all(one.pods == () and one.cause == "rescale" and "the sum of" in one.reason for one in sums)
    ids = [(one.id, one.outcome) for one in actuator.actions if one.outcome == "applied"]
    assert len(ids) == len(set(ids))
