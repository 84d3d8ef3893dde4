"""``proportional``: cut in proportion to the violation, raise slowly with the slack.

    violated:  u <- u (1 - min(k_down (r - 1), cut_max))
    otherwise: u <- u + k_up (1 - r) (max - min) t

with r the worst ratio of jitter or P95 to its SLO, t the signal period in seconds, and ``k_up`` far
below ``k_down``.  A loss cuts by ``cut_max``.  One violation cuts once: until a window begins after the
cut, the measurement still shows the traffic from before it.

This is the asymmetric proportional controller that the robot factory started from.  It does not remember
at which load the link saturates.
"""

from typing import Annotated

from schemas.domain import Domain
from schemas.settings import Settings, Share, between
from services.control.observation import Observation
from services.control.policies.parameters import read_parameters
from services.control.policy import Bounds, CutMemory, Proposal


class ProportionalParameters(Settings, frozen=True):
    """The gains."""

    k_down: Annotated[float, between(0, 100)] = 0.5
    """Share of the limit to cut for each whole SLO above the SLO."""
    cut_max: Share = 0.5
    """Largest share of the limit to cut at once."""
    k_up: Share = 0.03
    """Rise in a second with an idle network, as a share of [min, max]."""


class Proportional:
    """Asymmetric proportional control."""

    version = "proportional/1"
    memory_type = CutMemory
    parameters_type = ProportionalParameters

    def __init__(self, domain: Domain | None = None) -> None:
        """Read the domain's gains; without a domain take the defaults.

        Raises:
            ValueError: a parameter is unknown, of the wrong type, or outside its range.
        """
        gains = read_parameters(domain, ProportionalParameters) if domain else ProportionalParameters()
        self._k_down, self._cut_max, self._k_up = gains.k_down, gains.cut_max, gains.k_up

    def propose(self, memory: CutMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Cut fast, raise slowly."""
        stress = seen.stress or 0.0
        if seen.end - seen.window < memory.quiet_until:
            return Proposal(bounds.limit, "waits until a window lies after the last cut", memory)
        if seen.violated:
            share = self._cut_max if seen.lost > 0 else min(self._k_down * (stress - 1), self._cut_max)
            budget = int(bounds.limit * (1 - share))
            return Proposal(
                budget, f"latency at {stress:.2f} of its limit: cut by {share:.0%}", CutMemory(seen.end + seen.period)
            )
        rise = self._k_up * (1 - stress) * (bounds.max - bounds.min) * (seen.period / 1e9)
        return Proposal(bounds.level + int(rise), f"latency at {stress:.2f} of its limit: room to rise", memory)
