"""Cycles of the critical load: found where there are some, and trusted only after they have proven themselves."""

import random

from services.control.policies.learned.load_forecast import Season, byte_to_load, follow_season, forecast_season

SECOND = 10**9
SCALE = 100_000.0


def play(loads: list[float], peak: float | None = None) -> Season:
    """One load a second; ``peak`` is what is held meanwhile."""
    season = Season()
    for second, load in enumerate(loads):
        season = follow_season(season, load, peak or max(loads), second * SECOND, SCALE)
    return season


def cycle(second: int) -> float:
    """40 s: 12 s busy."""
    return 50_000.0 if 10 <= second % 40 < 22 else 20_000.0


def test_a_cycle_is_found_and_trusted() -> None:
    """Within a few cycles, and it foretells the busy time before it begins."""
    season = play([cycle(second) for second in range(280)])
    assert season.period == 20
    assert season.trusted
    assert byte_to_load(forecast_season(season), SCALE) < 25_000
    ahead = play([cycle(second) for second in range(288)])
    assert byte_to_load(forecast_season(ahead), SCALE) >= 50_000


def test_a_steady_load_has_no_season_that_is_trusted() -> None:
    """There is nothing to win."""
    assert not play([20_000.0] * 300, peak=20_000.0).trusted


def test_a_random_load_has_no_season_that_is_trusted() -> None:
    """Jumps at random moments look alike by chance at most."""
    draw = random.Random(3)
    loads: list[float] = []
    while len(loads) < 400:
        loads += [draw.choice([20_000.0, 50_000.0])] * draw.randint(3, 17)
    assert not play(loads, peak=50_000.0).trusted


def test_a_cycle_that_ends_is_no_longer_trusted() -> None:
    """Forecasts that fail cost more than holding the peak."""
    loads = [cycle(second) for second in range(280)]
    draw = random.Random(5)
    while len(loads) < 700:
        loads += [draw.choice([20_000.0, 70_000.0])] * draw.randint(3, 9)
    assert not play(loads, peak=70_000.0).trusted


def test_a_long_gap_begins_anew() -> None:
    """What was before an outage of minutes shows little of the phase now."""
    season = play([cycle(second) for second in range(200)])
    assert len(follow_season(season, 1.0, 1.0, 5_000 * SECOND, SCALE).bins) == 1


def test_a_short_gap_is_filled() -> None:
    """Bins without a sample are filled with the one before."""
    season = play([20_000.0] * 20)
    later = follow_season(season, 50_000.0, 50_000.0, 29 * SECOND, SCALE)
    assert len(later.bins) == 15
    assert later.bins[-2] == season.bins[-1]
