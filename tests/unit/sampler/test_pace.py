"""When windows end."""

from services.sampler.pace import next_end, skipped

MS = 1_000_000
PERIOD = 250 * MS


def test_ends_are_whole_periods_on_utc() -> None:
    """Whenever two samplers start, they measure the same windows."""
    assert next_end(1_000 * MS + 1, 0, PERIOD) == 1_250 * MS
    assert next_end(1_249 * MS, 0, PERIOD) == 1_250 * MS


def test_an_end_lies_ahead() -> None:
    """At the very end of a window its measurement could come too late: the next one is taken."""
    assert next_end(1_250 * MS, 0, PERIOD) == 1_500 * MS


def test_windows_that_a_stall_ran_over_are_left_out() -> None:
    """No burst of late samples: the next window, and a count of those that were left out."""
    end = next_end(9_900 * MS, 1_000 * MS, PERIOD)
    assert end == 10_000 * MS
    assert skipped(1_000 * MS, end, PERIOD) == 35


def test_a_clock_that_was_set_back_never_repeats_a_window() -> None:
    """The next end comes after the last, however long that takes."""
    assert next_end(500 * MS, 9_000 * MS, PERIOD) == 9_250 * MS


def test_nothing_is_left_out_in_an_even_run_or_at_the_start() -> None:
    """One period after another."""
    assert skipped(1_000 * MS, 1_250 * MS, PERIOD) == 0
    assert skipped(0, 1_250 * MS, PERIOD) == 0
