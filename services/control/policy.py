"""The interface that every policy has.

A policy proposes one number: the best-effort budget of the whole domain.  What it remembers is a frozen
struct of its own, which travels in the decision as JSON.  A policy may be wrong, slow or broken: the
shield has the last word, and ``proportional`` replaces it when a policy raises or its answer cannot be used.
"""

from typing import Any, Protocol, runtime_checkable

from msgspec import Struct

from schemas.domain import Domain
from schemas.link import LinkEstimate
from schemas.settings import Settings
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
    """How many times these limits may be sent: above 1 where some are per pod; None where that is not known."""

    def for_all_pods(self, pods: float) -> "Bounds":
        """The bounds of ``pods`` pods together, where the limits are those of one."""
        least, most, fail_safe, limit, level = (
            int(one * pods) for one in (self.min, self.max, self.fail_safe, self.limit, self.level)
        )
        return Bounds(least, most, fail_safe, limit, level, self.full, self.hungry, pods)


class Proposal(Struct, frozen=True, gc=False):
    """A policy's answer."""

    budget: int
    """Best-effort budget of the whole domain, kbit/s."""
    reason: str
    """In words."""
    memory: Any
    """What to remember for the next step: an instance of the policy's ``memory_type``."""
    link: LinkEstimate | None = None
    """What it knows of the bottleneck, where it keeps such an estimate."""


class NoMemory(Struct, frozen=True, gc=False):
    """The memory of a policy that needs none."""


class CutMemory(Struct, frozen=True, omit_defaults=True, gc=False):
    """The memory of a policy that waits after each cut.

    Windows that start before ``quiet_until`` (ns) still see the traffic before the last cut.
    """

    quiet_until: int = 0


class Policy(Protocol):
    """A rule that turns observations of one domain into a budget."""

    @property
    def version(self) -> str:
        """Name and version, ``proportional/1``: memory of another version is not read."""

    @property
    def memory_type(self) -> type[Any]:
        """The frozen struct that the policy remembers in; without arguments it is the memory of a new domain."""

    def propose(self, memory: Any, seen: Observation, bounds: Bounds) -> Proposal:
        """Answer one observation that has data."""


@runtime_checkable
class InheritingPolicy(Policy, Protocol):
    """A policy of which a new instance can begin with what another one of the same definition has learned."""

    def inherit(self, memory: Any, ratio: float, end: int) -> Any:
        """The memory to begin with at ``end``, ns, from another's, whose capacity is this one's over ``ratio``."""


class PolicyType(Protocol):
    """A policy's class, as the registry holds it.  It raises ValueError for a parameter that it does not take."""

    @property
    def version(self) -> str:
        """Name and version."""

    @property
    def parameters_type(self) -> type[Settings]:
        """The policy's parameters: ``schemas.reference.describe`` lists them."""

    def __call__(self, domain: Domain) -> Policy:
        """Make the policy ready for a domain."""
