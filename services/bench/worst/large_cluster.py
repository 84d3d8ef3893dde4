"""An API server with thousands of Pods, as far as the actuator and the meter ask it.

    python -m services.bench.worst.large_cluster PORT DEPLOYMENTS PODS METADATA OTHERS

A process of its own does not share the processor's time of whoever measures.  ``/limited/1M`` says whether every Pod
has that bandwidth.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import Any

from aiohttp import web

from schemas.config import Kubernetes
from services.kube.objects import BANDWIDTH

NAMESPACE = "large"


def name_deployment(number: int) -> str:
    """The name of one of its Deployments."""
    return f"app-{number}"


def find_address(number: int) -> str:
    """The address of one of its Pods."""
    return str(IPv4Address("10.0.0.1") + number)


class LargeCluster:
    """An API server with many Pods, in pages; it serves what the actuator asks for, and nothing else."""

    namespace = NAMESPACE

    def __init__(self, deployments: int, pods: int, metadata: int, others: int = 0) -> None:
        """``pods`` of each Deployment, each with so many bytes of others' metadata, and Pods of no target."""
        self.version = 1
        self._addresses = 0
        self.watches = self._open = 0
        """How many were open at once, at most; and now."""
        self.largest_page = 0
        names = [name_deployment(number) for number in range(deployments)]
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
        status = {"phase": "Running", "podIP": find_address(self._addresses)}
        self._addresses += 1
        spec = {"nodeName": "worker-1"}
        return {"kind": "Pod", "apiVersion": "v1", "metadata": meta, "spec": spec, "status": status}

    async def list_or_watch(self, request: web.Request) -> web.StreamResponse:
        """A page of a list, or a watch in which nothing happens."""
        if "watch" in request.query:
            self._open += 1
            self.watches = max(self.watches, self._open)
            try:
                response = web.StreamResponse()
                await response.prepare(request)
                await asyncio.sleep(float(request.query["timeoutSeconds"]))
            finally:
                self._open -= 1
            return response
        is_pods = request.match_info["plural"] == "pods"
        found = [*self.pods.values(), *self.others] if is_pods else list(self.deployments.values())
        field, _, value = request.query.get("fieldSelector", "").partition("=")
        if field == "metadata.name":
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

    async def answer_limited(self, request: web.Request) -> web.Response:
        """For whoever measures."""
        return web.json_response(self.limited(request.match_info["value"]))

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator["LargeCluster"]:
        """Serve on a port of loopback, 0 for a free one; ``config`` and ``namespace`` tell an actuator where."""
        app = web.Application(client_max_size=2**22)
        path = "/{root:apis?}/{version:v1|apps/v1}/namespaces/large/{plural:pods|deployments}"
        app.router.add_get(path, self.list_or_watch)
        app.router.add_patch(path + "/{name}", self.patch)
        app.router.add_post("/api/v1/namespaces/large/events", self.create)
        app.router.add_get("/api/v1/{plural:pods}", self.list_or_watch)
        app.router.add_get("/limited/{value}", self.answer_limited)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            self.config = Kubernetes(server=f"http://127.0.0.1:{runner.addresses[0][1]}")
            yield self
        finally:
            await runner.cleanup()


async def main() -> None:
    """Serve until killed."""
    port, *shape = map(int, sys.argv[1:])
    async with LargeCluster(*shape).serving(port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
