"""Asks the API server whether the services' accounts have the rights that the domains need, before they run.

Only the actuator's and the meter's accounts need any: sampler, decision service and exporter ask the API nothing.  The
questions are SubjectAccessReviews, which change nothing; they are asked about accounts that exist.
"""

import asyncio
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Literal

from msgspec import Struct

from schemas.config import Config
from schemas.domain import PER_NODE, Domain, Target
from services.definitions.enrolment import find_places
from services.kube.client import KubeClient
from services.kube.nodes import Node
from services.kube.objects import ApiFailure, Deployment, NotFound, Pod, Workload
from services.kube.workloads import WORKLOADS, Job, OtherOwner, Rollout, SelectorRecord, find_kind, object_name
from services.resources.listing import list_domains
from services.resources.objects import BandwidthDomain
from services.tools.check.cluster_rules import Finding, MeterObjects

_HOME = "sluice"
_ACTUATOR = "sluice-actuator"
_WATCH = ("list", "watch")
_CHANGE = ("get", "list", "watch", "patch")
_AT_ONCE = 16
"""Questions that are asked at a time."""
_NAMED = 3
"""Workloads that a finding names."""


_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"

Place = tuple[str, str, str, str]
"""What a right is on: namespace (empty: the whole cluster), group, resource, name (empty: any)."""


class Need(Struct, frozen=True):
    """Rights of an account on one resource."""

    group: str
    """Empty for the core of the API."""
    resource: str
    """In the plural, with the subresource: ``bandwidthdomains/status``."""
    verbs: tuple[str, ...]
    namespace: str
    """Empty: the whole cluster."""
    purpose: str
    """What needs it: the key of a target, or a text."""
    remedy: str
    """Which manifest grants it."""
    name: str = ""
    """The only object that it is about; empty: any."""
    level: Literal["error", "warning"] = "error"

    @property
    def place(self) -> Place:
        """What the right is on; what is missing of one place is one finding."""
        return self.namespace, self.group, self.resource, self.name


async def check_rights(api: KubeClient, config: Config, meter: MeterObjects | None) -> list[Finding]:
    """Check the actuator's and the meter's accounts, as far as they exist."""
    found: list[Finding] = []
    if await _has_account(api, _HOME, _ACTUATOR):
        found += await _find_missing(api, _HOME, _ACTUATOR, await list_actuator_needs(api, config))
    if meter is not None and meter.daemon_set is not None:
        home = meter.service.partition("/")[0]
        account = meter.daemon_set["spec"]["template"]["spec"].get("serviceAccountName") or "default"
        if await _has_account(api, home, account):
            found += await _find_missing(api, home, account, list(list_meter_needs(meter)))
    return found


async def _has_account(api: KubeClient, namespace: str, name: str) -> bool:
    try:
        await api.fetch(f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}")
    except ApiFailure:
        return False
    return True


async def list_actuator_needs(api: KubeClient, config: Config) -> list[Need]:
    """What the file's domains and the cluster's need, and what the actuator itself needs."""
    try:
        domains = await list_domains(api, config)
    except ApiFailure:
        domains = config.domains
    kinds: dict[str, type[Workload]] = {}
    for target in (target for domain in domains for target in domain.targets):
        try:
            kinds[target.key] = await find_kind(api, target)
        except ApiFailure:
            continue  # a kind that is not installed is reported as a missing target
    needs = [
        need
        for domain in domains
        for target in domain.targets
        if target.key in kinds
        for need in list_target_needs(target, kinds[target.key])
    ]
    needs += [need for domain in domains for need in list_domain_needs(domain)]
    needs += list_own_needs(config)
    settings = config.kubernetes.resources
    try:
        await api.fetch(f"/apis/{BandwidthDomain.api_version}")
    except NotFound:
        return needs
    except ApiFailure:
        pass
    group, plural, home = "sluice.dev", BandwidthDomain.plural, settings.namespace or ""
    if settings.enabled:
        purpose, remedy = "domains described in the cluster", "manifests/ml_controller_rbac.yaml"
        needs.append(Need(group, plural, _WATCH, home, purpose, remedy))
        needs.append(Need(group, f"{plural}/status", ("patch",), home, purpose, remedy, level="warning"))
    return needs


def list_target_needs(target: Target, kind: type[Workload]) -> Iterator[Need]:
    """What the actuator needs for a target of a kind: its object, its Pods, and Events about it."""
    key, group = target.key, _group_of(kind)
    if target.ref is None:
        remedy, name = "components/selectors", object_name(target)
        yield Need(group, kind.plural, (*_CHANGE[:3], "create"), target.namespace, key, remedy)
        yield Need(group, kind.plural, ("patch", "delete"), target.namespace, key, remedy, name=name)
    else:
        yield Need(group, kind.plural, _CHANGE, target.namespace, key, _find_remedy(kind))
    if issubclass(kind, OtherOwner) and kind.has_scale:
        yield Need(group, f"{kind.plural}/scale", ("get",), target.namespace, key, _find_remedy(kind))
    if kind.kind == "CronJob":
        yield Need(_group_of(Job), Job.plural, ("get",), target.namespace, key, _find_remedy(Job))
    for place in target.pod_namespaces:
        yield _need_pods(place, key, _CHANGE)
    yield _need_events(target.namespace, key)


def list_domain_needs(domain: Domain) -> Iterator[Need]:
    """What the actuator needs for a domain beside its targets: who may join it, and where its instances are."""
    for name, place in sorted(find_places(domain)):
        kind, purpose = WORKLOADS[name], f"{name}s that would join {domain.name}"
        yield Need(_group_of(kind), kind.plural, _CHANGE, place, purpose, _find_remedy(kind))
        if name == "CronJob":
            yield Need(_group_of(Job), Job.plural, ("get",), place, purpose, _find_remedy(Job))
        yield _need_pods(place, purpose, _CHANGE)
        yield _need_events(place, purpose)
    if domain.per:
        for place in sorted({one.namespace for one in domain.critical}):
            yield _need_pods(place, f"instances of {domain.name}", _WATCH)
        if domain.per != PER_NODE:
            yield Need("", Node.plural, _WATCH, "", f"instances of {domain.name}", "components/per-label")


def list_own_needs(config: Config) -> Iterator[Need]:
    """What the actuator needs for its Leases."""
    settings = config.kubernetes
    if settings.lease is None:
        return
    home, _, name = settings.lease.partition("/")
    sharded = settings.shards > 1
    remedy = "components/shards" if sharded else "components/ha"
    for one in [f"{name}-{shard}" for shard in range(settings.shards)] if sharded else [name]:
        group, plural = _group_of(SelectorRecord), SelectorRecord.plural
        yield Need(group, plural, ("get", "patch"), home, "who is in charge", remedy, name=one)


def list_meter_needs(meter: MeterObjects) -> Iterator[Need]:
    """What the meter needs, in the way in which it is installed."""
    purpose = "throughput"
    yield Need("", Pod.plural, _WATCH, "", purpose, "manifests/meter.yaml", level="warning")
    if meter.has_variable("SLUICE_METER_KUBELET"):
        yield Need("", "nodes/metrics", ("get",), "", purpose, "components/meter-kubelet", level="warning")
    elif meter.endpoints:
        remedy = "components/meter-endpoints"
        yield Need("cilium.io", "ciliumendpoints", ("get",), "", purpose, remedy, level="warning")


def _need_pods(namespace: str, purpose: str, verbs: tuple[str, ...]) -> Need:
    return Need("", Pod.plural, verbs, namespace, purpose, _find_remedy(Deployment))


def _need_events(namespace: str, purpose: str) -> Need:
    return Need("", "events", ("create",), namespace, purpose, _find_remedy(Deployment), level="warning")


def _find_remedy(kind: type[Workload]) -> str:
    """The manifest with the Role and RoleBinding that each namespace of such targets needs."""
    if kind.kind == Deployment.kind:
        return "manifests/ml_controller_rbac.yaml"
    is_known = WORKLOADS.get(kind.kind) is not None and kind.kind != Rollout.kind
    return "components/workloads" if is_known else "components/rollouts"


def _group_of(kind: type[Workload]) -> str:
    group, slash, _ = kind.api_version.partition("/")
    return group if slash else ""


async def _find_missing(api: KubeClient, home: str, account: str, needs: Iterable[Need]) -> list[Finding]:
    """Ask for each right once; what is missing of one resource is one finding."""
    places: dict[Place, list[Need]] = {}
    for need in needs:
        places.setdefault(need.place, []).append(need)
    wanted = {place: list(dict.fromkeys(v for need in found for v in need.verbs)) for place, found in places.items()}
    asked = [(place, verb) for place, verbs in wanted.items() for verb in verbs]
    where = f"serviceaccount {home}/{account}"
    missing: dict[Place, list[str]] = {}
    for begin in range(0, len(asked), _AT_ONCE):
        some = asked[begin : begin + _AT_ONCE]
        reviews = (api.ask(_REVIEWS, _build_review(home, account, *one)) for one in some)
        for (place, verb), answer in zip(some, await asyncio.gather(*reviews, return_exceptions=True), strict=True):
            if isinstance(answer, ApiFailure):
                text = f"its rights are not known, because they could not be asked for: {answer}"
                return [Finding("warning", where, text)]
            if isinstance(answer, BaseException):
                raise answer
            if not (answer.get("status") or {}).get("allowed"):
                missing.setdefault(place, []).append(verb)
    return [_explain(where, places[place], verbs) for place, verbs in missing.items()]


def _build_review(home: str, account: str, place: Place, verb: str) -> dict[str, Any]:
    namespace, group, whole, name = place
    resource, _, sub = whole.partition("/")
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{home}", "system:authenticated"]
    attributes = {"namespace": namespace, "group": group, "resource": resource, "subresource": sub, "name": name}
    user = {"user": f"system:serviceaccount:{home}:{account}", "groups": groups}
    spec = user | {"resourceAttributes": attributes | {"verb": verb}}
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}


def _explain(where: str, needs: Collection[Need], verbs: Collection[str]) -> Finding:
    first, *_ = concerned = [need for need in needs if set(need.verbs) & set(verbs)]
    resource, slash, sub = first.resource.partition("/")
    what = f"{resource}{f'.{first.group}' if first.group else ''}{slash}{sub}{f' {first.name}' if first.name else ''}"
    place = f"in namespace {first.namespace}" if first.namespace else "in the cluster"
    purposes = list(dict.fromkeys(need.purpose for need in concerned))
    more = ", ..." if len(purposes) > _NAMED else ""
    text = f"may not {', '.join(verbs)} {what} {place}, which is needed for {', '.join(purposes[:_NAMED])}{more}"
    remedy = f"{first.remedy} has the Role and RoleBinding" if first.namespace else f"{first.remedy} has the rights"
    level: Literal["error", "warning"] = "error" if any(need.level == "error" for need in concerned) else "warning"
    return Finding(level, where, f"{text}: {remedy}")
