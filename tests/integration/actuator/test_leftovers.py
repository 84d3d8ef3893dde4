"""A target that is taken out of the file: its last limit stays, and it is reported."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.actuator.leftovers import find_leftovers
from services.kube.client import KubeClient
from services.runtime.config_loader import load
from services.tools.check.cluster_reader import check_cluster
from tests.support.actuators import ActuatorProcess, Aim, Scene
from tests.support.decision_services import join
from tests.support.kube.servers import Server, eventually
from tests.support.nats_server import NatsServer


@pytest.fixture
async def scene(server: Server, nats: NatsServer) -> AsyncIterator[Scene]:
    """Two Deployments, and a bus."""
    for name in ("app", "two", "other"):
        await server.deploy(name, replicas=1)
        await server.pods_of(name, 1)
    async with join(nats.url, "sluice") as bus:
        yield Scene(server, bus)


async def test_a_target_that_was_taken_out_is_reported(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """On a note, as a metric, as an Event, and by the check of the cluster; not while it is a target."""
    with ActuatorProcess(tmp_path / "both", nats.url, scene.server, (Aim(), Aim("two"))) as process:
        await scene.wait_for_limits("10M", ["10M"])
        await scene.wait_for_limits("10M", ["10M"], "two")
        await process.is_ready()
        assert process.metric("sluice_limits_left_over ") == {"": 0.0}
    namespace = scene.server.namespace
    # With the definition from before on the bus, the target would be restored.
    await scene.bus._session.request("STREAM.PURGE.SLUICE_DEFINITION")
    with ActuatorProcess(tmp_path / "one", nats.url, scene.server) as process:

        async def noted() -> bool:
            return f"{namespace}/two" in process.ready()[1].get("notes", {}).get("not configured", "")

        await eventually(noted)
        assert process.metric("sluice_limits_left_over ") == {"": 1.0}
        assert "other" not in str(process.ready()[1])

        async def is_reported() -> bool:
            events = await scene.server.must("GET", f"/api/v1/namespaces/{namespace}/events")
            return any(one["reason"] == "LimitLeftOver" for one in events["items"])

        await eventually(is_reported)
    config = load(tmp_path / "one" / "config.yaml")
    async with KubeClient.connect(config.kubernetes) as client:
        (found,) = await find_leftovers(client, config.domains[0].targets)
        assert found.metadata.name == "two"
    if scene.server.name == "apiserver":
        result = await check_cluster(config)
        (finding,) = [one for one in result.findings if one.where == f"{namespace}/two"]
        assert "10M is in force" in finding.what


async def test_a_target_that_was_taken_out_while_no_actuator_ran_is_restored(
    scene: Scene, nats: NatsServer, tmp_path: Path
) -> None:
    """The bus knows what the domain had before; the restoring is reported, and the other target goes on."""
    with ActuatorProcess(tmp_path / "both", nats.url, scene.server, (Aim(), Aim("two"))) as process:
        await scene.wait_for_limits("10M", ["10M"], "two")
        await process.is_ready()
        assert process.stop() == 0

    async def find_restored() -> list[str] | None:
        reports = [one.message for one in await scene.read_reports()]
        return [one.target for one in reports if (one.cause, one.outcome) == ("restore", "applied")] or None

    with ActuatorProcess(tmp_path / "one", nats.url, scene.server):
        restored = await eventually(find_restored)
    assert restored == [f"{scene.server.namespace}/two"]
    assert await scene.bandwidth("two") is None
    assert await scene.bandwidth("app") == "10M"
