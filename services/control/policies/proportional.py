"""``proportional``: cut in proportion to the violation, raise slowly with the slack.

    violated:  u <- u (1 - min(k_down (r - 1), cut_max))
    otherwise: u <- u + k_up (1 - r) (max - min)

with r the worst ratio of jitter or P95 to its SLO and ``k_up`` far below ``k_down``.  A loss cuts by
``cut_max``.  One violation cuts once: until a window lies wholly after the cut, the measurement
still shows the traffic from before it, and says nothing new.

This is the controller that the factory started from; it remembers nothing of where the knee is.
"""

from typing import Any

import msgspec
from msgspec import Struct

from schemas.domain import Domain
from services.control.observe import Observation
from services.control.policy import Bounds, Proposal


class Parameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Gains, without a unit."""

    k_down: float = 0.5
    cut_max: float = 0.5
    k_up: float = 0.02


class Memory(Struct, frozen=True, omit_defaults=True):
    """Windows that start before ``quiet_until`` (ns) still see the traffic before the last cut."""

    quiet_until: int = 0


class Proportional:
    """See the module's text."""

    version = "proportional/1"
    memory_type = Memory

    def __init__(self, parameters: Parameters) -> None:
        """Take checked parameters."""
        self._gain = parameters

    @classmethod
    def configured(cls, parameters: dict[str, Any]) -> "Proportional":
        """Read the parameters from a configuration.

        Raises:
            ValueError: a parameter is unknown or of the wrong type.
        """
        return cls(msgspec.convert(parameters, Parameters))

    def first(self, domain: Domain) -> Memory:
        """Nothing is remembered at first."""
        return Memory()

    def propose(self, domain: Domain, memory: Memory, seen: Observation, bounds: Bounds) -> Proposal:
        """Cut fast, raise slow."""
        stress = seen.stress or 0.0
        if seen.end - seen.window < memory.quiet_until:
            return Proposal(bounds.limit, "waits until a window lies after the last cut", memory)
        if seen.violated:
            share = self._gain.cut_max if seen.lost > 0 else min(self._gain.k_down * (stress - 1), self._gain.cut_max)
            budget = int(bounds.limit * (1 - share))
            return Proposal(
                budget, f"latency at {stress:.2f} of its limit: cut by {share:.0%}", Memory(seen.end + seen.period)
            )
        budget = bounds.limit + int(self._gain.k_up * (1 - stress) * (bounds.max - bounds.min))
        return Proposal(budget, f"latency at {stress:.2f} of its limit: room to rise", memory)
