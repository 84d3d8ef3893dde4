"""``aimd``: additive increase, multiplicative decrease, as TCP does on packet loss.

    violated:  u <- u x decrease, and wait for a window that begins after the cut
    otherwise: u <- u + increase C t

with C the capacity and t the signal period in seconds.  It probes for the capacity again and again, and
each round ends in a violation.  Source of the rule: Chiu and Jain, Computer Networks 17 (1989).
"""

from schemas.domain import Domain
from schemas.settings import Settings, Share
from services.control.observation import Observation
from services.control.policies.parameters import nameplate, read_parameters
from services.control.policy import Bounds, CutMemory, Proposal


class AimdParameters(Settings, frozen=True):
    """The two gains."""

    decrease: Share = 0.5
    """Share of the limit that a violation leaves."""
    increase: Share = 0.01
    """Rise in a second, as a share of the capacity."""


class Aimd:
    """Additive increase, multiplicative decrease."""

    version = "aimd/1"
    memory_type = CutMemory
    parameters_type = AimdParameters

    def __init__(self, domain: Domain) -> None:
        """Read the domain's capacity and gains.

        Raises:
            ValueError: a parameter is unknown, of the wrong type, or outside its range.
        """
        gains = read_parameters(domain, AimdParameters)
        self._decrease = gains.decrease
        self._increase = gains.increase * nameplate(domain)

    def propose(self, memory: CutMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Cut by a factor on a violation; otherwise raise by a constant."""
        if seen.end - seen.window < memory.quiet_until:
            return Proposal(bounds.limit, "waits until a window lies after the last cut", memory)
        if seen.violated:
            return Proposal(int(bounds.limit * self._decrease), "violation: halves", CutMemory(seen.end + seen.period))
        return Proposal(bounds.level + int(self._increase * seen.period / 1e9), "no violation: adds a little", memory)
