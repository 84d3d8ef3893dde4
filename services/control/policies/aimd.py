"""``aimd``: additive increase, multiplicative decrease, as TCP does per packet loss.

    violated:  u <- u x 0.5, and wait for a window that begins after the cut
    otherwise: u <- u + 0.01 C t

with t the signal period in seconds.  It finds any capacity, and finds it again and again: each round
ends in a violation.  Source of the rule: Chiu and Jain, Computer Networks 17 (1989).
"""

from msgspec import Struct

from schemas.domain import Domain
from services.control.observation import Observation
from services.control.policies.parameters import nameplate, parameters
from services.control.policy import Bounds, Proposal


class Parameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Gains."""

    decrease: float = 0.5
    """What a violation leaves of the limit."""
    increase: float = 0.01
    """Share of the capacity to rise in a second."""


class Memory(Struct, frozen=True, omit_defaults=True, gc=False):
    """Windows that start before ``quiet_until`` (ns) still see the traffic before the last cut."""

    quiet_until: int = 0


class Aimd:
    """See the module's text."""

    version = "aimd/1"
    memory_type = Memory

    def __init__(self, domain: Domain) -> None:
        """Read the domain's capacity and gains.

        Raises:
            ValueError: a parameter is unknown or of the wrong type.
        """
        gains = parameters(domain, Parameters)
        self._decrease = gains.decrease
        self._increase = gains.increase * nameplate(domain)

    def first(self) -> Memory:
        """Nothing is remembered at first."""
        return Memory()

    def propose(self, memory: Memory, seen: Observation, bounds: Bounds) -> Proposal:
        """Halve, or add a little."""
        if seen.end - seen.window < memory.quiet_until:
            return Proposal(bounds.limit, "waits until a window lies after the last cut", memory)
        if seen.violated:
            return Proposal(int(bounds.limit * self._decrease), "violation: halves", Memory(seen.end + seen.period))
        return Proposal(bounds.level + int(self._increase * seen.period / 1e9), "no violation: adds a little", memory)
