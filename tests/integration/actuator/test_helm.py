"""The chart's life on a real API server: install, upgrade, rollback, uninstall, with a running actuator.

There is no kubelet.  The test runs the actuator and the hook's Job as their container would: the same command, the
configuration of the mounted ConfigMap, and the token of the Pod's ServiceAccount.
"""

import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from schemas.messages import Action
from tests.support.decision_services import ServiceProcess, join, read_stream
from tests.support.kube import servers
from tests.support.kube.apiserver import ApiServer
from tests.support.kube.helm import CHART, helm
from tests.support.kube.servers import BANDWIDTH, MERGE_PATCH, Server, eventually
from tests.support.nats_server import NatsServer

pytestmark = [pytest.mark.apiserver, pytest.mark.helm]

FOUND, FAIL_SAFE = "90M", "10M"
CONFIG = """
bus: {{servers: [nats://nats.{release}.svc:4222]}}
listen: {{host: 127.0.0.1, actuator: 0}}
domains:
- name: line
  dead_man: 2s
  critical: [{{namespace: {workloads}, workload: arm}}]
  targets: [{{namespace: {workloads}, deployment: app, min: 1M, max: 80M, fail_safe: {fail_safe}}}]
"""


@pytest.fixture
async def server(apiserver: ApiServer) -> AsyncIterator[Server]:
    """A namespace of the workloads; the release has another one."""
    async with servers.real(apiserver) as one:
        yield one


class Release:
    """The chart, installed beside the workloads' namespace."""

    def __init__(self, server: Server, api: ApiServer, home: Path, bus: str) -> None:
        """Prepare; ``helm`` installs it."""
        self.namespace = f"{server.namespace}-net"
        self._server = server
        self._api = api
        self._home = home
        self._bus = bus

    async def helm(self, *words: str, fail_safe: str = FAIL_SAFE) -> str:
        """Run helm on the release; ``install`` and ``upgrade`` get the chart and its configuration."""
        path = self._home / "values.yaml"
        path.write_text(
            CONFIG.format(release=self.namespace, workloads=self._server.namespace, fail_safe=fail_safe),
            encoding="utf-8",
        )
        # This server has none of Cilium's kinds.
        values = ["--set-file", f"config={path}", "--set", "policies.apiServer=false"]
        chart = [str(CHART), *values] if words[0] in {"install", "upgrade"} else []
        environment = {"KUBECONFIG": str(self._api.kubeconfig()), "HELM_CACHE_HOME": str(self._home / "cache")}
        command, *options = words
        line = (command, "sluice", *chart, *options, "-n", self.namespace)
        return await asyncio.to_thread(helm, *line, environment=environment)

    async def take_over_definition(self) -> None:
        """Give the release the custom resource's definition, where another test has installed it on this server."""
        name = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/bandwidthdomains.sluice.dev"
        owner = {"meta.helm.sh/release-name": "sluice", "meta.helm.sh/release-namespace": self.namespace}
        metadata = {"labels": {"app.kubernetes.io/managed-by": "Helm"}, "annotations": owner}
        await self._server.request("PATCH", name, {"metadata": metadata}, MERGE_PATCH)

    async def read(self, path: str) -> Any:
        """Read an object of the release's namespace; ``path`` begins with its API."""
        api, _, rest = path.partition(":")
        return await self._server.must("GET", f"/{api}/namespaces/{self.namespace}/{rest}")

    async def deployment(self, name: str) -> dict[str, Any]:
        """The spec of a Deployment's pod."""
        tree = await self.read(f"apis/apps/v1:deployments/{name}")
        return dict(tree["spec"]["template"]["spec"])

    async def identity(self, pod: dict[str, Any]) -> tuple[str, dict[str, str]]:
        """The configuration that a pod mounts, and the environment that gives a process its identity."""
        (name,) = [one["configMap"]["name"] for one in pod["volumes"] if one["name"] == "config"]
        config = await self.read(f"api/v1:configmaps/{name}")
        token = await asyncio.to_thread(self._api.token_of, self.namespace, pod["serviceAccountName"])
        kubeconfig = {"KUBECONFIG": str(self._api.kubeconfig(token)), "SLUICE_NATS_URL": self._bus}
        return config["data"]["config.yaml"], kubeconfig

    async def actuator(self) -> ServiceProcess:
        """The actuator, as its pod would run it now."""
        text, environment = await self.identity(await self.deployment("sluice-actuator"))
        return ServiceProcess("actuator", self._home / "actuator", text, environment=environment)

    async def run_hook(self) -> str:
        """Play the kubelet for the Job that ``helm uninstall`` waits for; return what its command printed."""

        async def job() -> Any:
            found = await self.read("apis/batch/v1:jobs")
            return next(iter(found["items"]), None)

        tree = await eventually(job)
        pod = tree["spec"]["template"]["spec"]
        text, environment = await self.identity(pod)
        config = self._home / "hook.yaml"
        config.write_text(text, encoding="utf-8")
        (container,) = pod["containers"]
        words = [word.replace("/etc/sluice/config.yaml", str(config)) for word in container["args"]]
        program = str(Path(sys.executable).parent / "sluice")
        done = await asyncio.to_thread(
            subprocess.run, [program, *words], env=os.environ | environment, capture_output=True, text=True, check=False
        )
        printed = done.stdout + done.stderr
        # The release has no rights on what resources of other tests on this server name.
        others = [one for one in printed.splitlines() if "403" in one and not one.startswith(self._server.namespace)]
        assert done.returncode == 0 or others, printed
        complete = {"status": {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}}
        path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{tree['metadata']['name']}/status"
        await self._server.must("PATCH", path, complete, MERGE_PATCH)
        return done.stdout


async def limits(server: Server) -> list[str | None]:
    """The annotation on the Deployment, and on each of its two Pods."""
    trees = [await server.must("GET", f"{server.deployments}/app"), *await server.pods_of("app", 2)]
    return [(tree["metadata"].get("annotations") or {}).get(BANDWIDTH) for tree in trees]


async def until_limits(server: Server, *wanted: str | None) -> None:
    """Wait for these values."""

    async def there() -> bool:
        return await limits(server) == list(wanted)

    await eventually(there)


async def test_install_upgrade_rollback_uninstall(
    server: Server, apiserver: ApiServer, nats: NatsServer, tmp_path: Path
) -> None:
    """Limits outlive upgrade and rollback; uninstall puts back what was found, while the actuator still runs."""
    await server.deploy("app", 2, own={BANDWIDTH: FOUND}, template={BANDWIDTH: "20M"})
    await until_limits(server, FOUND, "20M", "20M")
    release = Release(server, apiserver, tmp_path, nats.url)

    await release.take_over_definition()
    notes = await release.helm("install", "--create-namespace")
    assert f"{server.namespace}/app" in notes
    assert f"kubectl sluice -n {release.namespace} tap --live" in notes
    assert f"kubectl sluice -n {release.namespace} explain line " in notes
    secret = await release.read("api/v1:secrets/sluice-bus")
    assert all(base64.b64decode(one)[:1] == b"p" for one in secret["data"].values())
    before = await release.deployment("sluice-actuator")
    with await release.actuator() as actuator:
        await until_limits(server, FAIL_SAFE, "5M", "5M")

        await release.helm("upgrade", "--set", "image.tag=9.9.9", fail_safe="8M")
        after = await release.deployment("sluice-actuator")
        assert after["containers"][0]["image"] == "sluice:9.9.9"
        assert after["volumes"] == before["volumes"]  # a changed domain is taken up by the pods that run
        assert (await release.read("api/v1:secrets/sluice-bus"))["data"] == secret["data"]
        assert await limits(server) == [FAIL_SAFE, "5M", "5M"]
        actuator.kill()
    with await release.actuator():
        await until_limits(server, "8M", "4M", "4M")

        await release.helm("rollback")
        assert await release.deployment("sluice-actuator") == before
        assert await limits(server) == ["8M", "4M", "4M"]
    with await release.actuator():
        uninstall = asyncio.create_task(release.helm("uninstall", "--timeout", "2m"))
        printed = await release.run_hook()
        await uninstall
        assert f"8M -> {FOUND}" in printed
        await until_limits(server, FOUND, "20M", "20M")
    for kind in ("apis/apps/v1:deployments", "apis/batch/v1:jobs", "apis/apps/v1:statefulsets"):
        left = [one["metadata"]["name"] for one in (await release.read(kind))["items"]]
        assert left == [], kind
    rights = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{server.namespace}/roles"
    assert (await server.must("GET", rights))["items"] == []
    tree = await server.must("GET", f"{server.deployments}/app")
    assert [key for key in tree["metadata"]["annotations"] if "sluice" in key] == []
    async with join(nats.url, "sluice") as bus:
        causes = [one.message.cause for one in await read_stream(bus, Action)]
    assert causes[-1] == "restore"
