"""Second station of a step: the interface that every policy has.

A policy proposes one number, the domain's whole best-effort budget.  It remembers what it likes in a
frozen struct of its own, which travels in the decision as JSON.  It may be wrong, slow or broken: the
shield has the last word, and ``proportional`` stands in when it raises an error or answers nonsense.
"""

from typing import Any, Protocol

from msgspec import Struct

from services.control.observation import Observation


class Bounds(Struct, frozen=True, gc=False):
    """The domain's budget, kbit/s: the sums of its targets' limits."""

    min: int
    max: int
    fail_safe: int
    limit: int
    """In force now."""
    level: int
    """``limit`` and the rises that the deadband keeps back: what a policy that rises by steps adds to."""
    full: bool
    """Whether the targets that want more fill their limits: only then is the load what is allowed."""
    hungry: bool
    """Whether one of those may be given more, too: only then is a higher budget a higher load."""
    pods: float | None = 1.0
    """How many times these limits may be sent: above 1 where some are each pod's; None where that is not known."""


class Proposal(Struct, frozen=True, gc=False):
    """A policy's answer."""

    budget: int
    """Best-effort budget of the whole domain, kbit/s."""
    reason: str
    """In words."""
    memory: Any
    """What to remember for the next step: an instance of the policy's ``Memory``."""


class Policy(Protocol):
    """A rule that turns observations of one domain into a budget."""

    @property
    def version(self) -> str:
        """Name and version, ``proportional/1``: memory of another version is not read."""

    @property
    def memory_type(self) -> type[Any]:
        """The frozen struct that the policy remembers in."""

    def first(self) -> Any:
        """The memory before the first sample."""

    def propose(self, memory: Any, seen: Observation, bounds: Bounds) -> Proposal:
        """Answer one observation that has data."""
