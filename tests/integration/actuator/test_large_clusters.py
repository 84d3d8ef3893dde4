"""Thousands of Pods with much metadata: what the actuator keeps of them, and how soon a cut reaches all."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from schemas.config import Kubernetes
from services.bus.bus import Bus
from tests.support.actuators import ActuatorProcess, Aim, Decider
from tests.support.attack_tally import Attacks, resize
from tests.support.decision_services import join
from tests.support.kube.servers import BANDWIDTH, eventually
from tests.support.nats_server import NatsServer

LIMIT_MIB = 96
"""Of the actuator in the manifests."""


class LargeCluster:
    """An API server with many Pods, in pages; it serves what the actuator asks for, and nothing else."""

    namespace = "large"

    def __init__(self, deployments: int, pods: int, metadata: int, others: int = 0) -> None:
        """``pods`` of each Deployment, each with so many bytes of others' metadata, and Pods of no target."""
        self.version = 1
        self.watches = 0
        self.largest_page = 0
        names = [f"app-{number}" for number in range(deployments)]
        self.deployments = {name: self._deployment(name, pods) for name in names}
        self.pods = {
            f"{name}-1-{number}": self._pod(name, number, metadata) for name in names for number in range(pods)
        }
        self.others = [self._pod("other", number, metadata) for number in range(others)]

    def _meta(self, name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "namespace": self.namespace, "uid": f"uid-{name}", "resourceVersion": "1", **more}

    def _deployment(self, name: str, pods: int) -> dict[str, Any]:
        spec = {"replicas": pods, "selector": {"matchLabels": {"app": name}}}
        return {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": self._meta(name), "spec": spec}

    def _pod(self, name: str, number: int, metadata: int) -> dict[str, Any]:
        owner = {"kind": "ReplicaSet", "name": f"{name}-1", "uid": f"rs-{name}", "controller": True}
        noted = {BANDWIDTH: "10M", "example.com/notes": f"{number}".ljust(metadata, "x")}
        labels = {"app": name, "pod-template-hash": "1"}
        meta = self._meta(f"{name}-1-{number}", annotations=noted, labels=labels, ownerReferences=[owner])
        return {"kind": "Pod", "apiVersion": "v1", "metadata": meta, "status": {"phase": "Running"}}

    async def list_or_watch(self, request: web.Request) -> web.StreamResponse:
        """A page of a list, or a watch in which nothing happens."""
        if "watch" in request.query:
            self.watches += 1
            response = web.StreamResponse()
            await response.prepare(request)
            await asyncio.sleep(float(request.query["timeoutSeconds"]))
            return response
        is_pods = request.match_info["plural"] == "pods"
        found = [*self.pods.values(), *self.others] if is_pods else list(self.deployments.values())
        field, _, value = request.query.get("fieldSelector", "").partition("=")
        if field:
            found = [one for one in found if one["metadata"]["name"] == value]
        key, _, value = request.query.get("labelSelector", "").partition("=")
        if key:
            found = [one for one in found if one["metadata"]["labels"][key] == value]
        first, most = int(request.query.get("continue", "0")), int(request.query.get("limit", str(len(found))))
        page = found[first : first + most]
        self.largest_page = max(self.largest_page, len(page))
        meta = {"resourceVersion": str(self.version)}
        if first + most < len(found):
            meta["continue"] = str(first + most)
        return web.json_response({"kind": "List", "metadata": meta, "items": page})

    async def patch(self, request: web.Request) -> web.Response:
        """A JSON Patch on annotations."""
        held = self.deployments if request.match_info["plural"] == "deployments" else self.pods
        obj = held[request.match_info["name"]]
        operations = json.loads(await request.read())
        noted = dict(obj["metadata"].get("annotations") or {})
        for one in operations:
            key = one["path"].removeprefix("/metadata/annotations").removeprefix("/").replace("~1", "/")
            if one["op"] == "test":
                if (noted.get(key) if key else obj["metadata"].get("annotations")) != one["value"]:
                    return web.json_response({"message": "changed", "reason": "Invalid"}, status=422)
            else:
                noted |= {key: one["value"]} if key else one["value"]
        self.version += 1
        obj["metadata"] |= {"annotations": noted, "resourceVersion": str(self.version)}
        return web.json_response(obj)

    async def create(self, request: web.Request) -> web.Response:
        """An Event."""
        return web.json_response({}, status=201)

    def limited(self, value: str) -> bool:
        """Whether every Pod has that bandwidth."""
        return all(pod["metadata"]["annotations"][BANDWIDTH] == value for pod in self.pods.values())

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["LargeCluster"]:
        """Serve; ``config`` and ``namespace`` tell an actuator where."""
        app = web.Application(client_max_size=2**22)
        path = "/{root:apis?}/{version:v1|apps/v1}/namespaces/large/{plural:pods|deployments}"
        app.router.add_get(path, self.list_or_watch)
        app.router.add_patch(path + "/{name}", self.patch)
        app.router.add_post("/api/v1/namespaces/large/events", self.create)
        async with TestServer(app) as server:
            self.config = Kubernetes(server=str(server.make_url("/")).rstrip("/"))
            yield self


async def test_five_thousand_pods(nats: NatsServer, tmp_path: Path, attacks: Attacks) -> None:
    """With 4 kB of others' metadata each: within the manifest's memory from start to cut."""
    async with LargeCluster(1, 5_000, 4_000).serving() as cluster, join(nats.url, "sluice") as bus:
        aim = Aim("app-0", min="100M", max="20G", fail_safe="10G")
        peak, took = await cut_everything(cluster, bus, nats, tmp_path, (aim,), "5G", "1M")
    attacks.add("Pods of a large cluster", "5000 Pods", safe_s=took, peak_mib=peak)
    assert cluster.largest_page <= 100
    assert peak < LIMIT_MIB


async def test_five_hundred_targets(nats: NatsServer, tmp_path: Path, attacks: Attacks) -> None:
    """Of ten Pods each, in one namespace with a thousand others: two watches, within the manifest's memory."""
    count, pods = resize(120, 500), 10
    async with LargeCluster(count, pods, 500, others=1_000).serving() as cluster, join(nats.url, "sluice") as bus:
        aims = tuple(Aim(f"app-{number}", min="10M", max="20M", fail_safe="15M") for number in range(count))
        peak, took = await cut_everything(cluster, bus, nats, tmp_path, aims, "10M", "1M")
    attacks.add("targets of a large cluster", f"{count} targets, {count * pods} Pods", safe_s=took, peak_mib=peak)
    assert cluster.watches == 2
    assert peak < LIMIT_MIB


async def cut_everything(
    cluster: LargeCluster, bus: Bus, nats: NatsServer, home: Path, aims: tuple[Aim, ...], limit: str, share: str
) -> tuple[float, float]:
    """Start an actuator, cut every target; gives the peak of its memory in MiB and how long the cut took, seconds."""
    peak = 0.0
    process: Any
    with ActuatorProcess(home, nats.url, cluster, aims, dead_man="300s") as process:  # type: ignore[arg-type]

        def look() -> bool:
            nonlocal peak
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
            return True

        async def ready() -> bool:
            return look() and bool(process.ready()[0])

        await eventually(ready)
        decider = Decider(bus, cluster.namespace)
        began = time.monotonic()
        await decider.publish(decider.decision({aim.deployment: limit for aim in aims}))

        async def is_cut() -> bool:
            return look() and cluster.limited(share)

        await eventually(is_cut)
        return peak, time.monotonic() - began
