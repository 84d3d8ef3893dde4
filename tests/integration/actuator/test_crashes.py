"""Actuators that are killed: every patch is reported, and no older limit replaces a newer one."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.actuators import ActuatorProcess, Decider, Scene
from tests.support.decision_services import join
from tests.support.fault_tally import Tally, judge
from tests.support.kube.servers import BANDWIDTH, Server, eventually
from tests.support.kube.write_trail import Trail, Verdict, follow_trail
from tests.support.nats_server import NatsServer

POINTS = (
    "actuator.started",
    "actuator.received",
    "actuator.planned",
    "actuator.patched",
    "actuator.written",
    "actuator.reported",
    "actuator.acknowledged",
    "actuator.recovered",
)


@pytest.fixture
async def scene(server: Server, nats: NatsServer) -> AsyncIterator[Scene]:
    """A Deployment with three Pods, and a bus."""
    await server.deploy(replicas=3, template={BANDWIDTH: "10M"})
    await server.pods_of("app", 3)
    async with join(nats.url, "sluice") as bus:
        yield Scene(server, bus)


async def churn(scene: Scene, decider: Decider, pause_s: float, *, scales: bool = True) -> None:
    """Publish decisions, and create, delete and tamper with Pods in between, until cancelled."""
    for number in itertools.count():
        await decider.publish_limit(20_000 + 600 * (number * 37 % 100))
        if scales and number % 4 == 1:
            await scene.scale(2 + number % 3)
        if number % 4 == 3:
            pods = (await scene.server.must("GET", f"{scene.server.pods}?labelSelector=app%3Dapp"))["items"]
            path = f"{scene.server.pods}/{pods[0]['metadata']['name']}"
            await scene.server.request(
                "PATCH", path, {"metadata": {"annotations": {BANDWIDTH: "999M"}}}, "application/merge-patch+json"
            )
        await asyncio.sleep(pause_s)


@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_at_any_point(scene: Scene, nats: NatsServer, tmp_path: Path, tally: Tally, point: str) -> None:
    """It recovers after crashes at the same point, early and later, while decisions arrive and Pods churn."""
    decider = Decider(scene.bus, scene.server.namespace)
    # A point that is passed once per process, or only after a lost report, is not reached a fourth time.
    plan = {
        "actuator.started": ["actuator.started:1"] * 2,
        "actuator.recovered": ["actuator.written:3", "actuator.recovered:1", "actuator.recovered:1"],
    }.get(point, [f"{point}:1", f"{point}:4"])
    async with follow_trail(scene.server) as trail:
        for crash_at in plan:
            with ActuatorProcess(tmp_path, nats.url, scene.server, crash_at=crash_at) as process:
                # With a Pod that is deleted the only lost report may go, and then nothing is recovered.
                busy = asyncio.create_task(churn(scene, decider, 0.1, scales=point != "actuator.recovered"))
                assert await process.wait_for_crash(), process.log
                await cancel(busy)
        with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
            verdict = await run_to_end(scene, decider, process, trail)
    tally.add("kill -9 at injected points", f"{len(plan)} kills, {verdict.writes} writes", judge(verdict))


async def run_to_end(scene: Scene, decider: Decider, process: ActuatorProcess, trail: Trail) -> Verdict:
    """Run an actuator until it has no work left, and check the trail."""
    await scene.scale(3)
    await decider.publish_limit("63M")
    await scene.wait_for_limits("63M", ["21M"] * 3)
    # Reports follow patches: wait for those of the last ones, and until none is in flight.
    await eventually(lambda: has_last_reports(scene, trail))
    await eventually(lambda: nothing_pending(process))
    verdict = await scene.judge(trail)
    assert process.stop() == 0
    return verdict


async def cancel(task: "asyncio.Task[None]") -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def answering(process: ActuatorProcess) -> bool:
    """Whether the process answers already."""
    return "http" not in process.ready()[1]["wrong"]


async def has_last_reports(scene: Scene, trail: Trail) -> bool:
    """Whether the bus has the reports of the last writes."""
    return trail.has_last_reports(await scene.actions())


async def nothing_pending(process: ActuatorProcess) -> bool:
    """Whether the bus has every report."""
    return process.metric("sluice_reports_pending ") == {"": 0.0}


async def test_kills_at_random(scene: Scene, nats: NatsServer, tmp_path: Path, tally: Tally) -> None:
    """After SIGKILL within a second of its start, at any point, reports, order and bounds hold."""
    decider = Decider(scene.bus, scene.server.namespace)
    chance = random.Random(5)
    kills = 0
    async with follow_trail(scene.server) as trail:
        busy = asyncio.create_task(churn(scene, decider, 0.1))
        while kills < 8:
            with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
                await eventually(lambda: answering(process))
                await asyncio.sleep(chance.uniform(0.0, 1.0))
            kills += 1
        await cancel(busy)
        with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
            verdict = await run_to_end(scene, decider, process, trail)
    tally.add("kill -9 at random", f"{kills} kills, {verdict.writes} writes", judge(verdict))


async def test_pods_churn_while_limits_change(scene: Scene, nats: NatsServer, tmp_path: Path, tally: Tally) -> None:
    """Sixty decisions while replicas come and go and annotations are tampered with; nothing is killed."""
    decider = Decider(scene.bus, scene.server.namespace)
    async with follow_trail(scene.server) as trail:
        with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
            await process.is_ready()
            busy = asyncio.create_task(churn(scene, decider, 0.03))
            await eventually(lambda: enough(decider, 60))
            await cancel(busy)
            verdict = await run_to_end(scene, decider, process, trail)
    tried = f"{len(decider.published)} decisions, {verdict.writes} writes"
    tally.add("pods churn while limits change", tried, judge(verdict))


async def enough(decider: Decider, count: int) -> bool:
    """Whether so many decisions were published."""
    return len(decider.published) >= count
