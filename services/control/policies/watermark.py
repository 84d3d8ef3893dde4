"""``watermark``: one of two fixed shares, chosen by whether the critical load is above a mark.

    u = low C   if L >= mark C
    u = high C  otherwise

with C the capacity and L the critical load.  It looks at no latency, and uses only ``high`` of an idle
link.  Source of the rule: the network QoS of Volcano's agent and of openEuler's oncn-bwm (there in eBPF,
every 10 ms).
"""

from schemas.domain import Domain
from schemas.settings import Settings, Share
from services.control.observation import Observation
from services.control.policies.parameters import nameplate, read_parameters
from services.control.policy import Bounds, NoMemory, Proposal


class WatermarkParameters(Settings, frozen=True):
    """The mark and the two budgets, as shares of the capacity."""

    mark: Share = 0.80
    """Critical load from which the low budget holds."""
    low: Share = 0.10
    """Budget at or above the mark."""
    high: Share = 0.40
    """Budget below the mark."""


class Watermark:
    """A low or a high budget, by the critical load."""

    version = "watermark/1"
    memory_type = NoMemory
    parameters_type = WatermarkParameters

    def __init__(self, domain: Domain) -> None:
        """Read the domain's capacity, mark and shares.

        Raises:
            ValueError: a parameter is unknown, of the wrong type, or outside its range.
        """
        shares, capacity = read_parameters(domain, WatermarkParameters), nameplate(domain)
        self._mark, self._low, self._high = (int(one * capacity) for one in (shares.mark, shares.low, shares.high))

    def propose(self, memory: NoMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Pick the watermark's share."""
        load = seen.critical_throughput
        if load is None:
            return Proposal(bounds.limit, "the critical load is not measured: keeps the limit", memory)
        if load >= self._mark:
            return Proposal(self._low, "critical load above the mark", memory)
        return Proposal(self._high, "critical load below the mark", memory)
