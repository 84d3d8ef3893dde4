"""``static``: a fixed share of the capacity, whatever happens.

    u = share C

What an operator sets by hand.  Safe only as far as the share was chosen for the worst hour.
"""

from msgspec import Struct

from schemas.domain import Domain
from services.control.observation import Observation
from services.control.policies.parameters import nameplate, parameters
from services.control.policy import Bounds, Proposal


class Parameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The share."""

    share: float = 0.2


class Memory(Struct, frozen=True, gc=False):
    """Nothing."""


class Static:
    """See the module's text."""

    version = "static/1"
    memory_type = Memory

    def __init__(self, domain: Domain) -> None:
        """Read the domain's capacity and share.

        Raises:
            ValueError: a parameter is unknown or of the wrong type.
        """
        self._budget = int(parameters(domain, Parameters).share * nameplate(domain))

    def first(self) -> Memory:
        """Nothing is remembered."""
        return Memory()

    def propose(self, memory: Memory, seen: Observation, bounds: Bounds) -> Proposal:
        """Always the same."""
        return Proposal(self._budget, "a fixed share of the capacity", memory)
