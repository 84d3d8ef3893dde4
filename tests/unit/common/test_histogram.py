"""The quantiles of a classic histogram at the edges where implementations differ, and the resolution of its buckets."""

import math

import pytest

from services.common.histogram import BOUNDS, explain_coarseness, increase, quantile, summarize

GO = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, float("inf"))


def test_interpolates_inside_the_bucket_that_holds_the_rank() -> None:
    """100 observations, evenly over (1, 2]: the median is the middle of that bucket."""
    assert quantile(0.5, (1.0, 2.0, 4.0), (0, 100, 100, 100)) == 1.5


def test_first_bucket_begins_at_zero() -> None:
    """All observations in the first bucket: P95 is 95 % of its upper bound."""
    assert quantile(0.95, (0.002, 0.004), (10, 10, 10)) == pytest.approx(0.0019)


def test_rank_beyond_the_last_bound_gives_the_last_bound() -> None:
    """Observations in +Inf have no upper bound, so Prometheus returns the highest finite bound."""
    assert quantile(0.95, (0.1, 1.0), (0, 50, 100)) == 1.0


def test_rank_exactly_on_a_bucket_edge_gives_that_bound() -> None:
    """Half of the observations at or below 1: the median is 1, not something in the next bucket."""
    assert quantile(0.5, (1.0, 2.0), (50, 100, 100)) == 1.0


@pytest.mark.parametrize("counts", [(0, 0, 0), (0, 0, math.nan), (0, 0, math.inf)])
def test_without_observations_there_is_no_quantile(counts: tuple[float, ...]) -> None:
    """Prometheus returns NaN, which compares as false with everything; None cannot be compared by accident."""
    assert quantile(0.95, (1.0, 2.0), counts) is None


def test_without_finite_buckets_there_is_no_quantile() -> None:
    """A histogram with +Inf alone counts, but measures nothing."""
    assert quantile(0.5, (), (7,)) is None
    assert summarize((), (7,)) == (None, None, 7)


def test_falling_counts_are_lifted() -> None:
    """If a reset shows in some buckets only, counts fall; they are read as flat."""
    assert quantile(0.9, (1.0, 2.0, 3.0), (10, 4, 20, 20)) == quantile(0.9, (1.0, 2.0, 3.0), (10, 10, 20, 20))


def test_bound_at_or_below_zero_is_given_as_it_is() -> None:
    """A first bucket that ends at 0 has no width to interpolate over."""
    assert quantile(0.5, (0.0, 1.0), (10, 10, 10)) == 0.0


def test_latency_is_the_interquartile_range_and_p95() -> None:
    """Even spread over (0, 1]: Q75 - Q25 is one half, P95 is .95."""
    assert summarize((1.0,), (200, 200)) == (0.5, 0.95, 200)


def test_counter_that_fell_began_again_from_zero() -> None:
    """The increase over a reset is the count since then."""
    assert increase((5, 10, 10), (7, 3, 10)) == [2, 3, 0]


def test_wrong_shapes_are_refused() -> None:
    """Counts that do not fit the bounds, and invalid quantiles, are errors."""
    with pytest.raises(ValueError, match="2 bounds need 3 counts, got 2"):
        summarize((1.0, 2.0), (1, 2))
    with pytest.raises(ValueError, match="2 bounds need 3 counts, got 2"):
        quantile(0.5, (1.0, 2.0), (1, 2))
    with pytest.raises(ValueError, match="outside"):
        quantile(0.0, (1.0,), (1, 1))


def test_default_bounds_ascend_and_have_the_slo_as_a_bound() -> None:
    """2 ms is a bucket boundary, so the share of observations above it is exact."""
    assert list(BOUNDS) == sorted(set(BOUNDS))
    assert len(BOUNDS) == 28
    assert 0.002 in BOUNDS


@pytest.mark.parametrize("slo", [0.001, 0.002, 0.0021, 0.1])
def test_default_buckets_judge_usual_slos(slo: float) -> None:
    """They are fine enough in the usual range of latency objectives."""
    assert explain_coarseness(BOUNDS, slo, 0.6) is None


@pytest.mark.parametrize(
    ("bounds", "slo", "widest", "problem"),
    [
        (BOUNDS, 0.002, 0.25, None),
        ((0.001, 0.002, 0.003), 0.002, 0.5, None),
        ((0.001, 0.002, 0.003), 0.002, 0.25, "bucket from 1 to 2 ms: a quantile there can be off by 50% of the SLO"),
        ((0.001, 0.0021, 0.003), 0.002, 0.5, "bucket from 1 to 2.1 ms"),
        (GO, 0.002, 0.5, "bucket from 0 to 5 ms: a quantile there can be off by 250% of the SLO"),
        (GO, 0.010, 0.5, None),
        ((0.001, 0.002), 0.002, 0.5, "not below the highest bucket, 2 ms"),
        ((0.001, 0.0015), 0.002, 0.5, "not below the highest bucket, 1.5 ms"),
        ((float("inf"),), 0.002, 0.5, "not below the highest bucket, 0 ms"),
        ((), 0.002, 0.5, "not below the highest bucket, 0 ms"),
    ],
)
def test_buckets_judge_an_slo_only_where_they_are_fine(
    bounds: tuple[float, ...], slo: float, widest: float, problem: str | None
) -> None:
    """The bucket with the SLO is narrow, and another one lies beyond it: a quantile never exceeds the last bound."""
    found = explain_coarseness(bounds, slo, widest)
    assert found is None if problem is None else problem in str(found)
