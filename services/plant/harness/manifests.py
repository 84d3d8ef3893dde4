"""Builds the factory's Kubernetes objects, for a plant that is not made of containers.

They have the names, labels and annotations of ``manifests/robot-factory-application.yaml``, without what a
kubelet would need to run them.
"""

from typing import Any

from schemas.domain import Domain, Target
from services.plant.harness.bandwidth_agent import ANNOTATION, NAME_LABEL
from services.plant.workloads import Apps

PRIORITY = "bandwidth.cilium.io/priority"


def build_manifests(apps: Apps, domain: Domain) -> list[dict[str, Any]]:
    """Build a domain's Namespaces and Deployments; best-effort Pods start with the fail-safe limit."""
    limits = {target.key: target for target in domain.targets}
    replicas = {one.target: one.replicas for one in apps.targets}
    workloads = [one.workload for one in apps.critical] + [one.target for one in apps.targets]
    namespaces = sorted({workload.partition("/")[0] for workload in workloads})
    return [
        *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in namespaces),
        *(build_deployment(workload, replicas.get(workload, 1), limits.get(workload)) for workload in workloads),
    ]


def build_deployment(workload: str, replicas: int, target: Target | None) -> dict[str, Any]:
    """Build a Deployment; a target's Pods start with its fail-safe limit."""
    namespace, _, name = workload.partition("/")
    labels = {NAME_LABEL: name, "app.kubernetes.io/part-of": "robot-factory"}
    annotations = {PRIORITY: "guaranteed" if target is None else "bestEffort"}
    if target is not None:
        annotations[ANNOTATION] = str(target.fail_safe)
    container = {"name": name, "image": "sluice-factory:0.1.0"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {NAME_LABEL: name}},
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": {"containers": [container]},
            },
        },
    }
