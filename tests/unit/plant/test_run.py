"""A run's reactions: from the true crossing to the limit that the agent put in force."""

from collections.abc import Mapping, Sequence

from services.plant.harness.bandwidth_agent import Enforced
from services.plant.harness.run import Run
from services.plant.interface import Counters, Pod, Second
from services.plant.scenario import SCENARIOS
from services.plant.topology import TELEMETRY

S = 10**9
SCENARIO = SCENARIOS["steady"]
SAFE = SCENARIO.phases()[0].budget
POD = "telemetry-upload-0"


class Plant:
    """Crosses the SLO when told; a limit is its own as soon as it is set, before anybody tells of it."""

    def __init__(self, limit: int) -> None:
        """Begin under a limit."""
        self.pods: Sequence[Pod] = [Pod(POD, TELEMETRY)]
        self.limits: Mapping[str, int | None] = {POD: limit}
        self.crossed: list[int] = []

    def set_limit(self, pod: str, kbit: int | None) -> None:
        """Set it."""
        self.limits = {pod: kbit}

    def set_load(self, workload: str, kbit: int | None) -> None:
        """Nobody asks."""
        raise NotImplementedError

    def set_capacity(self, kbit: int) -> None:
        """Nobody asks."""
        raise NotImplementedError

    def read_counters(self) -> Counters:
        """Nobody asks."""
        raise NotImplementedError

    def take_seconds(self) -> Sequence[Second]:
        """None."""
        return []

    def take_crossings(self) -> Sequence[int]:
        """What it was told."""
        found, self.crossed = self.crossed, []
        return found


def _run(limit: int) -> tuple[Plant, Run]:
    plant = Plant(limit)
    run = Run("x", SCENARIO, SCENARIO.domain(), plant, controlled=True)
    run.begin(0)
    return plant, run


def _enforce(plant: Plant, run: Run, at: int, kbit: int) -> None:
    plant.set_limit(POD, kbit)
    run.enforced(Enforced(at, TELEMETRY, POD, kbit, at))


def test_an_answer_faster_than_anybody_looks_is_a_reaction() -> None:
    """The crossing and the safe limit are both news at the same moment: it was crossed under the old limit."""
    plant, run = _run(SAFE + 1_000)
    plant.crossed = [5 * S]
    _enforce(plant, run, 5 * S + S // 5, SAFE // 2)
    (reaction,) = run.reactions()
    assert (reaction.crossed, reaction.in_force) == (5 * S, 5 * S + S // 5)
    assert run.reactions(since=6.0) == ()


def test_a_crossing_under_a_safe_limit_is_nobodys_to_answer() -> None:
    """A burst shorter than the loop; and a limit that is lower but not low enough answers nothing yet."""
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
