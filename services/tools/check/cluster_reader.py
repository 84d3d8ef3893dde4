"""Reads what a cluster says about whether Sluice would work there.  Changes nothing.

It needs more than the services may: nodes, Cilium's settings and policies, so it runs with the
kubeconfig of whoever installs.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from schemas.config import Config
from services.kube.client import KubeClient, KubeConfigError
from services.kube.objects import NotFound, Rejected, Unavailable
from services.sampler.source_factory import source_class
from services.tools.check.cluster_rules import Cluster, Finding, findings
from services.tools.check.connectivity import Look
from services.tools.check.selectors import annotations

_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_SERVICE = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc(?:\..*)?$")
"""A name that the cluster's own DNS gives."""


async def look_at_cluster(config: Config) -> Look:
    """Look at the objects that the configuration names, and at what would enforce its limits."""
    settings = config.kubernetes
    where = settings.server or settings.kubeconfig or "the Pod's service account"
    try:
        async with KubeClient.connect(settings) as api:
            cluster = await _read(api, config)
    except (KubeConfigError, Rejected, Unavailable) as error:
        return Look("kubernetes", where, "", reached=True, findings=(Finding("error", "kubernetes", str(error)),))
    state = f"{len(cluster.nodes)} nodes, {len(cluster.deployments)} of the configured workloads, their pods"
    return Look("kubernetes", where, state, reached=True, findings=tuple(findings(config.domains, cluster)))


async def _read(api: KubeClient, config: Config) -> Cluster:
    keys = {critical.key for domain in config.domains for critical in domain.critical}
    keys |= {target.key for domain in config.domains for target in domain.targets}
    namespaces = sorted({key.partition("/")[0] for key in keys})
    cilium = await _found(api, "/api/v1/namespaces/kube-system/configmaps/cilium-config")
    agent = await _found(api, "/apis/apps/v1/namespaces/kube-system/daemonsets/cilium")
    deployments = await _items(api, "apis/apps/v1", namespaces, "deployments")
    named = {f"{one['metadata']['namespace']}/{one['metadata']['name']}": one for one in deployments}
    wide = await _found(api, "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies")
    policies = await _items(api, "apis/cilium.io/v2", namespaces, "ciliumnetworkpolicies")
    return Cluster(
        cilium=None if cilium is None else cilium.get("data") or {},
        nodes=(await _found(api, "/api/v1/nodes"))["items"],
        deployments={key: one for key, one in named.items() if key in keys},
        pods=await _items(api, "api/v1", namespaces, "pods"),
        policies=[*policies, *(wide["items"] if wide is not None else ())],
        agent=None if agent is None else agent["spec"]["template"]["spec"]["containers"][0]["image"],
        volumes=await _has_volumes(api, config),
        absent={who: need for who, need in _needs(config) if await _is_absent(api, need[0])},
    )


def _needs(config: Config) -> Iterator[tuple[str, tuple[str, str]]]:
    """Services of the cluster that the configuration names: who needs which, and what goes without."""
    asked: list[tuple[str, str, str]] = []
    servers = source_class(config.signal.source).prerequisites(config.signal)
    asked += [(key, address, "nothing is measured") for key, address in servers.items()]
    if config.exporter.relay is not None:
        text = "the exporter sees probes only (Helm value hubble.relay.enabled=true)"
        asked.append(("exporter.relay.address", config.exporter.relay.address, text))
    probes = config.exporter.probes
    asked += [(f"exporter.probes {probe.key}", probe.address, "its probes reach nobody") for probe in probes]
    for who, address, why in asked:
        service = service_of(address)
        if service is not None:
            yield who, (service, why)


def service_of(address: str) -> str | None:
    """``namespace/name`` of a Service of the cluster; None where the address is another."""
    found = _SERVICE.match(urlsplit(address if "//" in address else f"//{address}").hostname or "")
    return None if found is None else f"{found[2]}/{found[1]}"


async def _has_volumes(api: KubeClient, config: Config) -> bool:
    """Whether the bus of the manifests gets its volume; others' are their own affair."""
    if "sluice/nats" not in {service_of(server) for server in config.bus.servers}:
        return True
    bus = await _found(api, "/apis/apps/v1/namespaces/sluice/statefulsets/nats")
    if bus is not None and not bus["spec"].get("volumeClaimTemplates"):
        return True
    classes = await _found(api, "/apis/storage.k8s.io/v1/storageclasses")
    return any(annotations(one).get(_DEFAULT_CLASS) == "true" for one in classes["items"])


async def _is_absent(api: KubeClient, service: str) -> bool:
    namespace, _, name = service.partition("/")
    return await _found(api, f"/api/v1/namespaces/{namespace}/services/{name}") is None


async def _items(api: KubeClient, group: str, namespaces: Iterable[str], resource: str) -> list[Any]:
    lists = await asyncio.gather(*(_found(api, f"/{group}/namespaces/{name}/{resource}") for name in namespaces))
    return [item for one in lists if one is not None for item in one["items"]]


async def _found(api: KubeClient, path: str) -> Any:
    try:
        return await api.read_json(path)
    except NotFound:
        return None
