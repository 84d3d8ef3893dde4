"""Second station of a step: the interface that every policy has.

A policy proposes one number, the domain's whole best-effort budget.  It remembers what it likes in a
frozen struct of its own, which travels in the decision.  It may be wrong, slow or broken: the shield
has the last word, and ``proportional`` stands in when it raises an error.
"""

from typing import Any, Protocol

from msgspec import Struct

from schemas.domain import Domain
from services.control.observe import Observation


class Bounds(Struct, frozen=True):
    """The domain's budget, kbit/s: the sums of its targets' limits."""

    min: int
    max: int
    fail_safe: int
    limit: int
    """In force now."""


class Proposal(Struct, frozen=True):
    """A policy's answer."""

    budget: int
    """Best-effort budget of the whole domain, kbit/s."""
    reason: str
    """In words."""
    memory: Any
    """What to remember for the next step: an instance of the policy's ``Memory``."""


class Policy(Protocol):
    """A rule that turns observations into a budget."""

    @property
    def version(self) -> str:
        """Name and version, ``proportional/1``: memory of another version is not read."""

    @property
    def memory_type(self) -> type[Any]:
        """The struct that the policy remembers in."""

    def first(self, domain: Domain) -> Any:
        """The memory before the first sample."""

    def propose(self, domain: Domain, memory: Any, seen: Observation, bounds: Bounds) -> Proposal:
        """Answer one observation that has data."""
