"""``heracles``: what the critical load leaves of the link, less a margin.

    u = C - L - max(of_capacity C, of_load L)

C is the configured capacity, L the measured critical throughput.  It looks at no latency: it notices
neither a capacity that is configured wrong nor one that drops.  Source of the rule: Lo et al., Heracles,
ISCA 2015, network subcontroller (there every 2 s, on counters of the host itself).
"""

from schemas.domain import Domain
from schemas.settings import Settings, Share
from schemas.units import Rate
from services.control.observation import Observation
from services.control.policies.parameters import nameplate, read_parameters
from services.control.policy import Bounds, NoMemory, Proposal


class HeraclesParameters(Settings, frozen=True):
    """Capacity and margins; the larger of the two margins holds."""

    capacity: Rate | None = None
    """The measured capacity; without it the domain's, else all targets' maxima together."""
    of_capacity: Share = 0.05
    """Margin, as a share of the capacity."""
    of_load: Share = 0.10
    """Margin, as a share of the critical load."""


class Heracles:
    """Capacity minus critical load and margin."""

    version = "heracles/1"
    memory_type = NoMemory
    parameters_type = HeraclesParameters

    def __init__(self, domain: Domain) -> None:
        """Read the domain's capacity and margins.

        Raises:
            ValueError: a parameter is unknown, of the wrong type, or outside its range.
        """
        parameters = read_parameters(domain, HeraclesParameters)
        self._capacity = int(parameters.capacity or nameplate(domain))
        self._margin = parameters.of_capacity * self._capacity
        self._of_load = parameters.of_load

    def propose(self, memory: NoMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Subtract the critical load and the margin from the capacity."""
        load = seen.critical_throughput
        if load is None:
            return Proposal(bounds.limit, "the critical load is not measured: keeps the limit", memory)
        budget = self._capacity - load - max(self._margin, self._of_load * load)
        return Proposal(max(int(budget), 0), f"beside a critical load of {load} kbit/s", memory)
