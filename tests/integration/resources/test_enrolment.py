"""Workloads that join a domain of the cluster by their label, with a running actuator."""

from pathlib import Path
from typing import Any

from schemas.definition import Definition
from tests.integration.resources.test_cluster import SPEC, create, path, server
from tests.support.actuators import ActuatorProcess, Aim, Decider, Scene
from tests.support.decision_services import join
from tests.support.kube.servers import BANDWIDTH, MERGE_PATCH, Server, eventually
from tests.support.nats_server import NatsServer

__all__ = ("server",)

LABEL = "sluice.dev/domain"
ENROL: dict[str, Any] = {"min": "5M", "max": "80M", "failSafe": "20M", "kinds": ["Deployment", "StatefulSet"]}
LINE: dict[str, Any] = {"targets": [], "enrol": ENROL, "deadMan": "60s", "shield": {"risePerSecond": 1}}


async def change(server: Server, name: str, *, label: str | None = "line", **notes: str | None) -> None:
    """Label and annotate a Deployment, as kubectl would."""
    annotations = {f"sluice.dev/{key}": value for key, value in notes.items()}
    body = {"metadata": {"labels": {LABEL: label}, "annotations": annotations}}
    await server.must("PATCH", f"{server.deployments}/{name}", body, MERGE_PATCH)


async def test_a_workload_joins_is_paused_refused_and_leaves(server: Server, nats: NatsServer, tmp_path: Path) -> None:
    """Nobody edits the resource; who leaves gets back what was found, also while no actuator runs."""
    for name in ("app", "upload", "backup"):
        await server.deploy(name, 1, template={BANDWIDTH: "90M"})
        await server.pods_of(name, 1)

    async def has_status(check: str, **expected: Any) -> dict[str, Any]:
        async def found() -> dict[str, Any] | None:
            status = (await server.must("GET", path(server, "line"))).get("status") or {}
            return status if status.items() >= expected.items() and check in str(status) else None

        return await eventually(found)

    async with join(nats.url, "sluice") as bus:
        scene, decider = Scene(server, bus), Decider(bus, server.namespace, f"{server.namespace}/line")

        async def is_published(*names: str) -> None:
            async def asked() -> bool:
                last = await bus.get_last(Definition, bus.subjects.definition(f"{server.namespace}/line"))
                keys = [] if last is None else [one.key for one in last.message.configuration.targets]
                return keys == [f"{server.namespace}/{name}" for name in names]

            await eventually(asked)

        with ActuatorProcess(tmp_path, nats.url, server, (Aim(),)) as process:
            await process.is_ready()
            await create(server, **LINE)
            await has_status("no workload has joined by its label yet", state="Waiting")
            await change(server, "upload", max="50M")
            await change(server, "backup", max="1G")
            await scene.wait_for_limits("20M", ["20M"], "upload")
            status = await has_status("1G is outside of what the domain gives")
            assert [one["workload"] for one in status["refused"]] == [f"{server.namespace}/backup"]
            assert await scene.bandwidth("backup") is None

            async def is_told() -> bool:
                events = (await server.must("GET", f"/api/v1/namespaces/{server.namespace}/events"))["items"]
                return any(
                    (one["reason"], one["involvedObject"]["name"]) == ("NotEnrolled", "backup") for one in events
                )

            await eventually(is_told)
            assert "backup: sluice.dev/max 1G" in process.ready()[1]["notes"]["enrolment"]
            await decider.publish_limit("60M", "upload")
            await scene.wait_for_limits("50M", ["50M"], "upload")  # its own maximum
            await change(server, "upload", max="50M", paused="maintenance")
            await has_status("'maintenance'", state="Paused")
            await decider.publish_limit("30M", "upload")
            await change(server, "backup", max=None)
            await scene.wait_for_limits("20M", ["20M"], "backup")
            assert await scene.bandwidth("upload") == "50M"
            await is_published("backup", "upload")
            await change(server, "upload", max="50M", paused=None)
            await decider.publish_limit("30M", "upload")
            await scene.wait_for_limits("30M", ["30M"], "upload")
        # One leaves while nobody acts; the others stay as they are.
        await change(server, "backup", label=None)
        with ActuatorProcess(tmp_path, nats.url, server, (Aim(),)) as process:
            await scene.wait_for_limits(None, ["90M"], "backup")
            assert await scene.bandwidth("upload") == "30M"
            await change(server, "upload", label="another")
            await scene.wait_for_limits(None, ["90M"], "upload")
            await has_status("no workload has joined")
            assert not [one for one in await scene.actions("upload") if one.cause == "restore" and one.partial]


async def test_a_foreign_namespace_is_not_enrolled(server: Server, nats: NatsServer, tmp_path: Path) -> None:
    """Who may write resources in one namespace must not limit another's workloads."""
    with ActuatorProcess(tmp_path, nats.url, server, (Aim(),)):
        await create(server, **LINE | {"enrol": ENROL | {"namespaces": ["elsewhere"]}, "targets": SPEC["targets"]})

        async def is_refused() -> bool:
            status = (await server.must("GET", path(server, "line"))).get("status") or {}
            return "may not limit workloads of another namespace" in str(status)

        await eventually(is_refused)
