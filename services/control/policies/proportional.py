"""``proportional``: cut in proportion to the violation, raise slowly with the slack.

    violated:  u <- u (1 - min(k_down (r - 1), cut_max))
    otherwise: u <- u + k_up (1 - r) (max - min) t

with r the worst ratio of jitter or P95 to its SLO, t the signal period in seconds, and ``k_up`` far
below ``k_down``.  A loss cuts by ``cut_max``.  One violation cuts once: until a window lies wholly
after the cut, the measurement still shows the traffic from before it, and says nothing new.

This is the asymmetric proportional controller that the robot factory started from; it remembers
nothing of where the knee is.
"""

from msgspec import Struct

from schemas.domain import Domain
from services.control.observation import Observation
from services.control.policies.parameters import parameters
from services.control.policy import Bounds, Proposal


class Parameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Gains."""

    k_down: float = 0.5
    """Share of the limit to cut for each whole SLO above the SLO."""
    cut_max: float = 0.5
    """Largest share to cut at once."""
    k_up: float = 0.03
    """Share of [min, max] to rise in a second with an idle network."""


class Memory(Struct, frozen=True, omit_defaults=True, gc=False):
    """Windows that start before ``quiet_until`` (ns) still see the traffic before the last cut."""

    quiet_until: int = 0


class Proportional:
    """See the module's text."""

    version = "proportional/1"
    memory_type = Memory

    def __init__(self, domain: Domain | None = None) -> None:
        """Read the domain's gains; the defaults without a domain.

        Raises:
            ValueError: a parameter is unknown or of the wrong type.
        """
        gains = parameters(domain, Parameters) if domain else Parameters()
        self._k_down, self._cut_max, self._k_up = gains.k_down, gains.cut_max, gains.k_up

    def first(self) -> Memory:
        """Nothing is remembered at first."""
        return Memory()

    def propose(self, memory: Memory, seen: Observation, bounds: Bounds) -> Proposal:
        """Cut fast, raise slow."""
        stress = seen.stress or 0.0
        if seen.end - seen.window < memory.quiet_until:
            return Proposal(bounds.limit, "waits until a window lies after the last cut", memory)
        if seen.violated:
            share = self._cut_max if seen.lost > 0 else min(self._k_down * (stress - 1), self._cut_max)
            budget = int(bounds.limit * (1 - share))
            return Proposal(
                budget, f"latency at {stress:.2f} of its limit: cut by {share:.0%}", Memory(seen.end + seen.period)
            )
        rise = self._k_up * (1 - stress) * (bounds.max - bounds.min) * (seen.period / 1e9)
        return Proposal(bounds.level + int(rise), f"latency at {stress:.2f} of its limit: room to rise", memory)
