"""``static``: a fixed share of the capacity, whatever happens.

    u = share C

What an operator sets by hand.  It is safe only if the share was chosen for the worst hour.
"""

from schemas.domain import Domain
from schemas.settings import Settings, Share
from services.control.observation import Observation
from services.control.policies.parameters import nameplate, read_parameters
from services.control.policy import Bounds, NoMemory, Proposal


class StaticParameters(Settings, frozen=True):
    """The share."""

    share: Share = 0.2
    """Budget, as a share of the capacity."""


class Static:
    """A constant budget."""

    version = "static/1"
    memory_type = NoMemory
    parameters_type = StaticParameters

    def __init__(self, domain: Domain) -> None:
        """Read the domain's capacity and share.

        Raises:
            ValueError: a parameter is unknown, of the wrong type, or outside its range.
        """
        self._budget = int(read_parameters(domain, StaticParameters).share * nameplate(domain))

    def propose(self, memory: NoMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """The same budget for every sample."""
        return Proposal(self._budget, "a fixed share of the capacity", memory)
