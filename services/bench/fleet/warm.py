"""A new instance that begins with what another one learned, against one that begins afresh, on the simulated plant."""

from statistics import fmean

from msgspec import Struct
from msgspec.structs import replace

from schemas.domain import Domain
from schemas.inherited import Inherited
from schemas.messages import Decision, Sample, State
from services.control import Controller
from services.control.controller import NOTHING_REPORTED, Reported
from services.plant.scenario import SCENARIOS, Event
from services.plant.simulated.closed_loop import Delays, play
from services.plant.simulated.signal_profiles import PROFILES, SHIPPED

_DELAYS = Delays.of(PROFILES[SHIPPED])
_FIRST_S = 120.0
"""What is compared: the first two minutes."""


class WarmController(Controller):
    """Begins with what another instance learned."""

    def __init__(self, domain: Domain, inherited: Inherited) -> None:
        """Take the domain, and what it inherits."""
        super().__init__(domain)
        self._inherited = inherited

    def step(
        self,
        state: State | None,
        sample: Sample,
        fault: str | None = None,
        reported: Reported = NOTHING_REPORTED,
        inherited: Inherited | None = None,
    ) -> Decision:
        """One step; the first one inherits."""
        return super().step(state, sample, fault, reported, inherited or (None if state else self._inherited))


def take_over(decision: Decision, seq: int = 1) -> Inherited:
    """What another instance takes over from a decision."""
    return Inherited(decision.domain, seq, decision.state.policy, decision.state.memory)


class Start(Struct, frozen=True):
    """The first two minutes of an instance."""

    bad_seconds: int
    """Seconds with an SLO broken."""
    share: float
    """Goodput of best effort, as a share of the oracle's."""


class Comparison(Struct, frozen=True):
    """Both ways to begin, in one case."""

    case: str
    cold: Start
    warm: Start


CASES = ("the nameplate is true", "60 % of the nameplate is there", "no capacity is configured")


def compare_starts(case: str, seeds: int = 3) -> Comparison:
    """Play the first two minutes both ways; the other instance has lived through six minutes of the same."""
    scenario = SCENARIOS["steady"]
    domain = scenario.domain("learned")
    if case == CASES[1]:
        scenario = replace(
            scenario, events=(Event(at=0.0, capacity=6 * scenario.apps.capacity // 10), *scenario.events)
        )
    elif case == CASES[2]:
        domain = replace(domain, capacity=None)
    events = tuple(one for one in scenario.events if one.at < _FIRST_S)
    beginning = replace(scenario, seconds=int(_FIRST_S), events=events)
    starts: dict[bool, list[Start]] = {False: [], True: []}
    for seed in range(seeds):
        learned = take_over(play(scenario, domain, Controller(domain), delays=_DELAYS, seed=100 + seed).decisions[-1])
        for is_warm, found in starts.items():
            controller = WarmController(domain, learned) if is_warm else Controller(domain)
            score = play(beginning, domain, controller, delays=_DELAYS, seed=seed).score()
            found.append(Start(score.violation_seconds, score.share))
    cold, warm = (
        Start(sum(one.bad_seconds for one in found), fmean(one.share for one in found)) for found in starts.values()
    )
    return Comparison(case, cold, warm)
