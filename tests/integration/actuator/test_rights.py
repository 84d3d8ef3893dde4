"""The actuator with and without the manifests' rights, on a real API server."""

import copy
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.config import Kubernetes
from tests.support.actuators import ActuatorProcess, Decider, Scene
from tests.support.decision_services import join
from tests.support.kube import servers
from tests.support.kube.apiserver import ApiServer
from tests.support.kube.servers import BANDWIDTH, Server, eventually
from tests.support.nats_server import NatsServer

RBAC = Path(__file__).parents[3] / "manifests" / "ml_controller_rbac.yaml"
LEASE = RBAC.parent / "components" / "ha" / "lease.yaml"
PATHS = {
    "Lease": "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
}

pytestmark = pytest.mark.apiserver


@pytest.fixture
async def server(apiserver: ApiServer) -> AsyncIterator[Server]:
    """A namespace on the real server for both workloads and services."""
    async with servers.real(apiserver) as one:
        yield one


async def install(server: Server, manifest: str = RBAC.read_text(encoding="utf-8")) -> None:
    """The manifest's accounts and roles, in the test's namespace; those of the whole cluster under names of its own."""
    text = re.sub(r"namespace: \w+", f"namespace: {server.namespace}", manifest)
    text = text.replace("name: sluice-bandwidth-domains", f"name: {server.namespace}-bandwidth-domains")
    for tree in yaml.safe_load_all(text):
        await server.must("POST", PATHS[tree["kind"]].format(server.namespace), tree)


def as_account(server: Server, apiserver: ApiServer, account: str) -> Server:
    """The same server, configured for a ServiceAccount's token."""
    token = apiserver.token_of(server.namespace, account)
    one = copy.copy(server)
    one.config = Kubernetes(kubeconfig=str(apiserver.kubeconfig(token)))
    return one


async def test_the_manifests_rights_are_enough(
    server: Server, apiserver: ApiServer, nats: NatsServer, tmp_path: Path
) -> None:
    """With its ServiceAccount's token the actuator limits Deployment and Pods, and writes Events."""
    await install(server)
    await server.deploy(replicas=2, template={BANDWIDTH: "10M"})
    await server.pods_of("app", 2)
    async with join(nats.url, "sluice") as bus:
        scene = Scene(server, bus)
        decider = Decider(bus, server.namespace)
        account = as_account(server, apiserver, "sluice-actuator")
        with ActuatorProcess(tmp_path, nats.url, account) as process:
            await process.is_ready()
            await decider.publish_limit("60M")
            await scene.wait_for_limits("60M", ["30M"] * 2)

            async def event() -> Any:
                query = "fieldSelector=involvedObject.name%3Dapp"
                events = await server.must("GET", f"/api/v1/namespaces/{server.namespace}/events?{query}")
                return [one for one in events["items"] if one["reason"] == "LimitRaised"] or None

            assert len(await eventually(event)) == 1


async def test_the_rights_of_the_ha_component_are_enough(
    server: Server, apiserver: ApiServer, nats: NatsServer, tmp_path: Path
) -> None:
    """With the component's Lease and Role, the actuator takes the Lease; it may not touch another one."""
    await install(server)
    await install(server, LEASE.read_text(encoding="utf-8"))
    await server.deploy(replicas=1, template={BANDWIDTH: "10M"})
    account = as_account(server, apiserver, "sluice-actuator")
    path = f"{PATHS['Lease'].format(server.namespace)}/sluice-actuator"
    with ActuatorProcess(tmp_path, nats.url, account, lease=f"{server.namespace}/sluice-actuator"):

        async def held() -> Any:
            return (await server.must("GET", path))["spec"].get("holderIdentity")

        assert await eventually(held)
    with ActuatorProcess(tmp_path / "other", nats.url, account, lease=f"{server.namespace}/other") as process:

        async def is_refused() -> bool:
            return "403 Forbidden" in process.ready()[1]["wrong"].get("lease", "")

        await eventually(is_refused)


@pytest.mark.parametrize("account", ["sluice-decision", "sluice-sampler"])
async def test_missing_rights_are_reported(
    server: Server, apiserver: ApiServer, nats: NatsServer, tmp_path: Path, account: str
) -> None:
    """Another service's account may not read: the actuator is not ready, shows the reason, and keeps trying."""
    await install(server)
    await server.deploy(replicas=1)
    with ActuatorProcess(tmp_path, nats.url, as_account(server, apiserver, account)) as process:

        async def is_shown() -> bool:
            return "403 Forbidden" in process.ready()[1]["wrong"].get(f"{server.namespace}/app", "")

        await eventually(is_shown)
        assert process.stop() == 0


async def test_a_right_that_is_missing_is_reported(
    server: Server, apiserver: ApiServer, nats: NatsServer, tmp_path: Path
) -> None:
    """Without the right to patch Pods, the report names the failure; once it is granted, the actuator finishes."""
    await install(server)
    await server.deploy(replicas=1, template={BANDWIDTH: "10M"})
    await server.pods_of("app", 1)
    role = f"{PATHS['Role'].format(server.namespace)}/sluice-actuator"
    whole = await server.must("GET", role)
    rules = [dict(one) for one in whole["rules"]]
    for one in rules:
        if one["resources"] == ["pods"]:
            one["verbs"] = [verb for verb in one["verbs"] if verb != "patch"]
    await server.must("PATCH", role, {"rules": rules}, "application/merge-patch+json")
    async with join(nats.url, "sluice") as bus:
        scene = Scene(server, bus)
        decider = Decider(bus, server.namespace)
        with ActuatorProcess(tmp_path, nats.url, as_account(server, apiserver, "sluice-actuator")):
            await decider.publish_limit("60M")
            (failed, *_) = await scene.wait_for_reports(outcome="failed", cause="decision")
            assert [pod.outcome for pod in failed.pods] == ["failed"]
            assert "403 Forbidden" in failed.reason
            await scene.wait_for_limits("60M", ["10M"])
            await server.must("PATCH", role, {"rules": whole["rules"]}, "application/merge-patch+json")
            await scene.wait_for_limits("60M", ["60M"])
            (healed,) = await scene.wait_for_reports(outcome="applied", limit=60_000)
            assert [pod.outcome for pod in healed.pods] == ["applied"]
