"""The actuator's adapter to Kubernetes, on the emulator and on a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from schemas.config import Kubernetes
from services.actuator.ownership import operations
from services.kube.client import Cluster, ClusterError, Listed, Put, Removed
from services.kube.objects import BANDWIDTH, Deployment, Gone, Pod, Refused, Stale, Unavailable
from tests.support.kube.servers import MERGE_PATCH, Server
from tests.support.waiting import PATIENCE_S


@pytest.fixture
async def cluster(server: Server) -> AsyncIterator[Cluster]:
    """The adapter, connected to the server under test."""
    async with Cluster.connected(server.config) as one:
        yield one


async def test_reads_what_it_needs(server: Server, cluster: Cluster) -> None:
    """A Deployment with its selector and replicas, its Pods with phase and owner."""
    await server.deploy(replicas=2, own={BANDWIDTH: "50M"}, template={BANDWIDTH: "20M"})
    await server.pods_of("app", 2)
    deployment = await cluster.read(Deployment, server.namespace, "app")
    assert (deployment.bandwidth, deployment.spec.replicas) == ("50M", 2)
    pods = await cluster.all(Pod, server.namespace, labels=deployment.spec.selector.query())
    assert len(pods) == 2
    for pod in pods:
        assert pod.belongs_to(deployment)
        assert (pod.bandwidth, pod.ended, pod.going) == ("20M", False, False)


async def test_anothers_pod_with_the_same_labels_is_not_ours(server: Server, cluster: Cluster) -> None:
    """A Pod that carries the labels, but was made by nobody or by another Deployment, does not belong."""
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
    deployment = await cluster.read(Deployment, server.namespace, "app")
    everything = await cluster.all(Pod, server.namespace, labels="")
    assert len(everything) == 3
    assert [one.metadata.name for one in everything if one.belongs_to(deployment)] == [pod["metadata"]["name"]]


@pytest.mark.parametrize("annotated", [True, False])
async def test_patches_on_condition(server: Server, cluster: Cluster, annotated: bool) -> None:
    """A guarded patch works once, and is stale when the object is no longer as it was seen."""
    await server.deploy(replicas=1, template={BANDWIDTH: "20M"} if annotated else {})
    (tree,) = await server.pods_of("app", 1)
    pod = await cluster.read(Pod, server.namespace, tree["metadata"]["name"])
    wanted: dict[str, str | None] = {BANDWIDTH: "10M", "sluice.dev/limit": "x"}
    after = await cluster.patch(pod, operations(pod, wanted))
    assert after.annotations == {BANDWIDTH: "10M", "sluice.dev/limit": "x"}
    assert after.version > pod.version
    with pytest.raises(Stale):
        await cluster.patch(pod, operations(pod, wanted))
    back = await cluster.patch(after, operations(after, {BANDWIDTH: pod.bandwidth, "sluice.dev/limit": None}))
    assert back.annotations == pod.annotations


async def test_a_status_update_does_not_make_a_patch_stale(server: Server, cluster: Cluster) -> None:
    """What kubelets and controllers write in between is no obstacle."""
    await server.deploy(replicas=1, template={BANDWIDTH: "20M"})
    (tree,) = await server.pods_of("app", 1)
    pod = await cluster.read(Pod, server.namespace, tree["metadata"]["name"])
    status = {"status": {"phase": "Running"}}
    await server.must("PATCH", f"{server.pods}/{pod.metadata.name}/status", status, MERGE_PATCH)
    after = await cluster.patch(pod, operations(pod, {BANDWIDTH: "10M"}))
    assert (after.bandwidth, after.status.phase) == ("10M", "Running")


async def test_patches_run_at_once(server: Server, cluster: Cluster) -> None:
    """Thirty objects patched in parallel all get their own value."""
    await server.deploy(replicas=30, template={BANDWIDTH: "20M"})
    await server.pods_of("app", 30)
    pods = await cluster.all(Pod, server.namespace, labels="app=app")
    patches = (cluster.patch(pod, operations(pod, {BANDWIDTH: f"{n + 1}M"})) for n, pod in enumerate(pods))
    assert [pod.bandwidth for pod in await asyncio.gather(*patches)] == [f"{n + 1}M" for n in range(30)]


async def test_what_is_gone(server: Server, cluster: Cluster) -> None:
    """Reading and patching an object that is not there any more."""
    await server.deploy(replicas=0)
    deployment = await cluster.read(Deployment, server.namespace, "app")
    await server.must("DELETE", f"{server.deployments}/app")
    with pytest.raises(Gone):
        await cluster.patch(deployment, operations(deployment, {BANDWIDTH: "10M"}))
    with pytest.raises(Gone):
        await cluster.read(Deployment, server.namespace, "app")


async def test_follows_a_deployment_from_before_it_is_there(server: Server, cluster: Cluster) -> None:
    """Nothing at first, then the Deployment of that name, its changes and its end, and no other's."""
    seen: list[str] = []
    async with (
        asyncio.timeout(PATIENCE_S),
        aclosing(cluster.follow(Deployment, server.namespace, name="app")) as changes,
    ):
        async for change in changes:
            if isinstance(change, Listed):
                assert change.things == ()
                await server.deploy("other", replicas=0)
                await server.deploy("app", replicas=0)
            elif isinstance(change, Put):
                assert change.thing.metadata.name == "app"
                if "Put" not in seen:
                    seen.append("Put")
                    await server.must("DELETE", f"{server.deployments}/app")
            elif isinstance(change, Removed):
                seen.append("Removed")
                break
    assert seen == ["Put", "Removed"]


async def test_follows_pods_as_they_appear(server: Server, cluster: Cluster) -> None:
    """A Pod that scale-up makes is seen while it is Pending, with the annotations that it was born with."""
    await server.deploy(replicas=1, template={BANDWIDTH: "20M"})
    (first,) = await server.pods_of("app", 1)
    async with (
        asyncio.timeout(PATIENCE_S),
        aclosing(cluster.follow(Pod, server.namespace, labels="app=app")) as changes,
    ):
        async for change in changes:
            if isinstance(change, Listed):
                assert [pod.uid for pod in change.things] == [first["metadata"]["uid"]]
                await server.must("PATCH", f"{server.deployments}/app", {"spec": {"replicas": 2}}, MERGE_PATCH)
            elif isinstance(change, Put) and change.thing.uid != first["metadata"]["uid"]:
                assert (change.thing.bandwidth, change.thing.status.phase) == ("20M", "Pending")
                break


async def test_writes_events(server: Server, cluster: Cluster) -> None:
    """An Event about the Deployment is found there with its words."""
    await server.deploy(replicas=0)
    deployment = await cluster.read(Deployment, server.namespace, "app")
    await cluster.tell(deployment, "LimitPaused", "somebody else set it", "Warning", "2026-11-23T12:00:00Z")
    query = f"fieldSelector=involvedObject.uid%3D{deployment.uid}"
    events = (await server.must("GET", f"/api/v1/namespaces/{server.namespace}/events?{query}"))["items"]
    ours = [one for one in events if one["reason"] == "LimitPaused"]
    assert [(one["type"], one["message"]) for one in ours] == [("Warning", "somebody else set it")]


async def test_invalid_values_are_not_accepted(server: Server, cluster: Cluster) -> None:
    """An annotation that is too large is refused with an error, and changes nothing."""
    await server.deploy(replicas=0, own={BANDWIDTH: "20M"})
    deployment = await cluster.read(Deployment, server.namespace, "app")
    with pytest.raises((Stale, Refused)):
        await cluster.patch(deployment, operations(deployment, {"sluice.dev/limit": "x" * 300_000}))
    assert (await cluster.read(Deployment, server.namespace, "app")).bandwidth == "20M"


async def test_nobody_there() -> None:
    """Without a server every request says that it is unavailable."""
    async with Cluster.connected(Kubernetes(server="http://127.0.0.1:1")) as cluster:
        with pytest.raises(Unavailable):
            await cluster.read(Deployment, "default", "app")
        with pytest.raises(Unavailable):
            async with aclosing(cluster.follow(Pod, "default")) as changes:
                await anext(changes)


async def test_unusable_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubeconfig that is not there, and a Pod's account outside of a Pod, are named; the remedy is told."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ClusterError, match="/nowhere/kubeconfig"):
        async with Cluster.connected(Kubernetes(kubeconfig="/nowhere/kubeconfig")):
            pass
    with pytest.raises(ClusterError, match="not running in a Pod: set kubernetes"):
        async with Cluster.connected(Kubernetes()):
            pass
