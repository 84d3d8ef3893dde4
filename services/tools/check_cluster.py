"""Reads what a cluster says about whether Sluice would work there.  Changes nothing.

It needs more than the services may: nodes, Cilium's settings and policies, so it runs with the
kubeconfig of whoever installs.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from schemas.config import Config
from services.actuator.cluster import Cluster as Api
from services.actuator.cluster import ClusterError
from services.actuator.things import Gone, Refused, Unavailable
from services.tools.check_live import Look
from services.tools.cluster_findings import Cluster, Finding, findings


async def look_at_cluster(config: Config) -> Look:
    """Look at the objects that the configuration names, and at what would enforce its limits."""
    settings = config.kubernetes
    where = settings.server or settings.kubeconfig or "the Pod's service account"
    try:
        async with Api.connected(settings) as api:
            cluster = await _read(api, config)
    except (ClusterError, Refused, Unavailable) as error:
        return Look("kubernetes", where, "", reached=True, findings=(Finding("error", "kubernetes", str(error)),))
    state = f"{len(cluster.nodes)} nodes, {len(cluster.deployments)} of the configured workloads, their pods"
    return Look("kubernetes", where, state, reached=True, findings=tuple(findings(config.domains, cluster)))


async def _read(api: Api, config: Config) -> Cluster:
    keys = {critical.key for domain in config.domains for critical in domain.critical}
    keys |= {target.key for domain in config.domains for target in domain.targets}
    namespaces = sorted({key.partition("/")[0] for key in keys})
    cilium = await _found(api, "/api/v1/namespaces/kube-system/configmaps/cilium-config")
    deployments = await _items(api, "apis/apps/v1", namespaces, "deployments")
    named = {f"{one['metadata']['namespace']}/{one['metadata']['name']}": one for one in deployments}
    return Cluster(
        cilium=None if cilium is None else cilium.get("data") or {},
        nodes=(await _found(api, "/api/v1/nodes"))["items"],
        deployments={key: one for key, one in named.items() if key in keys},
        pods=await _items(api, "api/v1", namespaces, "pods"),
        policies=await _items(api, "apis/cilium.io/v2", namespaces, "ciliumnetworkpolicies"),
    )


async def _items(api: Api, group: str, namespaces: Iterable[str], resource: str) -> list[Any]:
    lists = await asyncio.gather(*(_found(api, f"/{group}/namespaces/{name}/{resource}") for name in namespaces))
    return [item for one in lists if one is not None for item in one["items"]]


async def _found(api: Api, path: str) -> Any:
    try:
        return await api.raw(path)
    except Gone:
        return None
