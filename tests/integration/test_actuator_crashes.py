"""Actuators that are killed: no patch without a report, nothing older in force over something newer."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.actuation import ActuatorProcess, Decider, Scene
from tests.kubernetes import BANDWIDTH, Server, eventually
from tests.parts import NatsServer
from tests.pipeline import joined
from tests.trail import Trail, followed

POINTS = (
    "actuator.received",
    "actuator.planned",
    "actuator.patched",
    "actuator.written",
    "actuator.reported",
    "actuator.acknowledged",
)


@pytest.fixture
async def scene(server: Server, nats: NatsServer) -> AsyncIterator[Scene]:
    """A Deployment with three Pods, and a bus."""
    await server.deploy(replicas=3, template={BANDWIDTH: "10M"})
    await server.pods_of("app", 3)
    async with joined(nats.url, "sluice") as bus:
        yield Scene(server, bus)


async def churn(scene: Scene, decider: Decider, pause_s: float) -> None:
    """Decisions, with Pods that come and go and are tampered with in between, until cancelled."""
    for number in itertools.count():
        await decider.say(20_000 + 600 * (number * 37 % 100))
        if number % 4 == 1:
            await scene.scale(2 + number % 3)
        if number % 4 == 3:
            pods = (await scene.server.must("GET", f"{scene.server.pods}?labelSelector=app%3Dapp"))["items"]
            path = f"{scene.server.pods}/{pods[0]['metadata']['name']}"
            await scene.server.request(
                "PATCH", path, {"metadata": {"annotations": {BANDWIDTH: "999M"}}}, "application/merge-patch+json"
            )
        await asyncio.sleep(pause_s)


@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_at_any_point(scene: Scene, nats: NatsServer, tmp_path: Path, point: str) -> None:
    """Killed at the same point, early and later, while decisions come and Pods churn, it always goes on."""
    decider = Decider(scene.bus, scene.server.namespace)
    crashes = 0
    async with followed(scene.server) as trail:
        for count in (1, 4):
            with ActuatorProcess(tmp_path, nats.url, scene.server, crash_at=f"{point}:{count}") as process:
                busy = asyncio.create_task(churn(scene, decider, 0.1))
                assert await process.crashed(), process.log
                crashes += 1
                await cancelled(busy)
        with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
            figures = await concluded(scene, decider, process, trail)
    print(f"{point}: {crashes} crashes, {figures}")


async def concluded(scene: Scene, decider: Decider, process: ActuatorProcess, trail: Trail) -> str:
    """Let an actuator that is not killed come to rest, and check the trail; gives figures."""
    await scene.scale(3)
    await decider.say("63M")
    await scene.stands_at("63M", ["21M"] * 3)
    # Reports follow patches: wait until none is on its way.
    await eventually(lambda: nothing_pending(process))
    assert process.stop() == 0
    writes = trail.check(await scene.actions(), "5M", "80M")
    return f"{writes} writes, unreported 0 (on Pods gone meanwhile {trail.lost}), older over newer 0, out of bounds 0"


async def cancelled(task: "asyncio.Task[None]") -> None:
    """Stop a task."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def answering(process: ActuatorProcess) -> bool:
    """Whether the process has come far enough to be asked."""
    return "http" not in process.ready()[1]["wrong"]


async def nothing_pending(process: ActuatorProcess) -> bool:
    """Whether the bus has every report."""
    return process.metric("sluice_reports_pending ") == {"": 0.0}


async def test_kills_at_random(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """SIGKILL within a second of its start, wherever it is; reports, order and bounds hold."""
    decider = Decider(scene.bus, scene.server.namespace)
    chance = random.Random(5)
    kills = 0
    async with followed(scene.server) as trail:
        busy = asyncio.create_task(churn(scene, decider, 0.1))
        while kills < 8:
            with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
                await eventually(lambda: answering(process))
                await asyncio.sleep(chance.uniform(0.0, 1.0))
            kills += 1
        await cancelled(busy)
        with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
            figures = await concluded(scene, decider, process, trail)
    print(f"{kills} kills, {figures}")
