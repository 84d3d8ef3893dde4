"""The emulator's controllers: what the pipeline sees of a controller-manager and of kubelets.

Deployments make ReplicaSets; ReplicaSets, StatefulSets, DaemonSets and Jobs make Pods with the template's labels and
annotations; a Deployment's own annotations are copied to its ReplicaSets and never to Pods.  A Deployment's changed
template replaces the Pods.  No Job ends by itself, and no CronJob makes one.  Objects whose owner is gone are deleted.
The stand-in for kubelets binds Pods to nodes, runs them after a delay, and removes deleted ones.
"""

import asyncio
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from services.plant.kube_emulator.patch import merge
from services.plant.kube_emulator.store import Key, ObjectStore, Tree, now

NODES = ("node-1", "node-2")

_POD_MAKERS = {
    "replicasets.apps": "ReplicaSet",
    "statefulsets.apps": "StatefulSet",
    "daemonsets.apps": "DaemonSet",
    "jobs.batch": "Job",
}
_HASH = "pod-template-hash"
_REVISION = "deployment.kubernetes.io/revision"
_NOT_COPIED = ("kubectl.kubernetes.io/last-applied-configuration", _REVISION)


async def run(objects: ObjectStore) -> None:
    """Keep workloads and Pods in step until cancelled."""
    while True:
        seen = objects.version
        # Delete objects whose owner is gone, as the garbage collector does.
        for resource in ("replicasets.apps", "jobs.batch", "pods"):
            alive = objects.uids()
            for key, tree in objects.list_objects(resource):
                reference = _controller_reference(tree)
                if reference is not None and reference["uid"] not in alive:
                    remove(objects, key)
        for key, deployment in objects.list_objects("deployments.apps"):
            _reconcile_deployment(objects, key, deployment)
        for resource, kind in _POD_MAKERS.items():
            for key, owner in objects.list_objects(resource):
                _reconcile_pods(objects, key, owner, kind)
        if objects.version == seen:
            await objects.wait_for_change(seen)
        else:
            await asyncio.sleep(0)


def _controller_reference(tree: Tree) -> dict[str, Any] | None:
    references = tree["metadata"].get("ownerReferences") or []
    return next((one for one in references if one.get("controller")), None)


def iter_owned(objects: ObjectStore, resource: str, owner: Tree) -> Iterator[tuple[Key, Tree]]:
    """Yield the objects of a resource whose controller is ``owner``, with their keys."""
    for key, tree in objects.list_objects(resource, owner["metadata"]["namespace"]):
        reference = _controller_reference(tree)
        if reference is not None and reference["uid"] == owner["metadata"]["uid"]:
            yield key, tree


def remove(objects: ObjectStore, key: Key) -> Tree:
    """Delete an object as the API does: a Pod that is on a node once the kubelet has ended it, all else at once."""
    tree = objects.get(key)
    return objects.delete(key, grace=key[0] == "pods" and bool(tree and tree.get("spec", {}).get("nodeName")))


def _build_owner_references(kind: str, owner: Tree) -> list[dict[str, Any]]:
    meta = owner["metadata"]
    return [
        {
            "apiVersion": "batch/v1" if kind == "Job" else "apps/v1",
            "kind": kind,
            "name": meta["name"],
            "uid": meta["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def _reconcile_deployment(objects: ObjectStore, key: Key, deployment: Tree) -> None:
    spec, meta = deployment["spec"], deployment["metadata"]
    digest = hashlib.sha256(json.dumps(spec["template"], sort_keys=True).encode()).hexdigest()[:10]
    copied = {k: v for k, v in (meta.get("annotations") or {}).items() if k not in _NOT_COPIED}
    current: Key = ("replicasets.apps", key[1], f"{meta['name']}-{digest}")
    if objects.get(current) is None:
        revision = str(1 + sum(1 for _ in iter_owned(objects, "replicasets.apps", deployment)))
        template = spec["template"]
        labels = {**(template["metadata"].get("labels") or {}), _HASH: digest}
        replica_set = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "labels": labels,
                "annotations": copied | {_REVISION: revision},
                "ownerReferences": _build_owner_references("Deployment", deployment),
            },
            "spec": {
                "replicas": spec.get("replicas", 1),
                "selector": {"matchLabels": {**spec["selector"].get("matchLabels", {}), _HASH: digest}},
                "template": {**template, "metadata": {**template["metadata"], "labels": labels}},
            },
        }
        objects.create(current, replica_set)
    sets = []
    for one, tree in iter_owned(objects, "replicasets.apps", deployment):
        replicas = spec.get("replicas", 1) if one == current else 0
        annotations = (tree["metadata"].get("annotations") or {}) | (copied if one == current else {})
        patch = {"metadata": {"annotations": annotations}, "spec": {"replicas": replicas}}
        sets.append(objects.update(one, partial(merge, patch=patch)))
        if one == current:
            revision = annotations[_REVISION]
    _update_status(objects, key, deployment, sets, {_REVISION: revision})


def _count_desired(objects: ObjectStore, owner: Tree, kind: str) -> int:
    """How many Pods an object wants."""
    spec = owner["spec"]
    if kind == "Job":
        return int(spec.get("parallelism", 1))
    if kind != "DaemonSet":
        return int(spec.get("replicas", 1))
    wanted = spec["template"]["spec"].get("nodeSelector") or {}
    nodes = [tree["metadata"].get("labels") or {} for _, tree in objects.list_objects("nodes")]
    # Without Nodes, Pods run on the ones that the stand-in for kubelets names.
    return sum(wanted.items() <= labels.items() for labels in nodes) if nodes else len(NODES)


def _reconcile_pods(objects: ObjectStore, key: Key, owner: Tree, kind: str) -> None:
    every = list(iter_owned(objects, "pods", owner))
    pods = [one for one in every if "deletionTimestamp" not in one[1]["metadata"]]
    taken = {one[2] for one, _ in every}
    desired = _count_desired(objects, owner, kind)
    template = owner["spec"]["template"]
    name = owner["metadata"]["name"]
    for _ in range(desired - len(pods)):
        naming = {"generateName": f"{name}-"}
        if kind == "StatefulSet":  # which numbers its Pods
            naming = {"name": next(free for number in itertools.count() if (free := f"{name}-{number}") not in taken)}
        meta: dict[str, Any] = {
            **naming,
            "labels": dict(template["metadata"].get("labels") or {}),
            "ownerReferences": _build_owner_references(kind, owner),
        }
        taken.add(meta.get("name", ""))
        if template["metadata"].get("annotations"):
            meta["annotations"] = dict(template["metadata"]["annotations"])
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": dict(template.get("spec") or {})}
        objects.create(("pods", key[1], meta.get("name", "")), body | {"status": {"phase": "Pending"}})
    # Remove Pods that do not run yet first, then the youngest.
    pods.sort(key=lambda one: one[1]["metadata"]["creationTimestamp"], reverse=True)
    pods.sort(key=lambda one: one[1]["status"]["phase"] == "Running")
    if kind == "DaemonSet":
        nodes = {tree["metadata"]["name"] for _, tree in objects.list_objects("nodes")} or set(NODES)
        # Those of nodes that are gone before all others.
        pods.sort(key=lambda one: one[1]["spec"].get("nodeName") in (None, *nodes))
    for one, _ in pods[: max(0, len(pods) - desired)]:
        remove(objects, one)
    _update_status(objects, key, owner, [owner], {}, {"desiredNumberScheduled": desired} if kind == "DaemonSet" else {})


def _update_status(
    objects: ObjectStore,
    key: Key,
    owner: Tree,
    sets: list[Tree],
    annotations: dict[str, str],
    more: dict[str, Any] | None = None,
) -> None:
    """Count the Pods of some objects into their owner's status."""
    pods = [tree for one in sets for _, tree in iter_owned(objects, "pods", one)]
    live = [tree for tree in pods if "deletionTimestamp" not in tree["metadata"]]
    ready = sum(tree["status"]["phase"] == "Running" for tree in live)
    status = {
        "observedGeneration": owner["metadata"].get("generation", 1),
        "replicas": len(live),
        "updatedReplicas": len(live),
        "readyReplicas": ready,
        "availableReplicas": ready,
        **(more or {}),
    }

    def change(tree: Tree) -> Tree:
        own = {**(tree["metadata"].get("annotations") or {}), **annotations}
        return tree | {"status": status, "metadata": tree["metadata"] | ({"annotations": own} if own else {})}

    objects.update(key, change, status=True)


Placement = Callable[[Tree], tuple[str, str] | None]
"""Gives a Pod its node and its address; None: any."""


async def run_kubelets(objects: ObjectStore, delay: float, place: Placement = lambda _: None) -> None:
    """Bind and run Pods, and remove deleted ones, each after ``delay`` seconds, until cancelled."""
    due: dict[str, asyncio.Task[None]] = {}
    numbers = itertools.count(1)
    try:
        while True:
            seen = objects.version
            for key, pod in objects.list_objects("pods"):
                ending = "deletionTimestamp" in pod["metadata"]
                step = f"{pod['metadata']['uid']}/{ending}"
                if step not in due and (ending or pod["status"]["phase"] == "Pending"):
                    due[step] = asyncio.create_task(_advance_pod(objects, key, pod, delay, numbers, place))
            due = {step: task for step, task in due.items() if not task.done()}
            await objects.wait_for_change(seen)
    finally:
        for task in due.values():
            task.cancel()


async def _advance_pod(
    objects: ObjectStore, key: Key, pod: Tree, delay: float, numbers: Iterator[int], place: Placement
) -> None:
    await asyncio.sleep(delay)
    current = objects.get(key)
    if current is None or current["metadata"]["uid"] != pod["metadata"]["uid"]:
        return
    if "deletionTimestamp" in current["metadata"]:
        objects.delete(key)
        return
    number = next(numbers)
    status = running_status(number)
    node, address = place(current) or (NODES[number % len(NODES)], status["podIP"])
    bind(objects, key, node)
    status |= {"podIP": address, "podIPs": [{"ip": address}]}
    objects.update(key, lambda tree: tree | {"status": status}, status=True)


def bind(objects: ObjectStore, key: Key, node: str) -> Tree:
    """Assign a Pod to a node, as a scheduler does."""
    return objects.update(key, lambda tree: tree | {"spec": tree["spec"] | {"nodeName": node}})


def running_status(number: int) -> dict[str, Any]:
    """The status of a running Pod; ``number`` makes its address unique."""
    timestamp = now()
    return {
        "phase": "Running",
        "podIP": f"10.244.{number // 250 % 250}.{number % 250 + 2}",
        "startTime": timestamp,
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": timestamp}],
    }
