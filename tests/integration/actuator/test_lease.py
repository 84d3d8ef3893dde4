"""Two actuators with a Lease: its holder acts, and the other one takes over when it is gone."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.actuators import ActuatorProcess, Decider, Scene
from tests.support.decision_services import join
from tests.support.kube.servers import BANDWIDTH, Server, eventually
from tests.support.nats_server import NatsServer

STANDS_BY = "another actuator is in charge"


@pytest.fixture
async def scene(server: Server, nats: NatsServer) -> AsyncIterator[Scene]:
    """A Deployment with two Pods, a Lease that nobody holds, and a bus."""
    await server.deploy(replicas=2, template={BANDWIDTH: "10M"})
    await server.pods_of("app", 2)
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "sluice-actuator"}}
    await server.must("POST", leases(server), lease)  # without a spec, as the manifests have it
    async with join(nats.url, "sluice") as bus:
        yield Scene(server, bus)


def leases(server: Server) -> str:
    """Path of the namespace's Leases."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{server.namespace}/leases"


async def spec(scene: Scene) -> dict[str, Any]:
    """The Lease's state."""
    tree = await scene.server.must("GET", f"{leases(scene.server)}/sluice-actuator")
    found: dict[str, Any] = tree["spec"]
    return found


async def new_holder(scene: Scene, before: str | None) -> str:
    """The holder of the Lease, once it is another one."""

    async def changed() -> str | None:
        holder = (await spec(scene)).get("holderIdentity")
        return None if holder == before else holder

    return await eventually(changed)


@pytest.mark.parametrize("server", [pytest.param("apiserver", marks=pytest.mark.apiserver)], indirect=True)
async def test_the_standby_takes_over_when_the_holder_is_killed(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """It does not act before; then it follows decisions under a later term.  An orderly end hands the Lease over."""
    lease = f"{scene.server.namespace}/sluice-actuator"
    decider = Decider(scene.bus, scene.server.namespace)

    def actuator(name: str) -> ActuatorProcess:
        return ActuatorProcess(tmp_path / name, nats.url, scene.server, lease=lease)

    with actuator("first") as first:
        await first.is_ready()
        holder = await new_holder(scene, None)
        with actuator("second") as second:
            await second.is_ready()
            await decider.publish_limit("60M")
            await scene.wait_for_limits("60M", ["30M"] * 2)

            async def stands_by() -> bool:
                return STANDS_BY in str(second.ready())

            await eventually(stands_by)
            assert STANDS_BY not in str(first.ready())
            killed = time.monotonic()
            first.kill()
            cut = await decider.publish_limit("20M")
            await scene.wait_for_limits("20M", ["10M"] * 2)
            print(f"{scene.server.name}: the cut is in force {time.monotonic() - killed:.2f} s after the kill")
            later = await new_holder(scene, holder)
            # Nobody but the two wrote, and no decision twice.  A report follows its patches.
            await scene.wait_for_reports(decision=cut.id)
            assert [one.decision for one in await scene.actions() if one.cause == "decision"][-1] == cut.id
            assert [one.outcome for one in await scene.actions() if one.outcome == "skipped"] == []
            first.start()
            await first.is_ready()
            stopped = time.monotonic()
            assert second.stop() == 0
            assert await new_holder(scene, later) != holder
            print(f"{scene.server.name}: handed over {time.monotonic() - stopped:.2f} s after SIGTERM")
            await decider.publish_limit("50M")
            await scene.wait_for_limits("50M", ["25M"] * 2)
    assert (await spec(scene))["leaseTransitions"] == 3


@pytest.mark.parametrize("server", ["emulator"], indirect=True)
async def test_a_lease_that_is_not_there_is_reported(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """The actuator is not ready and says why; it acts all the same, since nobody else is known to."""
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server, lease=f"{scene.server.namespace}/nowhere") as process:
        await decider.publish_limit("60M")
        await scene.wait_for_limits("60M", ["30M"] * 2)
        ready, state = process.ready()
        assert not ready
        assert f"the Lease {scene.server.namespace}/nowhere cannot be used: NotFound" in state["wrong"]["lease"]
