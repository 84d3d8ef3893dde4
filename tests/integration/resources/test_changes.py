"""What people do to domains of the cluster beside changing limits: commands, renames, other Pods, an upgrade."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from services.cli import main
from services.plant.kube_emulator.emulator import Emulator
from tests.integration.resources.test_cluster import (
    DEFINITION,
    SPEC,
    conditions,
    create,
    install,
    path,
    server,
    working,
)
from tests.support.actuators import DOMAIN, ActuatorProcess, Aim, Decider, S, Scene, config_text
from tests.support.decision_services import ServiceProcess, join
from tests.support.kube import servers
from tests.support.kube.apiserver import ApiServer
from tests.support.kube.servers import BANDWIDTH, MERGE_PATCH, Server, eventually
from tests.support.nats_server import NatsServer

__all__ = ("server",)

LINE: dict[str, Any] = {"deadMan": "60s", "shield": {"risePerSecond": 1}}
LABEL = "sluice.dev/domain"
TARGETS: list[dict[str, Any]] = SPEC["targets"]


async def test_commands_and_a_new_name(server: Server, nats: NatsServer, tmp_path: Path) -> None:
    """Pause, resume and restore find a target that only a resource names; under another name one hand has it."""
    for name in ("app", "upload"):
        await server.deploy(name, 1, template={BANDWIDTH: "90M"})
        await server.pods_of(name, 1)
    file = tmp_path / "person.yaml"
    file.write_text(config_text(nats.url, server.config, server.namespace, (Aim(),)), encoding="utf-8")

    async def type_in(*words: str) -> str:
        done = await asyncio.to_thread(CliRunner().invoke, main, [*words, "--config", str(file)])
        assert done.exit_code == 0, done.output
        return done.output

    async with join(nats.url, "sluice") as bus:
        scene = Scene(server, bus)
        before, after = (Decider(bus, server.namespace, f"{server.namespace}/{name}") for name in ("line", "track"))
        with ActuatorProcess(tmp_path, nats.url, server, (Aim(),)) as process:
            await process.is_ready()
            await create(server, **LINE)
            await scene.wait_for_limits("20M", ["20M"], "upload")
            await before.publish_limit("40M", "upload")
            await scene.wait_for_limits("40M", ["40M"], "upload")
            assert "paused" in await type_in("pause", "upload", "--reason", "maintenance")

            async def is_noted() -> bool:
                return "maintenance" in str(process.ready()[1].get("notes"))

            await eventually(is_noted)
            await before.publish_limit("25M", "upload")
            assert "handed back" in await type_in("resume", f"{server.namespace}/upload")
            await scene.wait_for_limits("25M", ["25M"], "upload")
            # Another resource with the same target is refused, until the first one is gone.
            await create(server, "track", **LINE)

            async def is_refused() -> bool:
                status = (await server.must("GET", path(server, "track"))).get("status") or {}
                return "belongs to domain" in str(status)

            await eventually(is_refused)
            await server.must("DELETE", path(server, "line"))

            async def is_accepted() -> bool:
                return not await is_refused()

            await eventually(is_accepted)
            await before.publish_limit("60M", "upload")  # of a decision service that does not know yet
            await scene.enforce(after, "30M", ["30M"], "upload", good_for=8 * S)
            assert not [one for one in await scene.actions("upload") if one.limit == 60_000]
        printed = await type_in("restore")
        assert "upload" in printed
        await scene.wait_for_limits(None, ["90M"], "upload")
        records = (await scene.records("upload")).values()
        assert not [one for one in records if one is not None]


def make_old(definition: dict[str, Any]) -> dict[str, Any]:
    """The definition as a version before enrolment and instances had it: without their fields, `targets` required."""
    old: dict[str, Any] = yaml.safe_load(yaml.safe_dump(definition))
    schema = old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for field in ("enrol", "per"):
        del schema["spec"]["properties"][field]
    del schema["status"]["properties"]["refused"]
    schema["spec"]["required"] = sorted({*schema["spec"]["required"], "targets"})
    return old


@pytest.mark.apiserver
@pytest.mark.customresources
async def test_an_upgrade_of_the_definition_leaves_stored_resources_in_force(apiserver: ApiServer) -> None:
    """What was stored under the old schema is read as it was, keeps its status, and takes the new fields."""
    name = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/bandwidthdomains.sluice.dev"
    current = yaml.safe_load(DEFINITION)
    enrol = {"enrol": {"min": "5M", "max": "80M", "failSafe": "20M"}}
    async with servers.real(apiserver) as server:
        await install(server)

        async def upgrade(to: dict[str, Any], *, knows: bool) -> None:
            live = await server.must("GET", name)
            await server.must("PUT", name, live | {"spec": to["spec"]})

            async def is_served() -> bool:
                """A new schema is served after a while; a dry run shows whether it keeps the new field."""
                body = {"apiVersion": "sluice.dev/v1alpha1", "kind": "BandwidthDomain", "metadata": {"name": "probe"}}
                spec = {"critical": [{"workload": "robot"}], "targets": TARGETS, **enrol}
                _, made = await server.request("POST", f"{path(server)}?dryRun=All", body | {"spec": spec})
                return ("enrol" in made.get("spec", {})) is knows

            await eventually(is_served)

        await upgrade(make_old(current), knows=False)
        try:
            await create(server)
            async with working(server) as scene:
                await scene.has_status(state="Waiting", observedGeneration=1)
                held = scene.definitions.holding[scene.name].domain
                stored = await server.must("GET", path(server, "line"))
                await upgrade(current, knows=True)
                after = await server.must("GET", path(server, "line"))
                assert (after["spec"], after["status"]) == (stored["spec"], stored["status"])
                assert scene.definitions.holding[scene.name].domain == held
            # An actuator that starts after the upgrade reads the same domain.
            async with working(server) as scene:
                await scene.holds("line")
                assert scene.definitions.holding[scene.name].domain == held
                await server.must("PATCH", path(server, "line"), {"spec": enrol}, MERGE_PATCH)
                status = await scene.has_status(observedGeneration=2)
                assert conditions(status)["Ready"] == ("True", "Accepted")
                assert scene.definitions.enrolling
        finally:
            await upgrade(current, knows=True)


async def test_a_workload_joins_a_domain_per_node(nats: NatsServer, tmp_path: Path) -> None:
    """By its label it gets a limit on each node with its Pods; without it, what was found."""
    async with servers.emulate(Emulator(starts_after=0.02)) as there, join(nats.url, "sluice") as bus:
        for app in ("app", "backup"):
            await there.deploy(app, 2, template={BANDWIDTH: "90M"})
        scene = Scene(there, bus)
        enrol = f"  enrol: {{namespaces: [{there.namespace}], min: 1M, max: 80M, fail_safe: 4M}}\n"
        text = config_text(nats.url, there.config, there.namespace, [Aim()])
        text = text.replace("  critical:", f"  per: node\n{enrol}  critical:")
        deciders = {node: Decider(bus, there.namespace, f"{DOMAIN}@{node}") for node in ("node-1", "node-2")}

        async def decide(**limits: str) -> None:
            for node, decider in deciders.items():
                await decider.publish(decider.decision({"app": "10M", "backup": limits[node.replace("-", "")]}))

        async def label(value: str | None) -> None:
            change = {"metadata": {"labels": {LABEL: value}}}
            await there.must("PATCH", f"{there.deployments}/backup", change, MERGE_PATCH)

        with ServiceProcess("actuator", tmp_path, text) as actuator:
            await scene.wait_for_limits("20M", ["10M", "10M"])
            await label(DOMAIN)
            await scene.wait_for_limits("8M", ["4M", "4M"], "backup")
            await decide(node1="30M", node2="7M")
            await scene.wait_for_limits("37M", ["30M", "7M"], "backup")
            actuator.kill()
            actuator.start()
            await decide(node1="20M", node2="6M")
            await scene.wait_for_limits("26M", ["20M", "6M"], "backup")
            await label(None)
            await scene.wait_for_limits(None, ["90M", "90M"], "backup")
            await scene.wait_for_limits("20M", ["10M", "10M"])
