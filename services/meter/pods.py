"""The pods of a node as the API has them, and the workload that each belongs to.  Pure.

A pod names the object that made it.  A ReplicaSet and a Job were made by something else in turn, whose name is a
part of theirs: so no other right than to read pods is needed, and a pod's own name does not matter, which
Kubernetes may have cut.
"""

import re

from msgspec import Struct

from services.kube.objects import Meta

HASH_LABELS = {"pod-template-hash": "Deployment", "rollouts-pod-template-hash": "Rollout"}
"""Labels with the end of a ReplicaSet's name, by what makes such ReplicaSets."""
_CRON_JOB = re.compile(r"(.+)-([2-9][0-9]{7})")
"""A CronJob's Job ends with the minute it was due, counted from 1970: eight digits until the year 2160."""


class PodOwner(Struct, frozen=True):
    """What a pod belongs to."""

    kind: str
    """``Deployment``, ``StatefulSet``, ``DaemonSet``, ``Job``, ``CronJob``, ``Rollout``, or any other owner's; of a
    pod without an owner ``Pod``."""
    name: str


class PodAddress(Struct, frozen=True):
    """An address in a pod's status."""

    ip: str = ""


class NodePodSpec(Struct, frozen=True, rename="camel"):
    """What a pod's specification says about its network."""

    node_name: str = ""
    host_network: bool = False


class NodePodStatus(Struct, frozen=True):
    """What a pod's status says about its network."""

    phase: str = "Pending"
    podIP: str = ""  # noqa: N815 - the API's name, which camel case would spell podIp
    podIPs: tuple[PodAddress, ...] = ()  # noqa: N815


class NodePod(Struct, frozen=True):
    """A pod, as the API writes it."""

    metadata: Meta
    spec: NodePodSpec = NodePodSpec()
    status: NodePodStatus = NodePodStatus()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its addresses, of both families where it has both."""
        several = tuple(one.ip for one in self.status.podIPs if one.ip)
        return several or ((self.status.podIP,) if self.status.podIP else ())

    @property
    def has_own_network(self) -> bool:
        """Whether it sends over a device of its own, now: what has ended keeps its address in the API."""
        return not self.spec.host_network and self.status.phase not in ("Succeeded", "Failed")

    @property
    def is_terminating(self) -> bool:
        """Whether it was deleted; it may send until it is gone."""
        return self.metadata.deletion_timestamp is not None

    @property
    def workload(self) -> PodOwner:
        """The workload at the end of its chain of owners."""
        meta = self.metadata
        owner = next((one for one in meta.owner_references if one.controller), None)
        # A static pod is owned by its node.
        if owner is None or owner.kind == "Node":
            return PodOwner("Pod", meta.name)
        if owner.kind == "ReplicaSet":
            for label, kind in HASH_LABELS.items():
                suffix = f"-{(meta.labels or {}).get(label, '')}"
                if len(suffix) > 1 and owner.name.endswith(suffix):
                    return PodOwner(kind, owner.name.removesuffix(suffix))
        if owner.kind == "Job" and (match := _CRON_JOB.fullmatch(owner.name)):
            return PodOwner("CronJob", match[1])
        return PodOwner(owner.kind, owner.name)
