"""The candidates of ``sluice bench policies``: every policy, with one fixed setting for all scenarios."""

from typing import Any

from msgspec import Struct

from services.bench.policies.case import Prepared
from services.control import Controller
from services.control.observation import Observation
from services.control.policy import Bounds, NoMemory, Proposal
from services.plant.simulated.closed_loop import Delays
from services.plant.simulated.signal_profiles import SHIPPED


class Candidate(Struct, frozen=True):
    """A policy with its setting."""

    name: str
    policy: str
    parameters: dict[str, Any] = {}
    unlagged: bool = False
    """Whether it has no delay, as policies that read the host's own counters have none."""
    reference: bool = False
    """Whether it plays the shipped scenarios only: it is no rival, but shows what a setting or the shield does."""

    def delays(self, prepared: Prepared, signals: str = SHIPPED) -> Delays:
        """The delays of its control loop, by signals of that profile."""
        if self.unlagged:
            return Delays(period=0.25, window=1.0, lag=0.0, actuation=0.0, actuation_jitter=0.0)
        return prepared.delays(signals)


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
    Candidate("static 20 %", "static", {"share": 0.2}, reference=True),
    Candidate("static 40 %", "static", {"share": 0.4}),
    Candidate("proportional", "proportional"),
    Candidate("aimd", "aimd"),
    Candidate("parties", "parties"),
    Candidate("watermark", "watermark"),
    Candidate("watermark, unlagged", "watermark", unlagged=True, reference=True),
    Candidate("heracles, nameplate", "heracles"),
    Candidate("heracles, calibrated", "heracles", {"capacity": "97M"}, reference=True),
    Candidate("heracles, unlagged", "heracles", unlagged=True, reference=True),
    Candidate("cake-autorate", "cake-autorate"),
    Candidate("sqm-autorate", "sqm-autorate"),
    Candidate("proteus", "proteus"),
    Candidate("bbr", "bbr"),
    Candidate("bbr, 2 % probes", "bbr", {"probe": 0.02}),
    Candidate("learned", "learned"),
    Candidate("neural", "neural", reference=True),
    Candidate("greedy", "greedy", reference=True),
    Candidate("riser", "riser", reference=True),
)
"""``greedy`` and ``riser`` show what the shield alone achieves: ``greedy`` must not do more harm."""


def controller_of(candidate: Candidate, prepared: Prepared) -> Controller:
    """Make a candidate's controller for a run.

    Raises:
        ValueError: a parameter is unknown or of the wrong type.
    """
    domain = prepared.domain()
    if candidate.policy == "greedy":
        return Controller(domain, Greedy())
    if candidate.policy == "riser":
        return Controller(domain, Riser(domain.shield.rise_per_second))
    return Controller(prepared.domain(candidate.policy, candidate.parameters))
