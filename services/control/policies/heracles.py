"""``heracles``: what the link has left beside the critical load, less a margin.

    u = C - L - max(0.05 C, 0.10 L)

C is the capacity as it was told, L the critical throughput as it was measured.  It looks at no latency:
a capacity that is told wrong, or drops, stays unseen.  Source of the rule: Lo et al., Heracles, ISCA
2015, network subcontroller (there every 2 s, on counters of the host itself).
"""

from msgspec import Struct

from schemas.domain import Domain
from schemas.units import Rate
from services.control.observation import Observation
from services.control.policies.parameters import nameplate, parameters
from services.control.policy import Bounds, Proposal


class Parameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Capacity and margins."""

    capacity: Rate | None = None
    """The capacity as somebody measured it; None goes by the nameplate."""
    of_capacity: float = 0.05
    of_load: float = 0.10


class Memory(Struct, frozen=True, gc=False):
    """Nothing."""


class Heracles:
    """See the module's text."""

    version = "heracles/1"
    memory_type = Memory

    def __init__(self, domain: Domain) -> None:
        """Read the domain's capacity and margins.

        Raises:
            ValueError: a parameter is unknown or of the wrong type.
        """
        told = parameters(domain, Parameters)
        self._capacity = int(told.capacity or nameplate(domain))
        self._margin = told.of_capacity * self._capacity
        self._of_load = told.of_load

    def first(self) -> Memory:
        """Nothing is remembered."""
        return Memory()

    def propose(self, memory: Memory, seen: Observation, bounds: Bounds) -> Proposal:
        """Subtract."""
        load = seen.critical_load
        if load is None:
            return Proposal(bounds.limit, "the critical load is not measured: keeps the limit", memory)
        budget = self._capacity - load - max(self._margin, self._of_load * load)
        return Proposal(max(int(budget), 0), f"beside a critical load of {load} kbit/s", memory)
