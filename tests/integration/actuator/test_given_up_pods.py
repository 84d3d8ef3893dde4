"""Pods that a label selector no longer matches get back what was found on them, beside the others' limits."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from msgspec import structs

from schemas.domain import Critical, Domain, Target
from schemas.messages import Action
from schemas.units import Duration, Rate
from schemas.workloads import LabelSelector
from services.actuator.outbox import ActionOutbox
from services.actuator.ownership import KEY
from services.actuator.target_set import TargetSet
from services.kube.client import KubeClient
from services.kube.objects import BANDWIDTH
from services.plant.kube_emulator.emulator import Emulator
from services.runtime.health import Health
from tests.support.actuators import build_dependencies
from tests.support.kube import servers
from tests.support.kube.servers import MERGE_PATCH, Server, eventually
from tests.support.offered_limits import offer_limits
from tests.support.waiting import until

S = 10**9


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """The emulator."""
    async with servers.emulate(Emulator(starts_after=None)) as server:
        yield server


class Scene:
    """One target that selects Pods by a label, in force."""

    def __init__(self, server: Server, client: KubeClient) -> None:
        """Nothing runs yet."""
        self.server = server
        self.actions: list[Action] = []
        self._outbox, health = ActionOutbox(), Health()
        shared = build_dependencies(client, health, outbox=self._outbox)
        self.targets = TargetSet(client, health, shared)
        self.targets.has_bus_answered = True
        self.target = Target(
            name="hogs",
            selector=LabelSelector(match_labels={"hog": "yes"}),
            namespace=server.namespace,
            min=Rate(1000),
            max=Rate(80_000),
            fail_safe=Rate(10_000),
        )
        self.domain = Domain("line", (Critical("robot"),), (self.target,), dead_man=Duration(600 * S))

    async def run(self) -> None:
        """Act, for ever."""

        async def publish(action: Action, _headers: object) -> None:
            self.actions.append(action)

        async with asyncio.TaskGroup() as group:
            group.create_task(self.targets.run())
            group.create_task(self._outbox.run(publish))

    def decide(self, limit: int) -> None:
        """Hand a decision to the target."""
        end, key = time.time_ns(), self.target.key
        reconcilers = {key: self.targets.reconcilers["line", key]}
        offer_limits("line", reconcilers, {key: limit}, end, end + 600 * S, end)

    async def label(self, pod: str, hog: str | None) -> None:
        """Change a Pod's label."""
        path = f"/api/v1/namespaces/{self.server.namespace}/pods/{pod}"
        await self.server.must("PATCH", path, {"metadata": {"labels": {"hog": hog}}}, MERGE_PATCH)

    def given_up(self) -> list[str]:
        """The Pods that were reported as no longer the target's."""
        return [one.pods[0].pod for one in self.actions if "no longer its Pods" in one.reason]

    async def limits(self) -> list[tuple[str | None, bool]]:
        """Each Pod's limit, by name, and whether it carries a record."""
        pods = await self.server.must("GET", f"/api/v1/namespaces/{self.server.namespace}/pods")
        metas: list[Any] = sorted((pod["metadata"] for pod in pods["items"]), key=lambda meta: meta["name"])
        found = [one.get("annotations") or {} for one in metas]
        return [(one.get(BANDWIDTH), KEY in one) for one in found]

    async def wait_for(self, *limits: tuple[str | None, bool]) -> None:
        """Wait until the Pods have these."""

        async def has() -> bool:
            return await self.limits() == list(limits)

        await eventually(has)


async def test_a_pod_that_is_given_up_is_put_back(server: Server) -> None:
    """After its label changed, and after the selector did; the rest of the target goes on."""
    await server.deploy("app", replicas=2)
    names = sorted(one["metadata"]["name"] for one in await server.pods_of("app", 2))
    async with KubeClient.connect(server.config) as client:
        scene = Scene(server, client)
        for name in names:
            await scene.label(name, "yes")
        scene.targets.define({"line": scene.domain})
        running = asyncio.create_task(scene.run())
        try:
            scene.decide(8_000)
            await scene.wait_for(("4M", True), ("4M", True))
            await scene.label(names[0], None)
            await scene.wait_for((None, False), ("8M", True))
            # Reports follow the patches.
            await until(lambda: bool(scene.given_up()) and scene.actions[-1].cause in ("rescale", "decision"))
            assert scene.given_up() == [names[0]]
            # Another selector, under the same key: the Pod of the one before is given up, and the other one limited.
            await scene.label(names[0], "other")
            other = structs.replace(scene.target, selector=LabelSelector(match_labels={"hog": "other"}))
            scene.targets.define({"line": structs.replace(scene.domain, targets=(other,))})
            await scene.wait_for(("8M", True), (None, False))
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
