"""The definition of a domain as it travels on the bus: the same types as the configuration file has.

The actuator in charge publishes one whenever a domain's configuration changes, wherever it comes from.  Rates and
durations are written as in the file (``50M``, ``500ms``).
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from schemas.domain import Domain

Revision = Annotated[int, Meta(ge=1, le=2**63 - 1)]


class DefinitionSource(Struct, frozen=True, omit_defaults=True, gc=False):
    """Where a definition comes from."""

    kind: Literal["file", "resource"] = "file"
    """Whether it is the configuration file's, or a custom resource's."""
    namespace: str = ""
    """Of the resource."""
    name: str = ""
    """Of the resource; of a file, the domain's own name."""
    uid: str = ""
    """Of the resource."""
    generation: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """Of the resource, as it was read."""

    @property
    def key(self) -> tuple[str, str, str]:
        """The same for every generation of the same resource."""
        return self.kind, self.namespace, self.name

    def __str__(self) -> str:
        """For people."""
        return "the file" if self.kind == "file" else f"resource {self.namespace}/{self.name}"


class Definition(Struct, frozen=True, omit_defaults=True):
    """One domain's configuration, from this revision on."""

    domain: str
    """Name of the domain."""
    revision: Revision
    """Larger than that of every definition of this domain before.  Revision 0 is a service's own file."""
    source: DefinitionSource
    configuration: Domain
    """The whole of it; of a removed domain, the last."""
    removed: bool = False
    """Whether the domain is no longer controlled: its targets are restored."""
    without_critical: bool = False
    """Of an instance: whether no Pod of its critical workloads is there. Nothing is measured then, and the fail-safe
    limit holds by design."""
    v: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] = 1

    @property
    def id(self) -> str:
        """Deterministic: a definition that is published again has the same id."""
        return f"{self.domain}:{self.revision}"
