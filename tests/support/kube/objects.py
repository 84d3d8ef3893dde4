"""Deployments and Pods for tests of the actuator's pure parts."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from schemas.domain import Critical, Domain, Target
from schemas.units import Rate
from services.actuator.desired_limit import LimitOrder
from services.actuator.ownership import KEY, Extent, OwnershipRecord
from services.actuator.plan import Plan, WriterTerm, build_plan
from services.kube.objects import (
    BANDWIDTH,
    Deployment,
    Meta,
    Owner,
    Pod,
    PodStatus,
    WorkloadSpec,
)
from services.kube.selectors import Selector

NOW = 1_000 * 10**9
TARGET = Target(deployment="app", min=Rate(5_000), max=Rate(80_000), fail_safe=Rate(10_000))
LINE = Domain(name="line", critical=(Critical(workload="robot"),), targets=(TARGET,))
ME = WriterTerm(Extent(TARGET.key), "me", 3)


def get_annotations(bandwidth: str | None, record: OwnershipRecord | str | None = None) -> dict[str, str] | None:
    """An object's annotations; None if it has none."""
    found = {} if bandwidth is None else {BANDWIDTH: bandwidth}
    if record is not None:
        found[KEY] = record if isinstance(record, str) else msgspec.json.encode(record).decode()
    return found or None


def deployment(
    bandwidth: str | None = None, record: OwnershipRecord | str | None = None, replicas: int = 2, version: int = 1
) -> Deployment:
    """The target's Deployment."""
    meta = Meta(
        name="app",
        namespace="default",
        uid="d",
        resource_version=str(version),
        annotations=get_annotations(bandwidth, record),
    )
    return Deployment(meta, WorkloadSpec(Selector({"app": "app"}), replicas))


def pod(
    number: int,
    bandwidth: str | None = "10M",
    record: OwnershipRecord | str | None = None,
    *,
    phase: str = "Running",
    going: bool = False,
    version: int = 1,
    annotations: Mapping[str, str] | None = None,
) -> Pod:
    """One of its Pods."""
    meta = Meta(
        name=f"app-1-{number}",
        namespace="default",
        uid=f"p{number}",
        resource_version=str(version),
        annotations=dict(annotations) if annotations is not None else get_annotations(bandwidth, record),
        labels={"app": "app", "pod-template-hash": "1"},
        owner_references=(Owner("ReplicaSet", "app-1", "r", controller=True),),
        deletion_timestamp="2026-11-23T12:00:00Z" if going else None,
    )
    return Pod(meta, status=PodStatus(phase))


def record(value: str, limit: int, **fields: Any) -> OwnershipRecord:
    """Sluice's record on an object."""
    defaults: dict[str, Any] = {"action": "a1", "cause": "decision", "at": NOW, "end": NOW, "found": "10M"}
    return OwnershipRecord(value=value, limit=limit, **(defaults | fields))


def order(limit: int, **fields: Any) -> LimitOrder:
    """An order as the actuator derives it from a decision."""
    defaults: dict[str, Any] = {"cause": "decision", "reason": "as decided", "decision": "line:1:p/1", "end": NOW}
    return LimitOrder(limit=limit, **(defaults | fields))


def plan_of(
    wanted: LimitOrder, main: Deployment, *pods: Pod, target: Target = TARGET, owed: frozenset[str] = frozenset()
) -> Plan:
    """The writes of a plan."""
    return build_plan(TARGET, wanted, main, pods, ME, owed, NOW)


def after(obj: Any, operations: list[dict[str, Any]]) -> Any:
    """The object that an API server makes from a JSON Patch on annotations.

    Raises:
        AssertionError: a ``test`` failed.
    """
    found = obj.metadata.annotations
    for one in operations:
        key = one["path"].removeprefix("/metadata/annotations").removeprefix("/").replace("~1", "/")
        if one["op"] == "test":
            assert (found if not key else (found or {}).get(key)) == one["value"], one
        elif not key:
            found = dict(one["value"])
        elif one["op"] == "add":
            assert found is not None
            found = {**found, key: one["value"]}
        else:
            assert found is not None
            found = {name: value for name, value in found.items() if name != key}
    version = str(int(obj.metadata.resource_version) + 1)
    return replace(obj, metadata=replace(obj.metadata, resource_version=version, annotations=found))
