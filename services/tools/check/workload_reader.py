"""Reads the configured workloads of every kind, in the form of a Deployment: metadata, selector and template."""

from collections.abc import Mapping
from typing import Any

from schemas.config import Config
from schemas.domain import Critical, Target
from services.kube.client import KubeClient
from services.kube.objects import NotFound
from services.kube.workloads import WORKLOADS, discover_kind, find_kind, object_name

_NOBODY: Mapping[str, Any] = {"matchLabels": {"sluice.dev/nobody": ""}}
"""Selects no Pod: whom an object means is not known without asking about each Pod's owners."""


def view_workload(tree: Any) -> Any:
    """An object of any kind in the form of a Deployment; its template is empty where it has none."""
    spec = tree.get("spec") or {}
    inner = (spec.get("jobTemplate") or {}).get("spec") or spec
    template = inner.get("template")
    template = template if isinstance(template, dict) else {}
    selector = inner.get("selector")
    if not (isinstance(selector, dict) and selector.keys() & {"matchLabels", "matchExpressions"}):
        labels = (template.get("metadata") or {}).get("labels")
        selector = {"matchLabels": labels} if labels else _NOBODY
    return {
        "apiVersion": tree.get("apiVersion", "apps/v1"),
        "kind": tree.get("kind", "Deployment"),
        "metadata": tree["metadata"],
        "spec": {"selector": selector, "template": template},
    }


async def read_others(api: KubeClient, config: Config, deployments: Mapping[str, Any]) -> dict[str, Any]:
    """Read the configured workloads that are no Deployments, by key.

    Args:
        api: reads them.
        config: names them.
        deployments: what was read already.

    Raises:
        Rejected: reading is not allowed.
        Unavailable: no answer.
    """
    found: dict[str, Any] = {}
    for domain in config.domains:
        for target in domain.targets:
            if target.key not in deployments and (tree := await _read_target(api, target)) is not None:
                found[target.key] = tree
        for critical in domain.critical:
            named = deployments.get(critical.key)
            wanted = critical.kind in (None, "Deployment")
            if (named is None or not wanted) and (tree := await _read_critical(api, critical)) is not None:
                found[critical.key] = view_workload(tree)
    return found


async def _read_target(api: KubeClient, target: Target) -> Any:
    try:
        kind = await find_kind(api, target)
        tree = await api.read_json(kind.path(target.namespace, object_name(target)))
    except NotFound:
        if target.selector is None:
            return None
        # The actuator makes its record.
        tree = {"metadata": {"name": object_name(target), "namespace": target.namespace}}
    if target.selector is None:
        return view_workload({"apiVersion": kind.api_version, "kind": kind.kind, **tree})
    expressions = [
        {"key": one.key, "operator": one.operator, "values": list(one.values)}
        for one in target.selector.match_expressions
    ]
    selector = {"matchLabels": target.selector.match_labels, "matchExpressions": expressions}
    identity = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": tree["metadata"]}
    return identity | {"spec": {"selector": selector, "template": {}}}


async def _read_critical(api: KubeClient, critical: Critical) -> Any:
    """Read a critical workload of its kind, or of the first known kind that has one of its name."""
    kinds = list(WORKLOADS.values())
    try:
        if critical.ref is not None:
            known = WORKLOADS.get(critical.ref.kind) if critical.ref.is_known else None
            kinds = [known or await discover_kind(api, critical.ref.api_version, critical.ref.kind)]
    except NotFound:
        return None
    for kind in kinds:
        try:
            tree = await api.read_json(kind.path(critical.namespace, critical.workload))
        except NotFound:
            continue
        return {"apiVersion": kind.api_version, "kind": kind.kind, **tree}
    return None
