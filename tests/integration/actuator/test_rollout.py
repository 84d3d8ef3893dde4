"""Rollouts and rollbacks by kubectl while the actuator runs, on a real API server.

A Deployment's annotations are copied to its newest ReplicaSet.  ``kubectl rollout undo`` copies an
old ReplicaSet's annotations back, with an outdated limit or none.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.actuator.ownership import KEY
from tests.support.actuators import ActuatorProcess, Decider, Scene
from tests.support.decision_services import join
from tests.support.kube import servers
from tests.support.kube.apiserver import ApiServer
from tests.support.kube.manifests import kubectl
from tests.support.kube.servers import BANDWIDTH, Server, eventually
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.apiserver

AT_ONCE = {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}}
"""No kubelet runs Pods on this server, so no new Pod would become ready and replace an old one."""


@pytest.fixture
async def server(apiserver: ApiServer) -> AsyncIterator[Server]:
    """A namespace on the real server."""
    async with servers.real(apiserver) as one:
        yield one


async def deploy(server: Server) -> None:
    """A Deployment whose template has the fail-safe limit, and its two Pods."""
    await server.deploy(replicas=2, template={BANDWIDTH: "10M"})
    await server.must("PATCH", f"{server.deployments}/app", AT_ONCE, servers.MERGE_PATCH)
    await server.pods_of("app", 2)


async def roll_out(server: Server, apiserver: ApiServer, *words: str) -> None:
    """Change the template by kubectl, and wait for the new Pods."""
    old = {pod["metadata"]["uid"] for pod in await server.pods_of("app", 2)}
    await asyncio.to_thread(kubectl, apiserver, "-n", server.namespace, *words)

    async def replaced() -> bool:
        return not old & {pod["metadata"]["uid"] for pod in await server.pods_of("app", 2)}

    await eventually(replaced)


async def test_a_rollback_does_not_bring_an_old_limit_back(
    server: Server, apiserver: ApiServer, nats: NatsServer, tmp_path: Path
) -> None:
    """The Deployment gets the limit of its old ReplicaSet back, and the actuator corrects it to the one in force."""
    await deploy(server)
    async with join(nats.url, "sluice") as bus:
        scene, decider = Scene(server, bus), Decider(bus, server.namespace)
        with ActuatorProcess(tmp_path, nats.url, server) as actuator:
            await actuator.is_ready()
            await decider.publish_limit("60M")
            await scene.wait_for_limits("60M", ["30M", "30M"])
            await roll_out(server, apiserver, "set", "image", "deployment/app", "app=app:2")
            await scene.wait_for_limits("60M", ["30M", "30M"])
            await decider.publish_limit("40M")
            await scene.wait_for_limits("40M", ["20M", "20M"])
            await roll_out(server, apiserver, "rollout", "undo", "deployment/app")
            await scene.wait_for_limits("40M", ["20M", "20M"])
            await decider.publish_limit("50M")
            await scene.wait_for_limits("50M", ["25M", "25M"])
            assert actuator.ready()[1].get("notes", {}) == {}


async def test_a_rollback_to_before_sluice_is_reported(
    server: Server, apiserver: ApiServer, nats: NatsServer, tmp_path: Path
) -> None:
    """The old ReplicaSet has no record: the target is paused, and the note shows how to resume."""
    await deploy(server)
    await roll_out(server, apiserver, "set", "image", "deployment/app", "app=app:2")
    async with join(nats.url, "sluice") as bus:
        scene, decider = Scene(server, bus), Decider(bus, server.namespace)
        with ActuatorProcess(tmp_path, nats.url, server) as actuator:
            await actuator.is_ready()
            await decider.publish_limit("60M")
            await scene.wait_for_limits("60M", ["30M", "30M"])
            await roll_out(server, apiserver, "rollout", "undo", "deployment/app")
            name = f"{server.namespace}/app"

            async def noted() -> Any:
                return actuator.ready()[1].get("notes", {}).get(name)

            note = await eventually(noted)
            assert KEY in note
            assert await scene.bandwidth() is None
            assert await scene.pod_bandwidths() == ["10M", "10M"]
            command = note.partition("kubectl ")[2].replace("'", "").split()
            await asyncio.to_thread(kubectl, apiserver, *command)
            await scene.wait_for_limits("60M", ["30M", "30M"])
