"""A run's reaction times: from the true crossing of the SLO to the limit in force."""

from collections.abc import Mapping, Sequence

from services.plant.harness.bandwidth_agent import EnforcedLimit
from services.plant.harness.run import ScenarioRun
from services.plant.interface import Counters, Pod, Second
from services.plant.scenario import SCENARIOS
from services.plant.topology import TELEMETRY

S = 10**9
SCENARIO = SCENARIOS["steady"]
SAFE = SCENARIO.phases()[0].budget
POD = "telemetry-upload-0"


class Plant:
    """A plant whose crossings the test sets; it has a new limit before the agent reports it."""

    def __init__(self, limit: int) -> None:
        """Start under a limit."""
        self.pods: Sequence[Pod] = [Pod(POD, TELEMETRY)]
        self.limits: Mapping[str, int | None] = {POD: limit}
        self.crossed: list[int] = []

    def set_limit(self, pod: str, kbit: int | None) -> None:
        """Keep the limit."""
        self.limits = {pod: kbit}

    def set_load(self, workload: str, kbit: int | None) -> None:
        """Not used here."""
        raise NotImplementedError

    def set_capacity(self, kbit: int) -> None:
        """Not used here."""
        raise NotImplementedError

    def read_counters(self) -> Counters:
        """Not used here."""
        raise NotImplementedError

    def take_seconds(self) -> Sequence[Second]:
        """Return no seconds."""
        return []

    def take_crossings(self) -> Sequence[int]:
        """Return the crossings that the test set."""
        found, self.crossed = self.crossed, []
        return found


def _run(limit: int) -> tuple[Plant, ScenarioRun]:
    plant = Plant(limit)
    run = ScenarioRun("x", SCENARIO, SCENARIO.domain(), plant, controlled=True)
    run.begin(0)
    return plant, run


def _enforce(plant: Plant, run: ScenarioRun, at: int, kbit: int) -> None:
    plant.set_limit(POD, kbit)
    run.on_limit_change(EnforcedLimit(at, TELEMETRY, POD, kbit, at))


def test_a_reaction_faster_than_the_observation_is_counted() -> None:
    """If the crossing and the safe limit are seen at the same time, the crossing happened under the old limit."""
    plant, run = _run(SAFE + 1_000)
    plant.crossed = [5 * S]
    _enforce(plant, run, 5 * S + S // 5, SAFE // 2)
    (reaction,) = run.reactions()
    assert (reaction.crossed, reaction.in_force) == (5 * S, 5 * S + S // 5)
    assert run.reactions(since=6.0) == ()


def test_a_crossing_under_a_safe_limit_needs_no_reaction() -> None:
    """Nor is a lower limit a reaction while it is still above the safe one."""
    plant, run = _run(SAFE)
    plant.crossed = [S]
    _enforce(plant, run, 2 * S, SAFE // 2)
    assert run.reactions() == ()
    plant, run = _run(SAFE + 2_000)
    plant.crossed = [S]
    run.observe()
    _enforce(plant, run, 2 * S, SAFE + 1_000)
    assert run.reactions() == ()
    _enforce(plant, run, 3 * S, SAFE)
    assert [one.in_force - one.crossed for one in run.reactions()] == [2 * S]
