"""``parties``: trial and error on the slack, with a step back when a trial made it worse.

    s < tight twice: u <- u - down C
    s > loose twice: u <- u + up C, and back within ``check`` samples if s falls below ``tight`` meanwhile

with C the capacity and s = 1 - r, r the worst ratio of jitter or P95 to its SLO.  Source of the rule: Chen,
Delimitrou and Martinez, PARTIES, ASPLOS 2019 (there every 0.5 s, over several resources).
"""

from typing import Annotated

from msgspec import Struct

from schemas.domain import Domain
from schemas.settings import Settings, Share, between
from services.control.observation import Observation
from services.control.policies.parameters import nameplate, read_parameters
from services.control.policy import Bounds, Proposal


class PartiesParameters(Settings, frozen=True):
    """Thresholds of the slack, and steps."""

    tight: Share = 0.05
    """Slack below which the budget has to fall."""
    loose: Share = 0.20
    """Slack above which the budget may rise."""
    down: Share = 0.10
    """Step down, as a share of the capacity."""
    up: Share = 0.02
    """Step up, as a share of the capacity."""
    check: Annotated[int, between(0, 1000, unit="samples")] = 5
    """How long a rise is on trial."""


class PartiesMemory(Struct, frozen=True, omit_defaults=True, gc=False):
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
    """Trial and error."""

    version = "parties/1"
    memory_type = PartiesMemory
    parameters_type = PartiesParameters

    def __init__(self, domain: Domain) -> None:
        """Read the domain's capacity, thresholds and steps.

        Raises:
            ValueError: a parameter is unknown, of the wrong type, or outside its range.
        """
        parameters, capacity = read_parameters(domain, PartiesParameters), nameplate(domain)
        self._tight, self._loose, self._check = parameters.tight, parameters.loose, parameters.check
        self._down, self._up = int(parameters.down * capacity), int(parameters.up * capacity)

    def propose(self, memory: PartiesMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Step up or down, hold a trial, or step back."""
        slack = -1.0 if seen.lost > 0 else 1 - (seen.stress or 0.0)
        tight = memory.tight + 1 if slack < self._tight else 0
        loose = memory.loose + 1 if slack > self._loose else 0
        if memory.trial and tight:
            back = min(memory.before, bounds.limit)
            return Proposal(back, "the last rise made it worse: back", PartiesMemory(tight=tight))
        if tight >= 2:
            return Proposal(bounds.limit - self._down, f"slack of {slack:.2f} twice: down", PartiesMemory())
        if memory.trial:
            trial = PartiesMemory(tight, loose, memory.trial - 1, memory.before)
            return Proposal(bounds.level, "a rise is on trial", trial)
        if loose >= 2:
            trial = PartiesMemory(trial=self._check, before=bounds.limit)
            return Proposal(bounds.level + self._up, f"slack of {slack:.2f} twice: up", trial)
        return Proposal(bounds.level, f"slack of {slack:.2f}", PartiesMemory(tight, loose))
