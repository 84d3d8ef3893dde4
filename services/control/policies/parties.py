"""``parties``: trial and error on the slack, with a step back where a trial made it worse.

    s < 0.05 twice: u <- u - 0.10 C
    s > 0.20 twice: u <- u + 0.02 C, and after five samples back again if s fell below 0.05 meanwhile

with s = 1 - r, r the worst ratio of jitter or P95 to its SLO.  Source of the rule: Chen, Delimitrou and
Martinez, PARTIES, ASPLOS 2019 (there every 0.5 s, over several resources).
"""

from msgspec import Struct

from schemas.domain import Domain
from services.control.observation import Observation
from services.control.policies.parameters import nameplate, parameters
from services.control.policy import Bounds, Proposal


class Parameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Thresholds of slack, and steps as shares of the capacity."""

    tight: float = 0.05
    loose: float = 0.20
    down: float = 0.10
    up: float = 0.02
    check: int = 5
    """Samples after a rise until it counts as good."""


class Memory(Struct, frozen=True, omit_defaults=True, gc=False):
    """What the last samples were, and what is on trial."""

    tight: int = 0
    """Samples in a row with too little slack."""
    loose: int = 0
    """Samples in a row with ample slack."""
    trial: int = 0
    """Samples left of the trial of a rise; 0 without one."""
    before: int = 0
    """The budget before the trial, kbit/s."""


class Parties:
    """See the module's text."""

    version = "parties/1"
    memory_type = Memory

    def __init__(self, domain: Domain) -> None:
        """Read the domain's capacity, thresholds and steps.

        Raises:
            ValueError: a parameter is unknown or of the wrong type.
        """
        told, capacity = parameters(domain, Parameters), nameplate(domain)
        self._tight, self._loose, self._check = told.tight, told.loose, told.check
        self._down, self._up = int(told.down * capacity), int(told.up * capacity)

    def first(self) -> Memory:
        """Nothing is remembered at first."""
        return Memory()

    def propose(self, memory: Memory, seen: Observation, bounds: Bounds) -> Proposal:
        """Try, look, keep or step back."""
        slack = -1.0 if seen.lost > 0 else 1 - (seen.stress or 0.0)
        tight = memory.tight + 1 if slack < self._tight else 0
        loose = memory.loose + 1 if slack > self._loose else 0
        if memory.trial and tight:
            return Proposal(min(memory.before, bounds.limit), "the last rise made it worse: back", Memory(tight=tight))
        if tight >= 2:
            return Proposal(bounds.limit - self._down, f"slack of {slack:.2f} twice: down", Memory())
        if memory.trial:
            return Proposal(bounds.level, "a rise is on trial", Memory(tight, loose, memory.trial - 1, memory.before))
        if loose >= 2:
            return Proposal(
                bounds.level + self._up, f"slack of {slack:.2f} twice: up", Memory(0, 0, self._check, bounds.limit)
            )
        return Proposal(bounds.level, f"slack of {slack:.2f}", Memory(tight, loose))
