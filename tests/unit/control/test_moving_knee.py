"""A knee that does not stay where it was: what ``learned`` knows of it, and how it becomes more careful."""

from services.control.policies.learned.load_forecast import ForecastSettings, LoadForecaster, LoadHistory
from tests.unit.control.test_learned import Loop


def break_at_the_knee(loop: Loop) -> None:
    """A queue breaks an SLO under the limit in force; it is over with the cut."""
    loop.step(violated=True, stress=1.5, recent_p50=1.2)
    for _ in range(8):
        loop.step()


def test_a_growing_queue_shows_the_capacity() -> None:
    """The queue grows by 20 ms in half a second, under 90 Mbit/s: 4 % more than flow out."""
    loop = Loop()
    loop.explore_until_touch()
    loop.step(violated=True, stress=20.0, recent_p50=10.0, effort=62_000)
    grows = loop.step(violated=True, stress=30.0, recent_p50=20.0, effort=62_000)
    assert grows.reason.startswith("a queue stays")
    assert 0.94 * 90_000 / 1.04 < loop.memory.knee.total < 0.98 * 90_000 / 1.04


def test_probes_are_rarer_where_the_knee_breaks_an_slo() -> None:
    """Each meeting that broke an SLO triples the wait, and leaves more room below."""
    waits, shares = [], []
    loop = Loop()
    loop.explore_until_touch()
    for _ in range(3):
        before = loop.limit + 28_000
        break_at_the_knee(loop)
        knee = loop.memory.knee
        waits.append(max(knee.until - knee.met, knee.rest * 1e9))
        shares.append(knee.total / before)
    assert waits[2] > waits[1] >= waits[0]
    assert shares[2] < shares[0]
    count = loop.memory.broke
    for _ in range(600):
        loop.step()
    assert loop.memory.broke < 0.5 * count


def test_what_is_excused_may_not_become_worse() -> None:
    """Violations that lower loads did not change are ignored until one is far worse."""
    loop = Loop()
    loop.explore_until_touch()
    while not loop.memory.blame.excused:
        break_at_the_knee(loop)
        assert loop.index < 200, "never excused"
    loop.step(violated=True, stress=1.6)
    assert loop.memory.blame.excused > 0
    for _ in range(8):
        loop.step()
    loop.step(violated=True, stress=9.0)
    assert loop.memory.blame.excused == 0


def test_the_rest_of_a_leap_is_no_trend() -> None:
    """A leap that lies in two periods is not prolonged."""
    forecaster = LoadForecaster(ForecastSettings(), 100_000)
    before = forecaster.follow(LoadHistory(28_000, 28_000, 1), 46_000, 500_000_000, 0.5, clean=True)
    after = forecaster.follow(before, 49_500, 1_000_000_000, 0.5, clean=True)
    assert forecaster.forecast(before, after) < 50_500
