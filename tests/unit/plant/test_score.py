"""The score: which seconds are bad, their cause, and what the oracle would have delivered."""

import msgspec
import pytest

from services.plant.interface import CriticalSecond, Second
from services.plant.scenario import Event, Scenario
from services.plant.score import ControlEffort, Reaction, is_bad, score, spread
from services.plant.topology import ROBOT, SCANNER, TELEMETRY

S = 10**9
FINE = CriticalSecond(p50=0.0005, p95=0.001, jitter=0.0004, observations=250, lost=0, load=25_000, throughput=25_000)
QUIET = Scenario(name="quiet", text="", seconds=20)
DOMAIN = QUIET.domain()


def second(at: float, robot: CriticalSecond = FINE, goodput: int = 30_000, invalid: str | None = None) -> Second:
    """One second of truth."""
    return Second(round(at * S), {ROBOT: robot, SCANNER: FINE}, {TELEMETRY: goodput}, {}, 100_000, invalid)


@pytest.mark.parametrize(
    "wrong",
    [{"p95": 0.0021}, {"jitter": 0.0021}, {"lost": 1}, {"p95": None, "jitter": None, "observations": 0}],
    ids=["p95", "jitter", "loss", "nothing came back"],
)
def test_each_broken_objective_makes_a_second_bad(wrong: dict[str, object]) -> None:
    """Any one of them is enough, for any workload."""
    assert not is_bad(second(0), DOMAIN)
    assert is_bad(second(0, msgspec.structs.replace(FINE, **wrong)), DOMAIN)


def test_bad_seconds_right_after_a_surprise_are_counted_apart() -> None:
    """Only an unpredicted event excuses, and only for five seconds."""
    scenario = msgspec.structs.replace(
        QUIET, events=(Event(at=5.0, loads={SCANNER: 50_000}, unpredicted=True), Event(at=12.0, loads={SCANNER: 1}))
    )
    bad = msgspec.structs.replace(FINE, p95=0.05)
    seconds = [second(at, bad if at in (4, 5, 6, 11, 13) else FINE) for at in range(20)]
    result = score(seconds, DOMAIN, scenario, 0)
    assert (result.violation_seconds, result.step_violation_seconds, result.steps) == (5, 2, 1)


def test_disturbed_and_outside_seconds_are_not_judged() -> None:
    """Invalid seconds are excluded and counted; seconds before ``since`` or after the end are ignored."""
    seconds = [second(at, invalid="steal" if at == 12 else None) for at in range(-3, 25)]
    result = score(seconds, DOMAIN, QUIET, 0, since=10)
    assert (result.seconds, result.invalid_windows) == (9, 1)


def test_the_oracle_is_taken_over_the_same_seconds() -> None:
    """A second that overlaps two phases counts with the mean of the two."""
    scenario = msgspec.structs.replace(QUIET, events=(Event(at=10.5, loads={SCANNER: 50_000}),))
    before, after = scenario.phases()
    result = score([second(10)], DOMAIN, scenario, 0)
    assert result.oracle == pytest.approx((before.goodput + after.goodput) / 2, abs=1)
    assert result.share == 30_000 / result.oracle


def test_reactions_are_summed_up() -> None:
    """Median, P95 and maximum of the time from crossing to limit in force."""
    reactions = tuple(Reaction(0, S // 10, S // 2, tenths * S // 10) for tenths in range(1, 12))
    result = score([], DOMAIN, QUIET, 0, effort=ControlEffort(patches=3, restarts=1, reactions=reactions))
    assert result.reaction is not None
    assert (result.reaction.p50, result.reaction.max) == (0.6, 1.1)
    assert result.sense is not None
    assert result.decide is not None
    assert result.act is not None
    assert [result.sense.p50, result.decide.p50, round(result.act.p50, 6)] == [0.1, 0.4, 0.1]
    assert (result.patches, result.restarts, result.seconds, result.share) == (3, 1, 0, 0)
    assert spread([]) is None
