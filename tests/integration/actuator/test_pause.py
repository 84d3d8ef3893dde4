"""A person pauses a target with ``sluice pause``, and hands it back with ``sluice resume``."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.cli import main
from services.plant.kube_emulator.emulator import Emulator
from tests.support.actuators import ActuatorProcess, Aim, Decider, Scene, config_text
from tests.support.decision_services import join
from tests.support.kube import servers
from tests.support.kube.servers import BANDWIDTH, eventually
from tests.support.nats_server import NatsServer


@pytest.fixture
async def scene(nats: NatsServer) -> AsyncIterator[Scene]:
    """Two Deployments with a Pod each on the emulator, and a bus."""
    async with servers.emulate(Emulator(starts_after=None)) as server:
        for name in ("app", "other"):
            await server.deploy(name, 1, template={BANDWIDTH: "10M"})
            await server.pods_of(name, 1)
        async with join(nats.url, "sluice") as bus:
            yield Scene(server, bus)


async def test_a_paused_target_keeps_its_limit(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """Decisions pass it by, and it says so; the other target follows; handed back, it takes the last decision."""
    namespace, aims = scene.server.namespace, (Aim(), Aim("other"))
    decider = Decider(scene.bus, namespace)
    file = tmp_path / "person.yaml"
    file.write_text(config_text(nats.url, scene.server.config, namespace, aims), encoding="utf-8")

    async def type_in(*words: str) -> str:
        done = await asyncio.to_thread(CliRunner().invoke, main, [*words, "--config", str(file)])
        assert done.exit_code == 0, done.output
        return done.output

    with ActuatorProcess(tmp_path, nats.url, scene.server, aims) as process:
        await process.is_ready()
        await decider.publish(decider.decision({"app": "40M", "other": "40M"}))
        await scene.wait_for_limits("40M", ["40M"])
        assert "paused" in await type_in("pause", "app", "--reason", "uplink maintenance")

        async def is_shown() -> bool:
            return "uplink maintenance" in str(process.ready()[1].get("notes"))

        await eventually(is_shown)
        await decider.publish(decider.decision({"app": "20M", "other": "20M"}))
        await scene.wait_for_limits("20M", ["20M"], "other")
        await scene.wait_for_limits("40M", ["40M"])
        assert process.metric("sluice_target_paused") == {f'target="{namespace}/app"': 1.0}
        assert "handed back" in await type_in("resume", f"{namespace}/app")
        await scene.wait_for_limits("20M", ["20M"])
    assert "it was not paused" in await type_in("resume", "app")
