"""Who takes part in ``sluice bench policies``: every policy, one fixed setting each, for all scenarios."""

from typing import Any

from msgspec import Struct

from services.control.observation import Observation
from services.control.policies import make_policy
from services.control.policy import Bounds, NoMemory, Policy, Proposal
from services.plant.scenario import Scenario
from services.plant.simulated.closed_loop import Delays


class Contender(Struct, frozen=True):
    """A policy with its setting."""

    name: str
    policy: str
    parameters: dict[str, Any] = {}
    unlagged: bool = False
    """Whether it sees and acts at once, as policies that read the host's own counters do."""

    @property
    def delays(self) -> Delays:
        """The loop's own time."""
        if self.unlagged:
            return Delays(period=0.25, window=1.0, lag=0.0, actuation=0.0, actuation_jitter=0.0)
        return Delays()


class Greedy:
    """A learner gone wrong: always asks for the maximum."""

    version = "greedy/1"
    memory_type = NoMemory

    def propose(self, memory: NoMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Everything, whatever was seen."""
        return Proposal(bounds.max, "everything", memory)


class Riser(Greedy):
    """Rises by what the shield allows, in each period, and leaves cuts to the shield."""

    version = "riser/1"

    def __init__(self, rise: float) -> None:
        """Take the shield's bound, as a share of [min, max] and per second."""
        self._rise = rise

    def propose(self, memory: NoMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Always at the bound."""
        return Proposal(bounds.limit + int(self._rise * (bounds.max - bounds.min)) + 1, "rises", memory)


CONTENDERS: tuple[Contender, ...] = (
    Contender("static 20 %", "static", {"share": 0.2}),
    Contender("static 40 %", "static", {"share": 0.4}),
    Contender("proportional", "proportional"),
    Contender("aimd", "aimd"),
    Contender("parties", "parties"),
    Contender("watermark", "watermark"),
    Contender("watermark, unlagged", "watermark", unlagged=True),
    Contender("heracles, nameplate", "heracles"),
    Contender("heracles, calibrated", "heracles", {"capacity": "97M"}),
    Contender("heracles, unlagged", "heracles", unlagged=True),
    Contender("learned", "learned"),
    Contender("greedy", "greedy"),
    Contender("riser", "riser"),
)
"""``greedy`` and ``riser`` show what the shield alone is worth: the one must not do more harm than the other."""


def policy_of(contender: Contender, scenario: Scenario) -> Policy:
    """The contender's policy for a scenario's factory.

    Raises:
        ValueError: a parameter is unknown or of the wrong type.
    """
    if contender.policy == "greedy":
        return Greedy()
    if contender.policy == "riser":
        return Riser(scenario.domain().shield.rise_per_second)
    return make_policy(scenario.domain(contender.policy, contender.parameters))
