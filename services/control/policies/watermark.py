"""``watermark``: one of two fixed shares, by whether the critical load is above a mark.

    u = 0.10 C  if L >= 0.80 C
    u = 0.40 C  otherwise

It looks at no latency, and leaves an idle link to 40 %.  Source of the rule: the network QoS of
Volcano's agent and of openEuler's oncn-bwm (there in eBPF, every 10 ms).
"""

from msgspec import Struct

from schemas.domain import Domain
from services.control.observation import Observation
from services.control.policies.parameters import nameplate, parameters
from services.control.policy import Bounds, Proposal


class Parameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Mark and shares, of the capacity."""

    mark: float = 0.80
    low: float = 0.10
    high: float = 0.40


class Memory(Struct, frozen=True, gc=False):
    """Nothing."""


class Watermark:
    """See the module's text."""

    version = "watermark/1"
    memory_type = Memory

    def __init__(self, domain: Domain) -> None:
        """Read the domain's capacity, mark and shares.

        Raises:
            ValueError: a parameter is unknown or of the wrong type.
        """
        told, capacity = parameters(domain, Parameters), nameplate(domain)
        self._mark, self._low, self._high = (int(share * capacity) for share in (told.mark, told.low, told.high))

    def first(self) -> Memory:
        """Nothing is remembered."""
        return Memory()

    def propose(self, memory: Memory, seen: Observation, bounds: Bounds) -> Proposal:
        """Choose."""
        if seen.critical_load is None:
            return Proposal(bounds.limit, "the critical load is not measured: keeps the limit", memory)
        if seen.critical_load >= self._mark:
            return Proposal(self._low, "critical load above the mark", memory)
        return Proposal(self._high, "critical load below the mark", memory)
