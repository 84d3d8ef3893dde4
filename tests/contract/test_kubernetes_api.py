"""The Kubernetes API that the actuator and the plant rely on, on the emulator and on a real server."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from tests.support.kube.servers import BANDWIDTH, JSON_PATCH, MERGE_PATCH, Server, deployment, eventually
from tests.support.waiting import PATIENCE_S

OWN = "/metadata/annotations/sluice.dev~1limit"


def add(value: str, path: str = OWN) -> dict[str, Any]:
    """A JSON Patch operation that sets an annotation."""
    return {"op": "add", "path": path, "value": value}


def expect(value: Any, path: str = OWN) -> dict[str, Any]:
    """A JSON Patch operation that makes the patch fail unless the value is present."""
    return {"op": "test", "path": path, "value": value}


async def test_created_object_has_identity(server: Server) -> None:
    """A new Deployment has a uid, a resourceVersion and generation 1."""
    meta = (await server.deploy(replicas=0))["metadata"]
    assert len(meta["uid"]) == 36
    assert int(meta["resourceVersion"]) > 0
    assert meta["generation"] == 1
    assert meta["namespace"] == server.namespace


async def test_second_create_is_a_conflict(server: Server) -> None:
    """Creating an object with a used name is answered with 409, AlreadyExists."""
    await server.deploy(replicas=0)
    status, answer = await server.request("POST", server.deployments, deployment("app", 0))
    assert (status, answer["reason"]) == (409, "AlreadyExists")


@pytest.mark.parametrize("path", ["deployments/none", "pods/none"])
async def test_absent_object_is_not_found(server: Server, path: str) -> None:
    """Reading and patching a missing object is answered with 404, NotFound."""
    root = server.deployments if path.startswith("deployments") else server.pods
    for method, body, kind in (("GET", None, JSON_PATCH), ("PATCH", [add("1")], JSON_PATCH)):
        status, answer = await server.request(method, f"{root}/none", body, kind)
        assert (status, answer["reason"]) == (404, "NotFound")


async def test_missing_namespace_is_not_found(server: Server) -> None:
    """Nothing can be created in a namespace that does not exist."""
    status, answer = await server.request("POST", "/apis/apps/v1/namespaces/nowhere/deployments", deployment("app", 0))
    assert (status, answer["reason"]) == (404, "NotFound")


async def test_failed_precondition_is_422_and_changes_nothing(server: Server) -> None:
    """A JSON Patch whose ``test`` fails is answered with 422 and leaves the object as it was."""
    await server.deploy(replicas=0, own={"sluice.dev/limit": "1"})
    path = f"{server.deployments}/app"
    before = await server.must("GET", path)
    status, answer = await server.request("PATCH", path, [expect("0"), add("2")], JSON_PATCH)
    assert (status, answer["reason"]) == (422, "Invalid")
    after = await server.must("GET", path)
    assert after["metadata"]["annotations"]["sluice.dev/limit"] == "1"
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


async def test_precondition_on_absence(server: Server) -> None:
    """``test`` for null holds while the annotation is missing, and fails once it exists."""
    await server.deploy(replicas=0, own={"a": "b"})
    path = f"{server.deployments}/app"
    await server.must("PATCH", path, [expect(None), add("1")], JSON_PATCH)
    status, _ = await server.request("PATCH", path, [expect(None), add("2")], JSON_PATCH)
    assert status == 422


async def test_annotations_that_are_not_there_at_all(server: Server) -> None:
    """If an object has no annotations, the first one is added together with the map, guarded by its absence."""
    await server.deploy(replicas=1)
    (pod,) = await server.pods_of("app", 1)
    assert "annotations" not in pod["metadata"]
    path = f"{server.pods}/{pod['metadata']['name']}"
    status, _ = await server.request("PATCH", path, [add("1")], JSON_PATCH)
    assert status == 422
    whole = [expect(None, "/metadata/annotations"), {**add("1", "/metadata/annotations"), "value": {"x": "1"}}]
    assert (await server.must("PATCH", path, whole, JSON_PATCH))["metadata"]["annotations"] == {"x": "1"}
    status, _ = await server.request("PATCH", path, whole, JSON_PATCH)
    assert status == 422


async def test_annotation_values_are_strings(server: Server) -> None:
    """A number as an annotation's value is answered with 422."""
    await server.deploy(replicas=0, own={"a": "b"})
    operations = [{**add(""), "value": 5}]
    status, answer = await server.request("PATCH", f"{server.deployments}/app", operations, JSON_PATCH)
    assert (status, answer["reason"]) == (422, "Invalid")


async def test_removing_what_is_absent_is_422(server: Server) -> None:
    """A JSON Patch that removes an absent annotation fails."""
    await server.deploy(replicas=0, own={"a": "b"})
    operations = [{"op": "remove", "path": OWN}]
    status, _ = await server.request("PATCH", f"{server.deployments}/app", operations, JSON_PATCH)
    assert status == 422


async def test_merge_patch(server: Server) -> None:
    """A merge patch sets annotations and removes those given as null."""
    await server.deploy(replicas=0, own={"a": "1", "b": "2"})
    body = {"metadata": {"annotations": {"a": None, "c": "3"}}}
    answer = await server.must("PATCH", f"{server.deployments}/app", body, MERGE_PATCH)
    assert {k: v for k, v in answer["metadata"]["annotations"].items() if len(k) == 1} == {"b": "2", "c": "3"}


async def test_unknown_patch_type_is_415(server: Server) -> None:
    """A patch of a kind that does not exist is refused."""
    await server.deploy(replicas=0)
    status, _ = await server.request("PATCH", f"{server.deployments}/app", {}, "application/x-patch+json")
    assert status == 415


async def test_every_change_raises_the_resource_version(server: Server) -> None:
    """A change gives a larger resourceVersion; a patch that changes nothing keeps it."""
    await server.deploy(replicas=0, own={"a": "1"})
    path = f"{server.deployments}/app"
    body = {"metadata": {"annotations": {"a": "2"}}}
    first = await server.must("PATCH", path, body, MERGE_PATCH)
    settled = await _wait_until_settled(server, path)
    again = await server.must("PATCH", path, body, MERGE_PATCH)
    assert int(settled["metadata"]["resourceVersion"]) >= int(first["metadata"]["resourceVersion"])
    assert again["metadata"]["resourceVersion"] == settled["metadata"]["resourceVersion"]


async def _wait_until_settled(server: Server, path: str) -> Any:
    """The object once its controller has finished its writes."""

    async def done() -> Any:
        tree = await server.must("GET", path)
        return tree if tree.get("status", {}).get("observedGeneration") == tree["metadata"]["generation"] else None

    return await eventually(done)


async def test_stale_put_is_a_conflict(server: Server) -> None:
    """Replacing an object with an old resourceVersion is answered with 409, Conflict."""
    await server.deploy(replicas=0, own={"a": "1"})
    path = f"{server.deployments}/app"
    old = await _wait_until_settled(server, path)
    await server.must("PATCH", path, {"metadata": {"annotations": {"a": "2"}}}, MERGE_PATCH)
    status, answer = await server.request("PUT", path, old)
    assert (status, answer["reason"]) == (409, "Conflict")


async def test_deployment_annotation_counts_as_a_generation(server: Server) -> None:
    """An annotation on a Deployment increments its generation; a Pod has no generation."""
    await server.deploy(replicas=1, template={BANDWIDTH: "20M"})
    before = await _wait_until_settled(server, f"{server.deployments}/app")
    body = {"metadata": {"annotations": {"a": "1"}}}
    after = await server.must("PATCH", f"{server.deployments}/app", body, MERGE_PATCH)
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
    (pod,) = await server.pods_of("app", 1)
    patched = await server.must("PATCH", f"{server.pods}/{pod['metadata']['name']}", body, MERGE_PATCH)
    assert patched["metadata"].get("generation", 1) == 1


async def test_pods_are_created_with_the_templates_annotations(server: Server) -> None:
    """Pods get labels and annotations of the template, an owner and the phase Pending; none of the Deployment's."""
    await server.deploy(replicas=2, own={BANDWIDTH: "50M"}, template={BANDWIDTH: "20M"})
    for pod in await server.pods_of("app", 2):
        assert pod["metadata"]["annotations"] == {BANDWIDTH: "20M"}
        assert pod["status"]["phase"] == "Pending"
        (owner,) = pod["metadata"]["ownerReferences"]
        assert owner["kind"] == "ReplicaSet"
        assert owner["controller"] is True
        assert owner["name"] == f"app-{pod['metadata']['labels']['pod-template-hash']}"


async def test_deployments_annotations_are_copied_to_its_replica_set(server: Server) -> None:
    """A changed annotation of the Deployment is copied to the ReplicaSet, and restarts no Pod."""
    await server.deploy(replicas=2)
    before = {pod["metadata"]["uid"] for pod in await server.pods_of("app", 2)}
    body = {"metadata": {"annotations": {BANDWIDTH: "30M"}}}
    await server.must("PATCH", f"{server.deployments}/app", body, MERGE_PATCH)

    async def copied() -> Any:
        sets = (await server.must("GET", f"/apis/apps/v1/namespaces/{server.namespace}/replicasets"))["items"]
        return [one for one in sets if one["metadata"]["annotations"].get(BANDWIDTH) == "30M"]

    async def some() -> Any:
        return await copied() or None

    assert len(await eventually(some)) == 1
    pods = await server.pods_of("app", 2)
    assert {pod["metadata"]["uid"] for pod in pods} == before
    assert all(BANDWIDTH not in (pod["metadata"].get("annotations") or {}) for pod in pods)


async def test_changed_template_replaces_the_pods(server: Server) -> None:
    """An annotation in the template replaces the Pods, which is why the actuator never changes it."""
    await server.deploy(replicas=1)
    (old,) = await server.pods_of("app", 1)
    body = {
        "spec": {
            "strategy": {"type": "Recreate", "rollingUpdate": None},
            "template": {"metadata": {"annotations": {BANDWIDTH: "20M"}}},
        }
    }
    await server.must("PATCH", f"{server.deployments}/app", body, MERGE_PATCH)

    async def replaced() -> Any:
        (pod,) = await server.pods_of("app", 1)
        return pod if pod["metadata"]["uid"] != old["metadata"]["uid"] else None

    assert (await eventually(replaced))["metadata"]["annotations"] == {BANDWIDTH: "20M"}


async def test_scaling(server: Server) -> None:
    """More replicas create Pods, fewer remove Pods without a node; through ``/scale``, too."""
    await server.deploy(replicas=1)
    (first,) = await server.pods_of("app", 1)
    await server.must("PATCH", f"{server.deployments}/app/scale", {"spec": {"replicas": 3}}, MERGE_PATCH)
    assert first["metadata"]["uid"] in {pod["metadata"]["uid"] for pod in await server.pods_of("app", 3)}
    await server.must("PATCH", f"{server.deployments}/app", {"spec": {"replicas": 1}}, MERGE_PATCH)
    await server.pods_of("app", 1)


async def test_deleting_a_deployment_removes_its_pods(server: Server) -> None:
    """Deleting a Deployment deletes the objects that it owns."""
    await server.deploy(replicas=2)
    await server.pods_of("app", 2)
    await server.must("DELETE", f"{server.deployments}/app")
    await server.pods_of("app", 0)


async def test_bound_pods_end_when_their_node_deletes_them(server: Server) -> None:
    """The plant binds a Pod and sets it Running.  A deleted Pod stays until it is deleted without grace."""
    await server.deploy(replicas=1)
    (pod,) = await server.pods_of("app", 1)
    path = f"{server.pods}/{pod['metadata']['name']}"
    target = {"apiVersion": "v1", "kind": "Node", "name": "node-1"}
    meta = {"name": pod["metadata"]["name"]}
    await server.must(
        "POST", f"{path}/binding", {"apiVersion": "v1", "kind": "Binding", "metadata": meta, "target": target}
    )
    status = {"status": {"phase": "Running", "podIP": "10.0.0.1"}}
    await server.must("PATCH", f"{path}/status", status, MERGE_PATCH)
    running = await server.must("GET", path)
    assert running["spec"]["nodeName"] == "node-1"
    assert running["status"]["phase"] == "Running"
    await server.must("DELETE", path)
    assert "deletionTimestamp" in (await server.must("GET", path))["metadata"]
    await server.must("DELETE", f"{path}?gracePeriodSeconds=0")

    async def gone() -> bool:
        return (await server.request("GET", path))[0] == 404

    await eventually(gone)


async def test_status_is_not_changed_through_the_object(server: Server) -> None:
    """A patch of the object itself leaves its status alone."""
    await server.deploy(replicas=1)
    (pod,) = await server.pods_of("app", 1)
    path = f"{server.pods}/{pod['metadata']['name']}"
    answer = await server.must("PATCH", path, {"status": {"phase": "Running"}}, MERGE_PATCH)
    assert answer["status"]["phase"] == "Pending"


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("labelSelector=app%3Done", {"one"}),
        ("labelSelector=app%21%3Done", {"two"}),
        ("labelSelector=app+in+%28one%2Ctwo%29", {"one", "two"}),
        ("labelSelector=app+notin+%28one%29", {"two"}),
        ("labelSelector=app%2Cpod-template-hash", {"one", "two"}),
        ("labelSelector=%21app", set()),
    ],
)
async def test_label_selectors(server: Server, selector: str, names: set[str]) -> None:
    """Lists can be narrowed by labels."""
    for name in ("one", "two"):
        await server.deploy(name, replicas=1)
        await server.pods_of(name, 1)
    items = (await server.must("GET", f"{server.pods}?{selector}"))["items"]
    assert {item["metadata"]["labels"]["app"] for item in items} == names


async def test_field_selector(server: Server) -> None:
    """Lists can be narrowed to one name."""
    for name in ("one", "two"):
        await server.deploy(name, replicas=0)
    answer = await server.must("GET", f"{server.deployments}?fieldSelector=metadata.name%3Done")
    assert [item["metadata"]["name"] for item in answer["items"]] == ["one"]
    assert int(answer["metadata"]["resourceVersion"]) > 0


async def test_watch_goes_on_from_a_list(server: Server) -> None:
    """A watch from a list's resourceVersion yields every later change in order, and nothing earlier."""
    await server.deploy(replicas=0)
    path = f"{server.deployments}/app"
    before = await _wait_until_settled(server, path)
    version = (await server.must("GET", server.deployments))["metadata"]["resourceVersion"]
    for value in ("1", "2"):
        await server.must("PATCH", path, {"metadata": {"annotations": {"a": value}}}, MERGE_PATCH)
    await server.must("DELETE", path)
    seen: list[tuple[str, str]] = []
    query = f"watch=true&resourceVersion={version}&fieldSelector=metadata.name%3Dapp&timeoutSeconds=30"
    async with asyncio.timeout(PATIENCE_S), aclosing(server.watch(f"{server.deployments}?{query}")) as events:
        async for event in events:
            assert event["object"]["metadata"]["uid"] == before["metadata"]["uid"]
            step = (event["type"], event["object"]["metadata"]["annotations"].get("a", ""))
            if step not in seen:
                seen.append(step)
            if event["type"] == "DELETED":
                break
    assert seen == [("MODIFIED", "1"), ("MODIFIED", "2"), ("DELETED", "2")]


async def test_watch_without_a_version_begins_with_what_is_there(server: Server) -> None:
    """A watch without a resourceVersion first yields every object as ADDED, then the changes."""
    await server.deploy("one", replicas=0)
    await _wait_until_settled(server, f"{server.deployments}/one")
    seen = []
    async with (
        asyncio.timeout(PATIENCE_S),
        aclosing(server.watch(f"{server.deployments}?watch=true&timeoutSeconds=30")) as events,
    ):
        async for event in events:
            if event["type"] == "ADDED":
                seen.append(event["object"]["metadata"]["name"])
            if seen == ["one"]:
                await server.deploy("two", replicas=0)
            if "two" in seen:
                break
    assert seen == ["one", "two"]


async def test_watch_with_a_selector_sees_objects_come_and_go(server: Server) -> None:
    """With a label selector, an object that stops matching is DELETED, one that starts matching is ADDED."""
    await server.deploy(replicas=1)
    (pod,) = await server.pods_of("app", 1)
    path = f"{server.pods}/{pod['metadata']['name']}"
    version = (await server.must("GET", server.pods))["metadata"]["resourceVersion"]
    for colour in ("red", "blue"):
        await server.must("PATCH", path, {"metadata": {"labels": {"colour": colour}}}, MERGE_PATCH)
    query = f"watch=true&resourceVersion={version}&labelSelector=colour%3Dred&timeoutSeconds=30"
    seen = []
    async with asyncio.timeout(PATIENCE_S), aclosing(server.watch(f"{server.pods}?{query}")) as events:
        async for event in events:
            seen.append(event["type"])
            if event["type"] == "DELETED":
                break
    assert seen == ["ADDED", "DELETED"]


async def test_watch_ends_after_its_time(server: Server) -> None:
    """A watch ends by itself after ``timeoutSeconds``."""
    async with (
        asyncio.timeout(PATIENCE_S),
        aclosing(server.watch(f"{server.pods}?watch=true&timeoutSeconds=1")) as events,
    ):
        async for _ in events:
            pass


async def test_events_can_be_written_and_found(server: Server) -> None:
    """An Event about a Deployment is stored with a name from the server, and found by its object."""
    tree = await server.deploy(replicas=0)
    meta = tree["metadata"]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "app."},
        "involvedObject": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": "app",
            "namespace": server.namespace,
            "uid": meta["uid"],
        },
        "reason": "LimitChanged",
        "message": "20M to 30M",
        "type": "Normal",
        "source": {"component": "sluice"},
        "firstTimestamp": "2026-11-23T12:00:00Z",
        "lastTimestamp": "2026-11-23T12:00:00Z",
        "count": 1,
    }
    await server.must("POST", f"/api/v1/namespaces/{server.namespace}/events", event)
    query = f"fieldSelector=involvedObject.uid%3D{meta['uid']}"
    found = (await server.must("GET", f"/api/v1/namespaces/{server.namespace}/events?{query}"))["items"]
    assert "LimitChanged" in {one["reason"] for one in found}


async def test_dry_run_changes_nothing(server: Server) -> None:
    """A patch with ``dryRun=All`` returns the result, and changes nothing."""
    await server.deploy(replicas=0, own={"a": "1"})
    body = {"metadata": {"annotations": {"a": "2"}}}
    answer = await server.must("PATCH", f"{server.deployments}/app?dryRun=All", body, MERGE_PATCH)
    assert answer["metadata"]["annotations"]["a"] == "2"
    assert (await server.must("GET", f"{server.deployments}/app"))["metadata"]["annotations"]["a"] == "1"


async def test_discovery_names_the_resources(server: Server) -> None:
    """Clients such as kubectl discover Pods and Deployments."""
    core = await server.must("GET", "/api/v1")
    assert {"pods", "pods/status", "events"} <= {one["name"] for one in core["resources"]}
    apps = await server.must("GET", "/apis/apps/v1")
    assert {"deployments", "deployments/scale"} <= {one["name"] for one in apps["resources"]}
    assert (core["groupVersion"], apps["groupVersion"]) == ("v1", "apps/v1")
