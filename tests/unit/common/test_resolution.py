"""Whether buckets can judge an SLO."""

import pytest

from services.common.histogram import BOUNDS
from services.common.resolution import too_coarse

GO = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, float("inf"))


@pytest.mark.parametrize("slo", [0.001, 0.002, 0.0021, 0.1])
def test_default_buckets_judge_usual_slos(slo: float) -> None:
    """They are fine where latency objectives lie."""
    assert too_coarse(BOUNDS, slo, 0.6) is None


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
    """The bucket that holds the SLO is narrow, and one lies beyond it: a quantile never exceeds the last bound."""
    found = too_coarse(bounds, slo, widest)
    assert found is None if problem is None else problem in str(found)
