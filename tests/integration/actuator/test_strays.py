"""Pods that a target's object selects and that nobody known owns: they are reported, and never written."""

from pathlib import Path

import pytest

from services.actuator.ownership import KEY
from services.kube.objects import BANDWIDTH
from tests.support.actuators import ActuatorProcess, Aim
from tests.support.kube import servers
from tests.support.kube.servers import EMULATOR, REAL, Server, eventually
from tests.support.nats_server import NatsServer

TEXT = "match its selector and are no target's, so nobody limits them"


@pytest.mark.parametrize("server", [EMULATOR, REAL], indirect=True)
async def test_pods_of_nobody_known_are_reported(server: Server, nats: NatsServer, tmp_path: Path) -> None:
    """By name on ``/readyz`` and in number as a metric, until they are gone; the target's own Pods are limited."""
    await server.deploy(replicas=1)
    (own,) = await server.pods_of("app", 1)
    spec = {"containers": [{"name": "app", "image": "app:1"}]}
    bare = {"metadata": {"name": "by-hand", "labels": {"app": "app"}}, "spec": spec}
    path = f"/apis/apps/v1/namespaces/{server.namespace}/statefulsets"
    await server.must("POST", server.pods, bare)
    foreign = servers.deployment("foreign", 1) | {"kind": "StatefulSet"}
    foreign["spec"] |= {"serviceName": "x", "selector": {"matchLabels": {"tier": "y"}}}
    foreign["spec"]["template"]["metadata"]["labels"] = {"app": "app", "tier": "y"}
    await server.must("POST", path, foreign)
    await server.pods_of("app", 3)
    label = f'namespace="{server.namespace}",target="{server.namespace}/app"'

    def report(actuator: ActuatorProcess) -> tuple[list[str], float | None]:
        notes = [str(text) for text in actuator.ready()[1].get("notes", {}).values()]
        return [text for text in notes if TEXT in text], actuator.metric("sluice_stray_pods").get(label)

    with ActuatorProcess(tmp_path, nats.url, server, (Aim(),)) as actuator:
        await actuator.is_ready()

        async def has_two() -> bool:
            notes, count = report(actuator)
            return count == 2 and len(notes) == 1

        await eventually(has_two)
        (text,) = report(actuator)[0]
        assert text.startswith("2 Pods")
        assert "by-hand of nobody" in text
        assert "foreign-0 of StatefulSet foreign" in text

        async def is_limited() -> bool:
            pod = await server.must("GET", f"{server.pods}/{own['metadata']['name']}")
            return (pod["metadata"].get("annotations") or {}).get(BANDWIDTH) == "10M"

        await eventually(is_limited)
        for name in ("by-hand", "foreign-0"):
            noted = (await server.must("GET", f"{server.pods}/{name}"))["metadata"].get("annotations") or {}
            assert not {BANDWIDTH, KEY} & noted.keys()
        await server.must("DELETE", f"{server.pods}/by-hand")
        await server.must("DELETE", f"{path}/foreign")
        await server.request("DELETE", f"{server.pods}/foreign-0")

        async def has_none() -> bool:
            return report(actuator) == ([], 0.0)

        await eventually(has_none)
        assert actuator.stop() == 0
