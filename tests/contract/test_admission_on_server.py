"""The admission policy, evaluated on what a real API server makes of Sluice's patches and of hostile ones.

The server is too old to evaluate it itself; it tells what an object is before and after each patch.
"""

from copy import deepcopy
from random import Random
from typing import Any

import msgspec
import pytest

from schemas.domain import Target
from schemas.units import Rate
from services.actuator.ownership import KEY, RESUMED, build_patch
from services.actuator.restore import restore
from services.kube.client import KubeClient
from services.kube.objects import BANDWIDTH, Deployment, Pod
from tests.contract.test_admission_policy import find_refusals, overlay_objects, policy
from tests.support.kube import servers
from tests.support.kube.apiserver import ApiServer

__all__ = ["overlay_objects", "policy"]
pytestmark = [pytest.mark.apiserver, pytest.mark.kubectl]

PATCHES = 60
PATHS = ("", "/metadata", "/spec", "/metadata/annotations", "/metadata/labels", "/spec/template/metadata/annotations")
LIMIT = BANDWIDTH.replace("/", "~1")
ENTRY = {"manager": "sluice-actuator", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1"}


def allow(policy: dict[str, Any], *targets: str) -> dict[str, Any]:
    """The policy for other targets."""
    edited = deepcopy(policy)
    for one in edited["variables"]:
        if one["name"] == "targets":
            one["expression"] = str(list(targets)).replace("'", '"')
    return edited


def strip(tree: dict[str, Any]) -> dict[str, Any]:
    """What may differ: all but what the server counts, and what Sluice writes."""
    kept = deepcopy(tree)
    for name in ("resourceVersion", "generation", "managedFields"):
        kept["metadata"].pop(name, None)
    for key in (BANDWIDTH, KEY):
        kept["metadata"].get("annotations", {}).pop(key, None)
    kept["metadata"]["annotations"] = kept["metadata"].get("annotations") or {}
    kept.pop("status", None)
    return kept


def write_hostile(chance: Random) -> list[dict[str, Any]]:
    """A JSON Patch that the actuator never sends; most are valid."""
    values: tuple[Any, ...] = ("5M", "banana", "1", "0", {"x": "y"}, [ENTRY], [{}], [], None, 3, "{}", {KEY: "{}"}, {})
    fields = ("finalizers", "ownerReferences", "generateName", "managedFields", "labels", "annotations", "x", LIMIT)
    path = f"{chance.choice(PATHS)}/{chance.choice((*fields, 'replicas', 'paused', 'company.example~1x'))}"
    return [{"op": chance.choice(("add", "replace", "remove")), "path": path, "value": chance.choice(values)}]


async def test_what_the_actuator_writes_passes_and_nothing_else(apiserver: ApiServer, policy: dict[str, Any]) -> None:
    """Limits set, changed, taken over from kubectl and put back; then hostile patches of every part of an object."""
    async with servers.real(apiserver) as server, KubeClient.connect(server.config) as client:
        edited = allow(policy, f"{server.namespace}/app")
        await server.deploy(replicas=1, own={"team": "x"})
        (pod,) = await server.pods_of("app", 1)

        async def settled() -> bool:
            # Between two reads nobody but the test writes.
            status = (await server.must("GET", f"{server.deployments}/app"))["status"]
            return (status.get("updatedReplicas"), status.get("unavailableReplicas")) == (1, 1) and any(
                one["reason"] == "ReplicaSetUpdated" for one in status.get("conditions", ())
            )

        await servers.eventually(settled)
        paths = {Deployment: f"{server.deployments}/app", Pod: f"{server.pods}/{pod['metadata']['name']}"}
        by_hand = {"metadata": {"annotations": {BANDWIDTH: "7M", "team": "y"}}}
        await server.must("PATCH", f"{paths[Pod]}?fieldManager=kubectl-annotate", by_hand, servers.MERGE_PATCH)

        async def show(kind: type[Deployment | Pod]) -> dict[str, Any]:
            tree: dict[str, Any] = await server.must("GET", paths[kind])
            return {"kind": kind.kind, **tree}

        for kind in (Deployment, Pod):
            for value, record in (("5M", '{"v": 1}'), ("20M", '{"v": 1, "limit": 20000}'), ("20M", RESUMED)):
                before = await show(kind)
                seen = msgspec.convert(before, type=kind)
                await client.patch(seen, build_patch(seen, {BANDWIDTH: value, KEY: record}))
                assert find_refusals(edited, before, await show(kind)) == []
        target = Target(
            deployment="app", namespace=server.namespace, min=Rate(1000), max=Rate(9000), fail_safe=Rate(2000)
        )
        before = await show(Deployment)
        await restore(client, target, dry_run=False)
        assert find_refusals(edited, before, await show(Deployment)) == []

        chance, changed = Random(31), 0
        for number in range(PATCHES):
            kind = (Deployment, Pod)[number % 2]
            before = await show(kind)
            status, _ = await server.request("PATCH", paths[kind], write_hostile(chance), servers.JSON_PATCH)
            after = await show(kind)
            if status >= 300 or strip(after) == strip(before):
                continue
            changed += 1
            assert find_refusals(edited, before, after), (before, after)
        print(f"{PATCHES} hostile patches, {changed} changed something: each is refused")
        assert changed > PATCHES / 10
