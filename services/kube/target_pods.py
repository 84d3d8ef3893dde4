"""Reads one target's object and Pods, for commands that look at them once."""

from typing import Any, Protocol

from schemas.domain import Target
from services.kube.changes import T
from services.kube.claims import Claims
from services.kube.objects import Pod, Workload, decode_as
from services.kube.owners import OwnerChains
from services.kube.workloads import CronJob, OtherOwner, Scale, build_selector, find_kind, object_name


class ScaleReader(Protocol):
    """What reading a scale needs of the API client."""

    async def fetch(self, path: str) -> bytes:
        """Read what is at a path."""


class TargetReader(ScaleReader, Protocol):
    """What reading a target needs of the API client."""

    async def read_json(self, path: str) -> Any:
        """Read what is at a path."""

    async def read(self, kind: type[T], namespace: str, name: str) -> T:
        """Read an object."""

    async def list_by_labels(self, kind: type[T], namespace: str, selector: str) -> tuple[T, ...]:
        """List the objects that a label selector matches."""


async def read_object(client: TargetReader, target: Target) -> Workload:
    """Read the object that carries a target's record, beside its scale where it has one.

    Raises:
        NotFound: there is none, or no such kind.
        Rejected: reading is not allowed.
        Unavailable: the API server does not answer.
    """
    kind = await find_kind(client, target)
    return await add_scale(client, await client.read(kind, target.namespace, object_name(target)))


async def add_scale(client: ScaleReader, obj: Workload) -> Workload:
    """The object beside its scale subresource, where its kind has one.

    Raises:
        NotFound: it is gone.
        Rejected: reading is not allowed.
        Unavailable: the API server does not answer.
    """
    if not (isinstance(obj, OtherOwner) and obj.has_scale):
        return obj
    path = f"{obj.path(obj.metadata.namespace, obj.metadata.name)}/scale"
    return obj.with_scale(decode_as(Scale, await client.fetch(path)))


async def list_pods(client: TargetReader, target: Target, workload: Workload) -> list[Pod]:
    """List a target's Pods, those of other targets that it matches among them.

    Raises:
        Rejected: reading is not allowed.
        Unavailable: the API server does not answer.
    """
    if target.selector is not None:
        query = build_selector(target.selector).query()
        return [pod for place in target.pod_namespaces for pod in await client.list_by_labels(Pod, place, query)]
    selector = workload.selector
    if not isinstance(workload, CronJob | OtherOwner):
        selected = await client.list_by_labels(Pod, target.namespace, "" if selector is None else selector.query())
        return [pod for pod in selected if workload.owns(pod)]
    found = {}
    if selector is not None:
        found = {pod.uid: pod for pod in await client.list_by_labels(Pod, target.namespace, selector.query())}
    claims, chains = Claims([(target, workload)]), OwnerChains(client)
    for pod in await client.list_by_labels(Pod, target.namespace, ""):
        if claims.judge(pod, await chains.follow(pod, claims.is_worth_following)).target is not None:
            found[pod.uid] = pod
    return list(found.values())
