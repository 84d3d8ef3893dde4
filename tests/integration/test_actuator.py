"""The actuator as a process, on a real bus, on the emulator and on a real API server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.actuation import ActuatorProcess, Decider, Scene
from tests.kubernetes import BANDWIDTH, Server
from tests.parts import NatsServer
from tests.pipeline import joined


@pytest.fixture
async def scene(server: Server, nats: NatsServer) -> AsyncIterator[Scene]:
    """A cluster and a bus."""
    async with joined(nats.url, "sluice") as bus:
        yield Scene(server, bus)


async def test_a_decision_reaches_deployment_and_pods(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """The limit stands on the Deployment, its share on every Pod, and the report says when and why."""
    await scene.server.deploy(replicas=3, template={BANDWIDTH: "10M"})
    pods = await scene.server.pods_of("app", 3)
    decider = Decider(scene.bus, scene.server.namespace)
    decision = await decider.say("60M")
    with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
        await scene.stands_at("60M", ["20M"] * 3)
        (action,) = await scene.reported(cause="decision", outcome="applied")
        await process.is_ready()
        assert process.stop() == 0
    assert action.decision == decision.id
    assert (action.limit, action.was, action.epoch, action.seq) == (60_000, None, decision.epoch, decision.seq)
    assert {pod.uid for pod in action.pods} == {pod["metadata"]["uid"] for pod in pods}
    assert {(pod.outcome, pod.limit) for pod in action.pods} == {("applied", 20_000)}
    assert action.sampled == decision.end
    assert action.decided is not None
    assert action.applied is not None
    assert action.sampled <= action.decided <= action.applied
