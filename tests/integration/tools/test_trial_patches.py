"""`sluice check --cluster` tries one patch of each kind: what policies, webhooks and rights make of it."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from schemas.config import Kubernetes
from schemas.domain import Target
from schemas.units import Rate
from services.actuator.ownership import KEY
from services.kube.client import KubeClient
from services.plant.kube_emulator.emulator import Emulator
from services.tools.check.cluster_rules import Finding
from services.tools.check.trial_patches import ACCOUNT, try_patches
from tests.integration.actuator.test_refusals import REFUSALS, Proxy, always, open_proxy, refusal
from tests.support.kube import servers
from tests.support.kube.apiserver import ApiServer


def aim(namespace: str) -> dict[str, Target]:
    """One target."""
    target = Target(deployment="app", namespace=namespace, min=Rate(1000), max=Rate(9000), fail_safe=Rate(2000))
    return {target.key: target}


@asynccontextmanager
async def trial() -> AsyncIterator[tuple[Proxy, Callable[[], Any]]]:
    """A Deployment with a Pod behind a proxy, and what tries the patches."""
    async with servers.emulate(Emulator(starts_after=None)) as server, open_proxy(server.url) as (proxy, url):
        await server.deploy(replicas=1)
        await server.pods_of("app", 1)

        async def run() -> list[Finding]:
            async with KubeClient.connect(Kubernetes(server=url)) as client:
                return await try_patches(client, aim(server.namespace))

        yield proxy, run
        deployment = await server.must("GET", f"{server.deployments}/app")
        assert servers.BANDWIDTH not in deployment["metadata"].get("annotations", {}), "nothing was changed"


@pytest.mark.parametrize("kind", ["401", "403", "409", "422", "429", "503", "a page", "null"])
async def test_a_refusal_of_any_kind_is_an_error(kind: str) -> None:
    """Of the Deployment and of the Pod, with the server's own text."""
    async with trial() as (proxy, run):
        proxy.answer = always(REFUSALS[kind])
        found = await run()
    assert [one.level for one in found] == ["error", "error"]
    assert all("a trial patch" in one.what for one in found)


async def test_a_cluster_without_policies_passes() -> None:
    """Nothing is found."""
    async with trial() as (_, run):
        assert await run() == []


@pytest.mark.parametrize(
    ("annotations", "labels", "level", "message"),
    [
        ({}, {"seen": "yes"}, "warning", "label seen"),
        ({"company.example/touched-by": "x"}, {}, "warning", "annotation company.example/touched-by"),
        ({"a": "1", "b": "2"}, {"c": "3"}, "warning", "annotation a, annotation b, "),
        ({servers.BANDWIDTH: "1G"}, {}, "error", "came back with '1G' instead of '2M'"),
        ({servers.BANDWIDTH: None}, {}, "error", "came back with None instead of '2M'"),
        ({servers.BANDWIDTH: "2000k"}, {}, "error", "came back with '2000k' instead of '2M'"),
        ({KEY: None}, {}, "error", "came back with None instead of Sluice's record"),
        ({KEY: '{"by":"another"}'}, {}, "error", "instead of Sluice's record: an admission webhook changes it"),
    ],
)
async def test_what_webhooks_write_is_named(
    annotations: dict[str, str | None], labels: dict[str, str], level: str, message: str
) -> None:
    """A value or a record that comes back changed is an error; keys of others with each update are a warning."""

    def answer(request: web.Request, body: bytes) -> web.Response | None:
        if request.method != "PATCH":
            return None
        assert request.query["dryRun"] == "All"
        added = {one["path"]: one["value"] for one in json.loads(body) if one["op"] == "add"}
        new = added.get("/metadata/annotations") or {
            path.rpartition("/")[2].replace("~1", "/"): value for path, value in added.items()
        }
        noted = {key: value for key, value in {**new, **annotations}.items() if value is not None}
        return web.json_response({"metadata": {"name": "app", "annotations": noted, "labels": labels}})

    async with trial() as (proxy, run):
        proxy.answer = answer
        found = (await run())[0]
        assert found.level == level
        assert message in found.what


async def test_a_webhook_that_knows_no_dry_run_is_a_warning() -> None:
    """The API server refuses then, and says why."""
    async with trial() as (proxy, run):
        proxy.answer = always(lambda: refusal(400, 'admission webhook "x" does not support dry run'))
        assert {one.level for one in await run()} == {"warning"}


@pytest.mark.apiserver
async def test_the_patch_is_judged_as_the_actuators(apiserver: ApiServer) -> None:
    """A real API server: fine with the user's rights; refused for an account that exists and has none."""
    async with servers.real(apiserver) as server, KubeClient.connect(server.config) as client:
        await server.deploy(replicas=1)
        await server.pods_of("app", 1)
        path = "/api/v1/namespaces/sluice/serviceaccounts"
        await server.request("POST", "/api/v1/namespaces", {"metadata": {"name": "sluice"}})
        known, _ = await server.request("GET", f"{path}/sluice-actuator")
        if known == 404:
            assert await try_patches(client, aim(server.namespace)) == []
            await server.must("POST", path, {"metadata": {"name": "sluice-actuator"}})
        try:
            found = await try_patches(client, aim(server.namespace))
        finally:
            if known == 404:
                await server.must("DELETE", f"{path}/sluice-actuator")
        assert [one.level for one in found] == ["error", "error"]
        assert f'User "{ACCOUNT}" cannot patch resource' in found[0].what
        assert "annotations" not in (await server.must("GET", f"{server.pods}"))["items"][0]["metadata"]
