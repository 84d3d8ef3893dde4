"""A target that is a selector: its labels and its namespaces change while it is limited."""

from pathlib import Path

from tests.support.actuators import Aim, config_text
from tests.support.decision_services import ServiceProcess
from tests.support.kube import servers
from tests.support.kube.servers import BANDWIDTH, Server, eventually
from tests.support.nats_server import NatsServer


async def test_a_selector_and_its_namespaces_change_while_limited(
    server: Server, nats: NatsServer, tmp_path: Path
) -> None:
    """Pods that it no longer selects get back what was found; those that it selects from now on are limited."""
    other = f"{server.namespace}-b"
    await server.must("POST", "/api/v1/namespaces", {"metadata": {"name": other}})
    for place, name in ((server.namespace, "app"), (server.namespace, "upload"), (other, "backup")):
        body = servers.deployment(name, 1, template={BANDWIDTH: "90M"})
        await server.must("POST", f"/apis/apps/v1/namespaces/{place}/deployments", body)

    async def has(**expected: str) -> None:
        async def is_so() -> bool:
            found = {}
            for place in (server.namespace, other):
                for pod in (await server.must("GET", f"/api/v1/namespaces/{place}/pods"))["items"]:
                    value = (pod["metadata"].get("annotations") or {}).get(BANDWIDTH)
                    found[pod["metadata"]["labels"]["app"]] = value
            return found == expected

        await eventually(is_so)

    def text(app: str, *places: str) -> str:
        whole = config_text(nats.url, server.config, server.namespace, (Aim(),))
        target = f"name: hogs, namespaces: [{', '.join(places)}], selector: {{matchLabels: {{app: {app}}}}},"
        return whole.replace("deployment: app,", target)

    with ServiceProcess("actuator", tmp_path, text("app", server.namespace)) as actuator:
        await has(app="10M", upload="90M", backup="90M")
        config = tmp_path / "config.yaml"
        config.write_text(text("upload", server.namespace))
        await has(app="90M", upload="10M", backup="90M")
        config.write_text(text("backup", server.namespace, other))
        await has(app="90M", upload="90M", backup="10M")
        config.write_text(text("backup", server.namespace))
        await has(app="90M", upload="90M", backup="90M")
        assert actuator.stop() == 0
