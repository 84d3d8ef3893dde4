"""What the actuator sees of the cluster: Deployments and Pods, as much of them as it needs.

API server --> cluster.py --> here --> plan.py
"""

from typing import ClassVar, Literal

from msgspec import Struct, field

BANDWIDTH = "kubernetes.io/egress-bandwidth"
"""What Cilium enforces on a Pod, as a quantity of bit/s; on a Deployment it says what is intended."""

_ENDED = ("Succeeded", "Failed")


class Owner(Struct, frozen=True):
    """Who made an object."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class Meta(Struct, frozen=True, rename="camel"):
    """An object's metadata."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    owner_references: tuple[Owner, ...] = ()
    deletion_timestamp: str | None = None


class Requirement(Struct, frozen=True):
    """One expression of a label selector."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class Selector(Struct, frozen=True, rename="camel"):
    """Which Pods a Deployment takes for its own."""

    match_labels: dict[str, str] = field(default_factory=dict)
    match_expressions: tuple[Requirement, ...] = ()

    def query(self) -> str:
        """The selector as it stands in a request."""
        written = {
            "In": "{0} in ({1})",
            "NotIn": "{0} notin ({1})",
            "Exists": "{0}",
            "DoesNotExist": "!{0}",
        }
        parts = [f"{key}={value}" for key, value in self.match_labels.items()]
        parts += [written[one.operator].format(one.key, ",".join(one.values)) for one in self.match_expressions]
        return ",".join(parts)


class Thing(Struct, frozen=True):
    """An object with annotations."""

    metadata: Meta

    kind: ClassVar[Literal["Deployment", "Pod"]]

    @property
    def uid(self) -> str:
        """Tells it from an earlier object of the same name."""
        return self.metadata.uid

    @property
    def annotations(self) -> dict[str, str]:
        """Its annotations."""
        return self.metadata.annotations or {}

    @property
    def bandwidth(self) -> str | None:
        """The bandwidth annotation as it is."""
        return self.annotations.get(BANDWIDTH)

    @property
    def version(self) -> int:
        """Grows with every change."""
        return int(self.metadata.resource_version)


class DeploymentSpec(Struct, frozen=True):
    """A Deployment's specification."""

    selector: Selector
    replicas: int = 1


class Deployment(Thing, frozen=True):
    """A target's Deployment."""

    spec: DeploymentSpec

    kind: ClassVar[Literal["Deployment", "Pod"]] = "Deployment"


class PodStatus(Struct, frozen=True):
    """A Pod's status."""

    phase: str = "Pending"


class Pod(Thing, frozen=True):
    """A Pod."""

    status: PodStatus = PodStatus()

    kind: ClassVar[Literal["Deployment", "Pod"]] = "Pod"

    @property
    def ended(self) -> bool:
        """Whether it will never send again."""
        return self.status.phase in _ENDED

    @property
    def going(self) -> bool:
        """Whether it was deleted, and still may send until it is gone."""
        return self.metadata.deletion_timestamp is not None

    def belongs_to(self, deployment: Deployment) -> bool:
        """Whether the Deployment's ReplicaSet made it: another's Pod may carry the same labels."""
        digest = (self.metadata.labels or {}).get("pod-template-hash")
        maker = f"{deployment.metadata.name}-{digest}"
        return any(
            one.controller and one.kind == "ReplicaSet" and one.name == maker for one in self.metadata.owner_references
        )


class Unavailable(Exception):
    """The API server does not answer, or not now; what was asked may or may not have been done."""


class Refused(Exception):
    """The API server will not do that: no permission, or an object that it does not allow."""


class Stale(Exception):
    """The object is not as it was seen: a precondition failed."""


class Unwanted(Exception):
    """What was to be written is not wanted any more: nothing was asked of the API server."""


class Gone(Exception):
    """There is no such object."""
