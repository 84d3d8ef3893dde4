"""The actuator's adapter to Kubernetes, on the emulator and on a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from schemas.config import Kubernetes
from services.actuator.ownership import build_patch
from services.kube.access import KubeConfigError
from services.kube.changes import Deleted, Listed, Updated
from services.kube.client import KubeClient
from services.kube.objects import BANDWIDTH, Deployment, NotFound, Pod, Rejected, StaleObject, Unavailable
from tests.support.kube.servers import MERGE_PATCH, Server
from tests.support.waiting import PATIENCE_S


@pytest.fixture
async def client(server: Server) -> AsyncIterator[KubeClient]:
    """The adapter, connected to the server under test."""
    async with KubeClient.connect(server.config) as one:
        yield one


async def test_reads_what_it_needs(server: Server, client: KubeClient) -> None:
    """A Deployment is read with its selector and replicas, and its Pods with phase and owner."""
    await server.deploy(replicas=2, own={BANDWIDTH: "50M"}, template={BANDWIDTH: "20M"})
    await server.pods_of("app", 2)
    deployment = await client.read(Deployment, server.namespace, "app")
    assert (deployment.bandwidth, deployment.spec.replicas) == ("50M", 2)
    pods = await client.list_by_labels(Pod, server.namespace, deployment.spec.selector.query())
    assert len(pods) == 2
    for pod in pods:
        assert deployment.owns(pod)
        assert (pod.bandwidth, pod.has_ended, pod.is_terminating) == ("20M", False, False)


async def test_anothers_pod_with_the_same_labels_is_not_ours(server: Server, client: KubeClient) -> None:
    """A Pod with matching labels is ignored if it has no owner, or another Deployment as its owner."""
    await server.deploy(replicas=1)
    (pod,) = await server.pods_of("app", 1)
    stray = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stray", "labels": {"app": "app", "tier": "x"}},
        "spec": pod["spec"] | {"volumes": [], "containers": [{"name": "a", "image": "a"}]},
    }
    await server.must("POST", server.pods, stray)
    await server.deploy("app-two", replicas=1)
    await server.pods_of("app-two", 1)
    deployment = await client.read(Deployment, server.namespace, "app")
    everything = await client.list_by_labels(Pod, server.namespace, "")
    assert len(everything) == 3
    assert [one.metadata.name for one in everything if deployment.owns(one)] == [pod["metadata"]["name"]]


@pytest.mark.parametrize("annotated", [True, False])
async def test_patches_on_condition(server: Server, client: KubeClient, annotated: bool) -> None:
    """A guarded patch works once, and is stale after the object changed."""
    await server.deploy(replicas=1, template={BANDWIDTH: "20M"} if annotated else {})
    (tree,) = await server.pods_of("app", 1)
    pod = await client.read(Pod, server.namespace, tree["metadata"]["name"])
    wanted: dict[str, str | None] = {BANDWIDTH: "10M", "sluice.dev/limit": "x"}
    after = await client.patch(pod, build_patch(pod, wanted))
    assert after.annotations == {BANDWIDTH: "10M", "sluice.dev/limit": "x"}
    assert int(after.metadata.resource_version) > int(pod.metadata.resource_version)
    with pytest.raises(StaleObject):
        await client.patch(pod, build_patch(pod, wanted))
    back = await client.patch(after, build_patch(after, {BANDWIDTH: pod.bandwidth, "sluice.dev/limit": None}))
    assert back.annotations == pod.annotations


async def test_a_status_update_does_not_make_a_patch_stale(server: Server, client: KubeClient) -> None:
    """Status updates by kubelets and controllers do not invalidate a guarded patch."""
    await server.deploy(replicas=1, template={BANDWIDTH: "20M"})
    (tree,) = await server.pods_of("app", 1)
    pod = await client.read(Pod, server.namespace, tree["metadata"]["name"])
    status = {"status": {"phase": "Running"}}
    await server.must("PATCH", f"{server.pods}/{pod.metadata.name}/status", status, MERGE_PATCH)
    after = await client.patch(pod, build_patch(pod, {BANDWIDTH: "10M"}))
    assert (after.bandwidth, after.status.phase) == ("10M", "Running")


async def test_patches_run_at_once(server: Server, client: KubeClient) -> None:
    """Thirty objects patched in parallel all get their own value."""
    await server.deploy(replicas=30, template={BANDWIDTH: "20M"})
    await server.pods_of("app", 30)
    pods = await client.list_by_labels(Pod, server.namespace, "app=app")
    patches = (client.patch(pod, build_patch(pod, {BANDWIDTH: f"{n + 1}M"})) for n, pod in enumerate(pods))
    assert [pod.bandwidth for pod in await asyncio.gather(*patches)] == [f"{n + 1}M" for n in range(30)]


async def test_a_deleted_object(server: Server, client: KubeClient) -> None:
    """Reading and patching a deleted object."""
    await server.deploy(replicas=0)
    deployment = await client.read(Deployment, server.namespace, "app")
    await server.must("DELETE", f"{server.deployments}/app")
    with pytest.raises(NotFound):
        await client.patch(deployment, build_patch(deployment, {BANDWIDTH: "10M"}))
    with pytest.raises(NotFound):
        await client.read(Deployment, server.namespace, "app")


async def test_follows_a_deployment_from_before_it_is_there(server: Server, client: KubeClient) -> None:
    """The watch reports nothing at first, then only that Deployment's creation, changes and deletion."""
    seen: list[str] = []
    async with (
        asyncio.timeout(PATIENCE_S),
        aclosing(client.list_and_watch(Deployment, server.namespace, name="app")) as changes,
    ):
        async for change in changes:
            if isinstance(change, Listed):
                assert change.objects == ()
                await server.deploy("other", replicas=0)
                await server.deploy("app", replicas=0)
            elif isinstance(change, Updated):
                assert change.object.metadata.name == "app"
                if "Updated" not in seen:
                    seen.append("Updated")
                    await server.must("DELETE", f"{server.deployments}/app")
            elif isinstance(change, Deleted):
                seen.append("Deleted")
                break
    assert seen == ["Updated", "Deleted"]


async def test_follows_pods_as_they_appear(server: Server, client: KubeClient) -> None:
    """A Pod created by scale-up is seen while it is Pending, with its initial annotations."""
    await server.deploy(replicas=1, template={BANDWIDTH: "20M"})
    (first,) = await server.pods_of("app", 1)
    async with (
        asyncio.timeout(PATIENCE_S),
        aclosing(client.list_and_watch(Pod, server.namespace, selector="app=app")) as changes,
    ):
        async for change in changes:
            if isinstance(change, Listed):
                assert [pod.uid for pod in change.objects] == [first["metadata"]["uid"]]
                await server.must("PATCH", f"{server.deployments}/app", {"spec": {"replicas": 2}}, MERGE_PATCH)
            elif isinstance(change, Updated) and change.object.uid != first["metadata"]["uid"]:
                assert (change.object.bandwidth, change.object.status.phase) == ("20M", "Pending")
                break


async def test_writes_events(server: Server, client: KubeClient) -> None:
    """An Event about the Deployment is stored with its text."""
    await server.deploy(replicas=0)
    deployment = await client.read(Deployment, server.namespace, "app")
    await client.create_event(deployment, "LimitPaused", "somebody else set it", "Warning", "2026-11-23T12:00:00Z")
    query = f"fieldSelector=involvedObject.uid%3D{deployment.uid}"
    events = (await server.must("GET", f"/api/v1/namespaces/{server.namespace}/events?{query}"))["items"]
    ours = [one for one in events if one["reason"] == "LimitPaused"]
    assert [(one["type"], one["message"]) for one in ours] == [("Warning", "somebody else set it")]


async def test_invalid_values_are_not_accepted(server: Server, client: KubeClient) -> None:
    """A too large annotation is refused with an error, and changes nothing."""
    await server.deploy(replicas=0, own={BANDWIDTH: "20M"})
    deployment = await client.read(Deployment, server.namespace, "app")
    with pytest.raises((StaleObject, Rejected)):
        await client.patch(deployment, build_patch(deployment, {"sluice.dev/limit": "x" * 300_000}))
    assert (await client.read(Deployment, server.namespace, "app")).bandwidth == "20M"


async def test_an_unreachable_server() -> None:
    """Without a server every request fails as unavailable."""
    async with KubeClient.connect(Kubernetes(server="http://127.0.0.1:1")) as client:
        with pytest.raises(Unavailable):
            await client.read(Deployment, "default", "app")
        with pytest.raises(Unavailable):
            async with aclosing(client.list_and_watch(Pod, "default")) as changes:
                await anext(changes)


async def test_unusable_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing kubeconfig, and a Pod's account outside of a Pod, are named together with the remedy."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(KubeConfigError, match="/nowhere/kubeconfig"):
        async with KubeClient.connect(Kubernetes(kubeconfig="/nowhere/kubeconfig")):
            pass
    with pytest.raises(KubeConfigError, match="not running in a Pod: set kubernetes"):
        async with KubeClient.connect(Kubernetes()):
            pass
