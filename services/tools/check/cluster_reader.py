"""Reads from a cluster whether Sluice would work there, and tries patches.  Changes nothing.

It needs more than the services may: nodes, Cilium's settings and policies, so it runs with the
kubeconfig of the installing user.
"""

import asyncio
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

from msgspec.structs import replace

from schemas.config import Config
from services.actuator.reporter import ENFORCED, NOT_ENFORCED
from services.kube.access import KubeConfigError
from services.kube.client import KubeClient
from services.kube.objects import NotFound, Rejected, Unavailable
from services.kube.workloads import key_of
from services.sampler.source_factory import source_class
from services.tools.check.cluster_rules import ClusterObjects, Finding, MeterObjects, check_cluster_objects
from services.tools.check.connectivity import CheckResult
from services.tools.check.rights import check_rights
from services.tools.check.selectors import annotations, labels
from services.tools.check.trial_patches import try_patches
from services.tools.check.workload_reader import read_others

_RECORD = "sluice.dev/limit"
_PAGE = 200
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_SERVICE = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc(?:\..*)?$")
"""A name that the cluster's own DNS gives."""


async def check_cluster(config: Config) -> CheckResult:
    """Check the objects that the configuration names, and what would enforce its limits."""
    settings = config.kubernetes
    where = settings.server or settings.kubeconfig or "the Pod's service account"
    try:
        async with KubeClient.connect(settings) as api:
            cluster = await _read(api, config)
            targets = {target.key: target for domain in config.domains for target in domain.targets}
            refused = [*await check_rights(api, config, cluster.meter), *await try_patches(api, targets)]
    except (KubeConfigError, Rejected, Unavailable) as error:
        problem = Finding("error", "kubernetes", str(error))
        return CheckResult("kubernetes", where, "", reached=True, findings=(problem,))
    except (LookupError, TypeError, AttributeError) as error:
        text = f"an answer of the API server is not what was asked for ({type(error).__name__}: {error})"
        problem = Finding("error", "kubernetes", text)
        return CheckResult("kubernetes", where, "", reached=True, findings=(problem,))
    state = f"{len(cluster.nodes)} nodes, {len(cluster.deployments)} of the configured workloads, their pods"
    findings = (*check_cluster_objects(config.domains, cluster), *refused)
    return CheckResult("kubernetes", where, state, reached=True, findings=findings)


async def _read(api: KubeClient, config: Config) -> ClusterObjects:
    targets = {target.key for domain in config.domains for target in domain.targets}
    keys = targets | {critical.key for domain in config.domains for critical in domain.critical}
    places = {place for domain in config.domains for target in domain.targets for place in target.pod_namespaces}
    namespaces = sorted({key.partition("/")[0] for key in keys} | places)
    home = "kube-system"
    cilium = await _fetch(api, f"/api/v1/namespaces/{home}/configmaps/cilium-config")
    if cilium is None:
        # Cilium may be installed into any namespace; who may not look into all of them sees the usual one only.
        with suppress(Rejected):
            named_so = await _fetch(api, "/api/v1/configmaps?fieldSelector=metadata.name%3Dcilium-config")
            if found := (named_so or {}).get("items"):
                cilium, home = found[0], found[0]["metadata"]["namespace"]
    agent = await _fetch(api, f"/apis/apps/v1/namespaces/{home}/daemonsets/cilium")
    deployments = await _list_items(api, "apis/apps/v1", namespaces, "deployments")
    named = {f"{one['metadata']['namespace']}/{one['metadata']['name']}": one for one in deployments}
    workloads = {key: one for key, one in named.items() if key in keys}
    workloads |= await read_others(api, config, workloads)
    wide = await _fetch(api, "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies")
    policies = await _list_items(api, "apis/cilium.io/v2", namespaces, "ciliumnetworkpolicies")
    events: list[Any] = []
    with suppress(Rejected):
        events = await _list_items(api, "api/v1", namespaces, "events")
    volumes = True
    # Only the bus of the manifests is known to need a volume.
    if "sluice/nats" in {parse_service(server) for server in config.bus.servers}:
        bus = await _fetch(api, "/apis/apps/v1/namespaces/sluice/statefulsets/nats")
        if bus is None or bus["spec"].get("volumeClaimTemplates"):
            classes = await _fetch(api, "/apis/storage.k8s.io/v1/storageclasses")
            volumes = any(annotations(one).get(_DEFAULT_CLASS) == "true" for one in classes["items"])
    return ClusterObjects(
        cilium=None if cilium is None else cilium.get("data") or {},
        nodes=await _list_pages(api, "/api/v1/nodes"),
        deployments=workloads,
        pods=await _list_items(api, "api/v1", namespaces, "pods"),
        policies=[*policies, *(wide["items"] if wide is not None else ())],
        agent=None if agent is None else agent["spec"]["template"]["spec"]["containers"][0]["image"],
        cilium_namespace=home,
        volumes=volumes,
        absent=await _find_absent_services(api, config),
        not_enforced=find_not_enforced(events),
        left_over={
            key: str(noted.get("kubernetes.io/egress-bandwidth"))
            for key, one in named.items()
            if key not in targets and (noted := annotations(one)).get(_RECORD, "{}").strip() != "{}"
        },
        meter=await _read_meter(api, config),
    )


def find_not_enforced(events: Iterable[Any]) -> dict[str, str]:
    """Find workloads whose last Event on enforcement says that the limit is not enforced; returns its text."""
    last: dict[str, tuple[str, str, str]] = {}
    for event in events:
        if event.get("reason") in (NOT_ENFORCED, ENFORCED):
            about = event["involvedObject"]
            version, kind = about.get("apiVersion") or "apps/v1", about.get("kind") or "Deployment"
            key = key_of(version, kind, str(about.get("namespace")), str(about.get("name")))
            when = str(event.get("lastTimestamp") or event.get("eventTime") or "")
            last[key] = max(last.get(key, ("", "", "")), (when, event["reason"], str(event.get("message", ""))))
    return {key: text for key, (_, reason, text) in last.items() if reason == NOT_ENFORCED}


async def _read_meter(api: KubeClient, config: Config) -> MeterObjects | None:
    """The meter of the first address that is a Service; None where the sampler reads none, or an address elsewhere."""
    found = [service for url in config.signal.scrape.meters if (service := parse_service(url)) is not None]
    if config.signal.source != "scrape" or not found:
        return None
    namespace, _, name = found[0].partition("/")
    home: Any = {}
    with suppress(Rejected):
        home = await _fetch(api, f"/api/v1/namespaces/{namespace}") or {}
    meter = MeterObjects(
        service=found[0],
        daemon_set=await _fetch(api, f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"),
        found=await _fetch(api, f"/api/v1/namespaces/{namespace}/services/{name}"),
        security=labels(home).get("pod-security.kubernetes.io/enforce", ""),
        policies=await _list_items(api, "apis/networking.k8s.io/v1", [namespace], "networkpolicies"),
        trusts_netkit=config.meter.trust_netkit,
    )
    return replace(meter, endpoints=config.meter.endpoints or meter.has_variable("SLUICE_METER_ENDPOINTS"))


async def _find_absent_services(api: KubeClient, config: Config) -> dict[str, tuple[str, str]]:
    """Find Services that the configuration names and that do not exist; by who needs them, and what fails."""
    asked: list[tuple[str, str, str]] = []
    servers = source_class(config.signal.source).prerequisites(config.signal)
    asked += [(key, address, "nothing is measured") for key, address in servers.items()]
    if config.exporter.relay is not None:
        text = "the exporter sees probes only (Helm value hubble.relay.enabled=true)"
        asked.append(("exporter.relay.address", config.exporter.relay.address, text))
    probes = config.exporter.probes
    asked += [(f"exporter.probes {probe.key}", probe.address, "its probes have no target") for probe in probes]
    absent = {}
    for who, address, why in asked:
        service = parse_service(address)
        namespace, _, name = (service or "").partition("/")
        if service and await _fetch(api, f"/api/v1/namespaces/{namespace}/services/{name}") is None:
            absent[who] = (service, why)
    return absent


def parse_service(address: str) -> str | None:
    """Parse ``namespace/name`` of a Service from its address; None for any other address."""
    found = _SERVICE.match(urlsplit(address if "//" in address else f"//{address}").hostname or "")
    return None if found is None else f"{found[2]}/{found[1]}"


async def _list_items(api: KubeClient, group: str, namespaces: Iterable[str], resource: str) -> list[Any]:
    lists = await asyncio.gather(*(_list_pages(api, f"/{group}/namespaces/{name}/{resource}") for name in namespaces))
    return [item for one in lists for item in one]


async def _list_pages(api: KubeClient, path: str) -> list[Any]:
    """List what is at a path, a page at a time; nothing where there is no such kind.

    Raises:
        Rejected or Unavailable: it cannot be listed, or the answer is no list.
    """
    found: list[Any] = []
    following = ""
    while True:
        more = f"&continue={quote(following, safe='')}" if following else ""
        page = await _fetch(api, f"{path}?limit={_PAGE}{more}")
        if page is None:
            return found
        items = page.get("items", ())
        if not (items is None or (isinstance(items, list | tuple) and all(isinstance(one, dict) for one in items))):
            raise Unavailable(f"{path}: the server's answer is no list")
        found += items or ()
        following = (page.get("metadata") or {}).get("continue") or ""
        if not following:
            return found


async def _fetch(api: KubeClient, path: str) -> Any:
    try:
        return await api.read_json(path)
    except NotFound:
        return None
