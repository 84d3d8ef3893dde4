"""Cycles of the critical load: detected if they exist, and trusted only after successful forecasts."""

import random

from services.control.policies.learned.load_forecast import Season, byte_to_load, follow_season, forecast_season

SECOND = 10**9
SCALE = 100_000.0


def play(loads: list[float], peak: float | None = None) -> Season:
    """One load a second; ``peak`` is the held peak."""
    season = Season()
    for second, load in enumerate(loads):
        season = follow_season(season, load, peak or max(loads), second * SECOND, SCALE)
    return season


def cycle(second: int) -> float:
    """A cycle of 40 s, of which 12 s are busy."""
    return 50_000.0 if 10 <= second % 40 < 22 else 20_000.0


def test_a_cycle_is_found_and_trusted() -> None:
    """Within a few cycles it is detected, and predicts the busy time before it begins."""
    season = play([cycle(second) for second in range(280)])
    assert season.period == 20
    assert season.trusted
    assert byte_to_load(forecast_season(season), SCALE) < 25_000
    ahead = play([cycle(second) for second in range(288)])
    assert byte_to_load(forecast_season(ahead), SCALE) >= 50_000


def test_a_steady_load_has_no_season_that_is_trusted() -> None:
    """Forecasts would gain nothing."""
    assert not play([20_000.0] * 300, peak=20_000.0).trusted


def test_a_random_load_has_no_season_that_is_trusted() -> None:
    """Jumps at random times repeat only by chance."""
    draw = random.Random(3)
    loads: list[float] = []
    while len(loads) < 400:
        loads += [draw.choice([20_000.0, 50_000.0])] * draw.randint(3, 17)
    assert not play(loads, peak=50_000.0).trusted


def test_a_cycle_that_ends_is_no_longer_trusted() -> None:
    """Failed forecasts cost more than holding the peak."""
    loads = [cycle(second) for second in range(280)]
    draw = random.Random(5)
    while len(loads) < 700:
        loads += [draw.choice([20_000.0, 70_000.0])] * draw.randint(3, 9)
    assert not play(loads, peak=70_000.0).trusted


def test_a_long_gap_resets_the_season() -> None:
    """After an outage of minutes the earlier phase is unreliable."""
    season = play([cycle(second) for second in range(200)])
    assert len(follow_season(season, 1.0, 1.0, 5_000 * SECOND, SCALE).bins) == 1


def test_a_short_gap_is_filled() -> None:
    """Empty bins take the value of the previous one."""
    season = play([20_000.0] * 20)
    later = follow_season(season, 50_000.0, 50_000.0, 29 * SECOND, SCALE)
    assert len(later.bins) == 15
    assert later.bins[-2] == season.bins[-1]
