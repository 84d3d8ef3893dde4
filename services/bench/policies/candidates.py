"""The candidates of ``sluice bench policies``: every policy, with one fixed setting for all scenarios."""

from typing import Any

from msgspec import Struct

from services.control.observation import Observation
from services.control.policies import make_policy
from services.control.policy import Bounds, NoMemory, Policy, Proposal
from services.plant.scenario import Scenario
from services.plant.simulated.closed_loop import Delays
from services.plant.simulated.signal_profiles import PROFILES, SHIPPED


class Candidate(Struct, frozen=True):
    """A policy with its setting."""

    name: str
    policy: str
    parameters: dict[str, Any] = {}
    unlagged: bool = False
    """Whether it has no delay, as policies that read the host's own counters have none."""

    def delays(self, signals: str = SHIPPED) -> Delays:
        """The delays of its control loop, by signals of that profile."""
        if self.unlagged:
            return Delays(period=0.25, window=1.0, lag=0.0, actuation=0.0, actuation_jitter=0.0)
        return Delays.of(PROFILES[signals])


class Greedy:
    """A broken learner that always proposes the maximum."""

    version = "greedy/1"
    memory_type = NoMemory

    def propose(self, memory: NoMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Propose the maximum."""
        return Proposal(bounds.max, "everything", memory)


class Riser(Greedy):
    """Rises by what the shield allows in each period, and never cuts."""

    version = "riser/1"

    def __init__(self, rise: float) -> None:
        """Take the shield's bound, as a share of [min, max] and per second."""
        self._rise = rise

    def propose(self, memory: NoMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Propose the largest rise that the shield allows."""
        return Proposal(bounds.limit + int(self._rise * (bounds.max - bounds.min)) + 1, "rises", memory)


CANDIDATES: tuple[Candidate, ...] = (
    Candidate("static 20 %", "static", {"share": 0.2}),
    Candidate("static 40 %", "static", {"share": 0.4}),
    Candidate("proportional", "proportional"),
    Candidate("aimd", "aimd"),
    Candidate("parties", "parties"),
    Candidate("watermark", "watermark"),
    Candidate("watermark, unlagged", "watermark", unlagged=True),
    Candidate("heracles, nameplate", "heracles"),
    Candidate("heracles, calibrated", "heracles", {"capacity": "97M"}),
    Candidate("heracles, unlagged", "heracles", unlagged=True),
    Candidate("learned", "learned"),
    Candidate("greedy", "greedy"),
    Candidate("riser", "riser"),
)
"""``greedy`` and ``riser`` show what the shield alone achieves: ``greedy`` must not do more harm."""


def policy_of(candidate: Candidate, scenario: Scenario) -> Policy:
    """Make the policy of a candidate for a scenario.

    Raises:
        ValueError: a parameter is unknown or of the wrong type.
    """
    if candidate.policy == "greedy":
        return Greedy()
    if candidate.policy == "riser":
        return Riser(scenario.domain().shield.rise_per_second)
    return make_policy(scenario.domain(candidate.policy, candidate.parameters))
