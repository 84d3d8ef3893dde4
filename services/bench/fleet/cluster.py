"""A cluster of many nodes as a process: ``python -m services.bench.fleet.cluster PORT NODES PODS``.

It is the emulator without its controllers, which would look at every object after each change.  Each node has a Pod of
the critical DaemonSet ``robot`` and some best-effort Pods with the label ``app: shipper``.
"""

import asyncio
import sys
from collections import Counter
from typing import Any

import aiohttp
import kmock
from aiohttp import web

from schemas.config import Kubernetes
from schemas.domain import PER_NODE, Critical, Domain, Target
from schemas.units import Rate
from schemas.workloads import LabelSelector
from services.bench.speed.kube_apis import Api, wait_for_answer
from services.plant.harness.pipeline import find_free_ports, find_program
from services.plant.harness.processes import Processes
from services.plant.kube_emulator.http_api import KubeApi
from services.plant.kube_emulator.store import ObjectStore

_COUNTS = "/requests"


def build_template(most: int = 100_000) -> Domain:
    """The definition of the fleet: an instance for each node, whose limits are at most ``most`` kbit/s."""
    selector = LabelSelector(match_labels={"app": "shipper"})
    target = Target(selector=selector, name="shipper", min=Rate(1000), max=Rate(most), fail_safe=Rate(20_000))
    return Domain("uplink", (Critical("robot"),), (target,), capacity=Rate(100_000), per=PER_NODE)


async def start_cluster(processes: Processes, nodes: int, pods: int) -> Api:
    """Start a cluster of so many nodes with so many best-effort Pods each.

    Raises:
        NotReady: it does not answer in time.
        ProcessDied: it ended.
    """
    (port,) = find_free_ports(1)
    url = f"http://127.0.0.1:{port}"
    arguments = (str(number) for number in (port, nodes, pods))
    await processes.start("cluster", find_program("python"), "-m", "services.bench.fleet.cluster", *arguments)
    api = Api("emulator", url, Kubernetes(server=url))
    await wait_for_answer(api, processes, "cluster")
    return api


async def count_requests(api: Api) -> dict[str, int]:
    """How many requests a cluster has had, by method; ``watch`` for watches."""
    async with aiohttp.request("GET", f"{api.url}{_COUNTS}") as answer:
        return dict(await answer.json())


class _CountingApi(KubeApi):
    """Counts what it is asked."""

    def __init__(self, objects: ObjectStore) -> None:
        super().__init__(objects)
        self._counts = Counter[str]()

    async def __call__(self, raw_request: Any) -> Any:
        """Serve a request."""
        if raw_request.path == _COUNTS:
            return web.json_response(self._counts)
        self._counts["watch" if "watch" in raw_request.query else raw_request.method.lower()] += 1
        return await super().__call__(raw_request)


def _build_pod(name: str, node: str, app: str) -> dict[str, Any]:
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": app, "uid": app, "controller": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": app}, "ownerReferences": [owner]},
        "spec": {"nodeName": node, "containers": [{"name": "app", "image": "app:1"}]},
    }


async def _serve(port: int, nodes: int, pods: int) -> None:
    api = _CountingApi(ObjectStore())
    api.create(
        ("namespaces", None, "default"), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
    )
    for number in range(nodes):
        node = f"node-{number}"
        apps = ["robot", *["shipper"] * pods]
        for place, app in enumerate(apps):
            api.create(("pods", "default", ""), _build_pod(f"{app}-{number}-{place}", node, app))
    async with api, kmock.Server(api, "127.0.0.1", port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(*map(int, sys.argv[1:])))
