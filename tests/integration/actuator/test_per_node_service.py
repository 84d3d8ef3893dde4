"""``sluice actuator`` under a definition per node: its instances on the bus, through a crash."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schemas.definition import Definition
from schemas.messages import Action
from services.plant.kube_emulator.emulator import Emulator
from tests.support.actuators import DOMAIN, Aim, Decider, Scene, config_text
from tests.support.decision_services import ServiceProcess, join, read_stream
from tests.support.kube import servers
from tests.support.kube.servers import Server, eventually
from tests.support.nats_server import NatsServer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """The emulator, whose kubelets run Pods on two nodes in turn."""
    async with servers.emulate(Emulator(starts_after=0.02)) as server:
        yield server


async def test_instances_are_on_the_bus_and_survive_a_crash(server: Server, nats: NatsServer, tmp_path: Path) -> None:
    """None is published as removed, and nothing again; decisions about it move the limits of its own node.

    No critical Pod is on either node: the bus says so, if not at once.
    """
    await server.deploy("app", replicas=2)
    text = config_text(nats.url, server.config, server.namespace, [Aim()], port=0)
    text = text.replace("  critical:", "  per: node\n  critical:")
    async with join(nats.url, "sluice") as bus:
        scene = Scene(server, bus)
        deciders = {node: Decider(bus, server.namespace, f"{DOMAIN}@{node}") for node in ("node-1", "node-2")}

        async def published() -> list[Definition]:
            return [one.message for one in await read_stream(bus, Definition)]

        async def has_both() -> bool:
            found = {one.domain for one in await published() if one.without_critical}
            return found == {f"{DOMAIN}@{node}" for node in deciders}

        with ServiceProcess("actuator", tmp_path, text) as actuator:
            await eventually(has_both)
            before = await published()
            # The sum follows the Pods of both nodes.
            await scene.wait_for_limits("20M", ["10M", "10M"])
            await deciders["node-1"].publish_limit("30M")
            await deciders["node-2"].publish_limit("7M")
            await scene.wait_for_limits("37M", ["30M", "7M"])
            actuator.kill()
            actuator.start()
            await deciders["node-2"].publish_limit("6M")
            await scene.wait_for_limits("36M", ["30M", "6M"])
        assert await published() == before
        assert not any(one.removed for one in before)
        assert {one.configuration.of for one in await published()} == {DOMAIN}
        reports = [one.message for one in await read_stream(bus, Action) if one.message.outcome == "applied"]
        assert {one.domain for one in reports} == {DOMAIN, *(f"{DOMAIN}@{node}" for node in deciders)}
        assert all(len(one.pods) == (one.domain != DOMAIN) for one in reports)
