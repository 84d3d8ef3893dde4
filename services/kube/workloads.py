"""The kinds of workloads that can be targets, and how the kind of a configured target is found.

Kinds that the configuration names with an ``apiVersion`` become classes once the API server has named their resource.
"""

from functools import lru_cache
from types import new_class
from typing import Any, ClassVar, Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from schemas.domain import Target
from schemas.workloads import KINDS, SELECTOR, LabelSelector, WorkloadRef
from services.kube.objects import Deployment, NotFound, Pod, Replicated, Workload
from services.kube.selectors import Requirement, Selector, parse_selector

RECORD_PREFIX = "sluice-target-"
"""Begins the name of the Lease that holds a selector's record."""


class StatefulSet(Replicated, frozen=True):
    """A StatefulSet, which makes its Pods itself."""

    kind: ClassVar[str] = "StatefulSet"
    api_version: ClassVar[str] = "apps/v1"
    plural: ClassVar[str] = "statefulsets"


class ReplicaSet(Replicated, frozen=True):
    """A ReplicaSet that nothing else owns."""

    kind: ClassVar[str] = "ReplicaSet"
    api_version: ClassVar[str] = "apps/v1"
    plural: ClassVar[str] = "replicasets"


class DaemonSetSpec(Struct, frozen=True):
    """A DaemonSet's specification."""

    selector: Selector


class DaemonSetStatus(Struct, frozen=True, rename="camel"):
    """A DaemonSet's status."""

    desired_number_scheduled: int = 0


class DaemonSet(Workload, frozen=True):
    """A DaemonSet: one Pod a node."""

    spec: DaemonSetSpec
    status: DaemonSetStatus = DaemonSetStatus()

    kind: ClassVar[str] = "DaemonSet"
    api_version: ClassVar[str] = "apps/v1"
    plural: ClassVar[str] = "daemonsets"

    @property
    def selector(self) -> Selector:
        """Selects its Pods."""
        return self.spec.selector

    @property
    def wanted_pods(self) -> int:
        """The nodes that it wants a Pod on."""
        return self.status.desired_number_scheduled


class JobSpec(Struct, frozen=True):
    """A Job's specification."""

    selector: Selector | None = None
    parallelism: int | None = None


class Job(Workload, frozen=True):
    """A Job."""

    spec: JobSpec = JobSpec()

    kind: ClassVar[str] = "Job"
    api_version: ClassVar[str] = "batch/v1"
    plural: ClassVar[str] = "jobs"

    @property
    def selector(self) -> Selector | None:
        """Selects its Pods."""
        return self.spec.selector

    @property
    def wanted_pods(self) -> int:
        """How many run at a time."""
        return 1 if self.spec.parallelism is None else self.spec.parallelism


class JobTemplate(Struct, frozen=True):
    """What a CronJob makes Jobs from."""

    spec: JobSpec = JobSpec()


class CronJobSpec(Struct, frozen=True, rename="camel"):
    """A CronJob's specification."""

    job_template: JobTemplate = JobTemplate()


class CronJob(Workload, frozen=True):
    """A CronJob, which makes Pods through Jobs."""

    spec: CronJobSpec = CronJobSpec()

    kind: ClassVar[str] = "CronJob"
    api_version: ClassVar[str] = "batch/v1"
    plural: ClassVar[str] = "cronjobs"

    @property
    def wanted_pods(self) -> int:
        """How many one of its Jobs runs at a time."""
        parallelism = self.spec.job_template.spec.parallelism
        return 1 if parallelism is None else parallelism

    def owns(self, pod: Pod) -> bool:
        """Whether it made the Pod: only its Job tells, so what is kept for it was found by the chain of owners."""
        del pod
        return True


class RolloutSpec(Struct, frozen=True):
    """A Rollout's specification; with a ``workloadRef`` it may have no selector of its own."""

    selector: Selector | None = None
    replicas: int | None = None


class Rollout(Workload, frozen=True):
    """A Rollout of Argo, which makes Pods through ReplicaSets."""

    spec: RolloutSpec = RolloutSpec()

    kind: ClassVar[str] = "Rollout"
    api_version: ClassVar[str] = KINDS["Rollout"]
    plural: ClassVar[str] = "rollouts"

    @property
    def selector(self) -> Selector | None:
        """Selects its Pods."""
        return self.spec.selector

    @property
    def wanted_pods(self) -> int:
        """Its replicas."""
        return 1 if self.spec.replicas is None else self.spec.replicas


class ScaleSpec(Struct, frozen=True):
    """What a scale subresource wants."""

    replicas: int = 0


class ScaleStatus(Struct, frozen=True):
    """What a scale subresource has."""

    selector: str = ""


class Scale(Struct, frozen=True):
    """The scale subresource of an object."""

    spec: ScaleSpec = ScaleSpec()
    status: ScaleStatus = ScaleStatus()


class OtherOwner(Workload, frozen=True):
    """An object of any other kind, which owns Pods through a chain of owners or has a scale subresource."""

    scale: Scale | None = field(name="sluice-scale", default=None)
    """No part of the object: read beside it."""

    has_scale: ClassVar[bool] = False
    kind: ClassVar[str] = ""
    api_version: ClassVar[str] = ""
    plural: ClassVar[str] = ""

    @property
    def selector(self) -> Selector | None:
        """Selects its Pods, where it has a scale subresource with a selector."""
        if self.scale is None or not self.scale.status.selector:
            return None
        try:
            return Selector(match_expressions=tuple(parse_selector(self.scale.status.selector)))
        except ValueError:
            return None

    @property
    def wanted_pods(self) -> int:
        """The replicas of its scale subresource."""
        return 0 if self.scale is None else self.scale.spec.replicas

    def owns(self, pod: Pod) -> bool:
        """Whether it made the Pod: what is kept for it was found by the chain of owners, or by its scale."""
        del pod
        return True

    def with_scale(self, scale: Scale | None) -> "OtherOwner":
        """The same object beside its scale."""
        return replace(self, scale=scale)


class SelectorRecord(Workload, frozen=True):
    """Stands for a label selector, which has no object of its own: a Lease, since nothing in one is secret."""

    kind: ClassVar[str] = "Lease"
    api_version: ClassVar[str] = "coordination.k8s.io/v1"
    plural: ClassVar[str] = "leases"

    def owns(self, pod: Pod) -> bool:
        """Whether the selector matches: what is kept for it was found by that."""
        del pod
        return True


WORKLOADS: dict[str, type[Workload]] = {
    one.kind: one for one in (Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, CronJob, Rollout)
}
"""The kinds that need no ``apiVersion``."""


class DiscoveryReader(Protocol):
    """What finding a kind needs of the API client."""

    async def read_json(self, path: str) -> Any:
        """Read what is at a path."""


def key_of(api_version: str, kind: str, namespace: str, name: str) -> str:
    """The key of the target that an object stands for."""
    if kind == SelectorRecord.kind and name.startswith(RECORD_PREFIX):
        return f"{namespace}/{SELECTOR}/{name.removeprefix(RECORD_PREFIX)}"
    return WorkloadRef(api_version=api_version, kind=kind, namespace=namespace, name=name).key


def object_name(target: Target) -> str:
    """The name of the object that carries a target's record."""
    return f"{RECORD_PREFIX}{target.name}" if target.ref is None else target.ref.name


def known_kind(target: Target) -> type[Workload] | None:
    """The kind of the object that carries a target's record; None where only the API server can tell."""
    ref = target.ref
    if ref is None:
        return SelectorRecord
    if not ref.is_known:
        return None
    known = WORKLOADS[ref.kind]
    return (
        known if known.api_version == ref.api_version else derive_kind(known, ref.kind, ref.api_version, known.plural)
    )


async def find_kind(reader: DiscoveryReader, target: Target) -> type[Workload]:
    """The kind of the object that carries a target's record.

    Raises:
        NotFound: the API server has no such kind.
        Rejected or Unavailable: it does not tell.
    """
    known = known_kind(target)
    if known is not None:
        return known
    assert target.ref is not None, "a selector's record is of a known kind"
    return await discover_kind(reader, target.ref.api_version, target.ref.kind)


async def discover_kind(reader: DiscoveryReader, api_version: str, kind: str) -> type[Workload]:
    """The class of a kind of which the API server has to tell the resource.

    Raises:
        NotFound: the API server has no such kind.
        Rejected or Unavailable: it does not tell.
    """
    tree = await reader.read_json(f"/{'apis' if '/' in api_version else 'api'}/{api_version}")
    resources = {one.get("name"): one for one in tree.get("resources") or ()}
    for name, one in resources.items():
        if one.get("kind") == kind and "/" not in str(name) and one.get("namespaced"):
            return derive_kind(OtherOwner, kind, api_version, str(name), has_scale=f"{name}/scale" in resources)
    raise NotFound(f"the API server has no namespaced kind {kind} in {api_version}")


@lru_cache(256)
def derive_kind(
    base: type[Workload], kind: str, api_version: str, plural: str, *, has_scale: bool = False
) -> type[Workload]:
    """A class for a kind; the same for the same kind."""
    found = {"kind": kind, "api_version": api_version, "plural": plural, "has_scale": has_scale, "__module__": __name__}
    return new_class(kind, (base,), {"frozen": True}, lambda namespace: namespace.update(found))


def build_selector(configured: LabelSelector) -> Selector:
    """A configured selector, as it is tested and asked for."""
    expressions = tuple(Requirement(one.key, one.operator, one.values) for one in configured.match_expressions)
    return Selector(dict(configured.match_labels), expressions)
