"""A resource's whole life with a running actuator: limited, paused, handed back, and restored when it is deleted."""

import time
from pathlib import Path
from typing import Any

from msgspec import structs

from schemas.definition import Definition
from tests.integration.resources.test_cluster import create, path, server
from tests.support.actuators import ActuatorProcess, Aim, Decider, Scene
from tests.support.decision_services import S, join
from tests.support.kube.servers import BANDWIDTH, MERGE_PATCH, Server, eventually
from tests.support.nats_server import NatsServer

__all__ = ("server",)

LINE: dict[str, Any] = {"deadMan": "60s", "shield": {"risePerSecond": 1}}


async def test_a_domain_of_the_cluster_is_acted_on_without_a_restart(
    server: Server, nats: NatsServer, tmp_path: Path
) -> None:
    """The file has another domain; the resource's targets are limited, paused and restored by what is done to it."""
    for name in ("app", "upload"):
        await server.deploy(name, 1, template={BANDWIDTH: "90M"})
        await server.pods_of(name, 1)

    async def annotate(value: str | None) -> None:
        await server.must(
            "PATCH", path(server, "line"), {"metadata": {"annotations": {"sluice.dev/paused": value}}}, MERGE_PATCH
        )

    async def has_state(*states: str) -> dict[str, Any]:
        async def is_so() -> dict[str, Any] | None:
            status = (await server.must("GET", path(server, "line"))).get("status") or {}
            return status if status.get("state") in states else None

        return await eventually(is_so)

    async with join(nats.url, "sluice") as bus:
        scene, decider = Scene(server, bus), Decider(bus, server.namespace, f"{server.namespace}/line")
        with ActuatorProcess(tmp_path, nats.url, server, (Aim(),)) as process:
            await process.is_ready()
            await create(server, **LINE)
            await scene.wait_for_limits("20M", ["20M"], "upload")
            await decider.publish_limit("40M", "upload")
            await scene.wait_for_limits("40M", ["40M"], "upload")
            # It names no revision: so decides a service that goes on under its file.
            await decider.publish_limit("45M", "upload", end=time.time_ns() + 30 * S)

            async def is_not_followed() -> bool:
                conditions = (await server.must("GET", path(server, "line")))["status"]["conditions"]
                ready = next(one for one in conditions if one["type"] == "Ready")
                return ready["reason"] == "NotFollowed" and "under revision 0, and not 1" in ready["message"]

            await eventually(is_not_followed)
            await annotate("maintenance")
            status = await has_state("Paused")
            paused = next(one for one in status["conditions"] if one["type"] == "Paused")
            assert "'maintenance'" in paused["message"]
            await decider.publish_limit("25M", "upload")

            async def is_passed_by() -> bool:
                return any(action.paused for action in await scene.actions("upload"))

            await eventually(is_passed_by)
            assert await scene.bandwidth("upload") == "40M"
        with ActuatorProcess(tmp_path, nats.url, server, (Aim(),)) as process:
            await process.is_ready()
            await has_state("Paused")
            assert await scene.bandwidth("upload") == "40M", "a restart ends no pause"
            await annotate(None)
            await decider.publish_limit("25M", "upload")
            await scene.wait_for_limits("25M", ["25M"], "upload")
            await server.must("DELETE", path(server, "line"))
            await scene.wait_for_limits(None, ["90M"], "upload")
    assert await scene.bandwidth("app") is not None


async def test_what_is_deleted_while_nobody_runs_is_restored_at_the_start(
    server: Server, nats: NatsServer, tmp_path: Path
) -> None:
    """No finalizer keeps the resource; the bus remembers whose targets are to be restored."""
    for name in ("app", "upload"):
        await server.deploy(name, 1, template={BANDWIDTH: "90M"})
        await server.pods_of(name, 1)
    async with join(nats.url, "sluice") as bus:
        scene = Scene(server, bus)
        with ActuatorProcess(tmp_path, nats.url, server, (Aim(),)):
            await create(server, **LINE)
            await scene.wait_for_limits("20M", ["20M"], "upload")

            async def is_published() -> bool:
                return await bus.get_last(Definition, bus.subjects.definition(f"{server.namespace}/line")) is not None

            await eventually(is_published)
        await server.must("DELETE", path(server, "line"))
        assert (await server.request("GET", path(server, "line")))[0] == 404
        with ActuatorProcess(tmp_path, nats.url, server, (Aim(),)):
            await scene.wait_for_limits(None, ["90M"], "upload")


async def test_a_scope_changes_while_the_target_is_limited(server: Server, nats: NatsServer, tmp_path: Path) -> None:
    """It goes on from the fail-safe limit under the other scope; what was decided before is another quantity."""
    await server.deploy("upload", 2, template={BANDWIDTH: "90M"})
    await server.pods_of("upload", 2)
    bounds = {"deployment": "upload", "min": "5M", "max": "80M", "failSafe": "20M"}
    async with join(nats.url, "sluice") as bus:
        scene, decider = Scene(server, bus), Decider(bus, server.namespace, f"{server.namespace}/line")

        async def set_scope(scope: str) -> None:
            spec = {"targets": [{**bounds, "scope": scope}]}
            await server.must("PATCH", path(server, "line"), {"spec": spec}, MERGE_PATCH)

        async def decide(limit: str, definition: int) -> None:
            await decider.publish(structs.replace(decider.decision({"upload": limit}), definition=definition))

        with ActuatorProcess(tmp_path, nats.url, server, (Aim(),)):
            await create(server, **LINE | {"targets": [bounds]})
            await scene.wait_for_limits("20M", ["10M"] * 2, "upload")
            await decide("40M", 1)
            await scene.wait_for_limits("40M", ["20M"] * 2, "upload")
            await set_scope("per-pod")
            await scene.wait_for_limits("20M", ["20M"] * 2, "upload")
            await decide("70M", 1)  # by a decision service that does not know yet
            await decide("30M", 2)
            await scene.wait_for_limits("30M", ["30M"] * 2, "upload")
            await set_scope("aggregate")
            await scene.wait_for_limits("20M", ["10M"] * 2, "upload")
            await decide("60M", 3)
            await scene.wait_for_limits("60M", ["30M"] * 2, "upload")
        # It changes while nobody acts: what the objects carry says under which scope it was written.
        await set_scope("per-pod")
        with ActuatorProcess(tmp_path, nats.url, server, (Aim(),)):
            await scene.wait_for_limits("20M", ["20M"] * 2, "upload")
        assert not [one for one in await scene.actions("upload") if one.limit == 70_000]
