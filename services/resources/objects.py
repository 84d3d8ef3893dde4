"""The custom resource as the API server has it."""

from typing import Any, ClassVar

from schemas.definition import DefinitionSource
from schemas.resource import API_VERSION, KIND, PLURAL
from services.kube.objects import KubeObject, Meta

PAUSED = "sluice.dev/paused"
"""The annotation by which a person pauses a domain: any value but ``false``, such as a reason."""


class ResourceMeta(Meta, frozen=True, rename="camel"):
    """Metadata, with what orders resources and tells their changes apart."""

    generation: int = 0
    creation_timestamp: str = ""


class BandwidthDomain(KubeObject, frozen=True):
    """A domain described in the cluster."""

    metadata: ResourceMeta
    spec: Any = None
    """As JSON: it may describe no domain."""
    status: Any = None
    """As JSON: what was written last, perhaps by an earlier version."""

    kind: ClassVar[str] = KIND
    api_version: ClassVar[str] = API_VERSION
    plural: ClassVar[str] = PLURAL

    @classmethod
    def path(cls, namespace: str, name: str | None = None) -> str:
        """The API's path of one object, or of all in a namespace; the empty namespace is the whole cluster."""
        return super().path(namespace, name) if namespace else f"/apis/{cls.api_version}/{cls.plural}"

    @property
    def source(self) -> DefinitionSource:
        """Names it, as of this generation."""
        meta = self.metadata
        return DefinitionSource("resource", meta.namespace, meta.name, uid=meta.uid, generation=meta.generation)

    @property
    def pause(self) -> str | None:
        """Why a person paused the domain, and how to hand it back; None where it is not paused."""
        value = self.annotations.get(PAUSED, "false")
        if value == "false":
            return None
        meta = self.metadata
        command = f"kubectl -n {meta.namespace} annotate {self.kind.lower()} {meta.name} {PAUSED}-"
        return f"{PAUSED} on the {self.kind} says {value!r}; to hand it back: {command}"

    @property
    def is_going(self) -> bool:
        """Whether it was deleted; another client's finalizer may keep it for a while."""
        return self.metadata.deletion_timestamp is not None
