"""The cluster's nodes, as far as their labels tell which of them share a bottleneck."""

from collections.abc import Collection
from typing import ClassVar

from msgspec import Struct, structs

from services.kube.objects import KubeObject


class NodeMeta(Struct, frozen=True, rename="camel", kw_only=True):
    """A node's metadata: no namespace has it."""

    name: str
    uid: str
    resource_version: str
    namespace: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Node(KubeObject, frozen=True):
    """A node."""

    metadata: NodeMeta  # type: ignore[assignment]  # all that is read of it is the same

    kind: ClassVar[str] = "Node"
    api_version: ClassVar[str] = "v1"
    plural: ClassVar[str] = "nodes"

    @classmethod
    def path(cls, namespace: str, name: str | None = None) -> str:  # noqa: ARG003 - as of any other kind
        """The API's path of one node, or of all."""
        path = f"/api/{cls.api_version}/{cls.plural}"
        return path if name is None else f"{path}/{name}"

    def trim(self, keep: Collection[str] = ()) -> "Node":
        """Keep these labels alone."""
        kept = {key: value for key, value in (self.metadata.labels or {}).items() if key in keep}
        return structs.replace(self, metadata=structs.replace(self.metadata, labels=kept, annotations=None))
