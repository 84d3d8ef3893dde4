"""The quantiles of a histogram against a slow oracle in exact arithmetic."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.histogram import BOUNDS, increase, quantile, summarize

counts_per_bucket = st.lists(st.integers(0, 10**9), min_size=2, max_size=40)
quantiles = st.floats(0.001, 1.0)


def oracle(q: float, bounds: list[float], observed: list[int]) -> Fraction | None:
    """Walk along the buckets with fractions, as in the definition."""
    total = sum(observed)
    if total == 0:
        return None
    rank, seen, low = Fraction(q) * total, 0, Fraction(0)
    for bound, here in zip(bounds, observed, strict=False):
        if seen + here >= rank:
            return low + (Fraction(bound) - low) * (rank - seen) / here
        seen, low = seen + here, Fraction(bound)
    return low


def cumulative(observed: list[int]) -> list[int]:
    """Cumulative counts."""
    return [sum(observed[: at + 1]) for at in range(len(observed))]


@given(quantiles, counts_per_bucket)
def test_equals_the_oracle(q: float, observed: list[int]) -> None:
    """For any counts, bounds and quantile the answer equals the definition's, except for rounding."""
    bounds = [0.001 * (at + 1) ** 1.5 for at in range(len(observed) - 1)]
    expected = oracle(q, bounds, observed)
    got = quantile(q, bounds, cumulative(observed))
    if expected is None:
        assert got is None
    else:
        assert got == pytest.approx(float(expected), rel=1e-9)


@given(counts_per_bucket, quantiles, quantiles)
def test_rises_with_q_and_stays_inside_the_bounds(observed: list[int], one: float, other: float) -> None:
    """A higher quantile is never a lower latency, and no quantile lies outside of the buckets."""
    bounds = [0.001 * (at + 1) for at in range(len(observed) - 1)]
    low, high = (quantile(q, bounds, cumulative(observed)) for q in sorted((one, other)))
    if low is None or high is None:
        assert low is high
    else:
        assert 0 <= low <= high * (1 + 1e-12)
        assert high <= bounds[-1] * (1 + 1e-12)


@given(st.lists(st.floats(0, 2.0), min_size=1, max_size=300), quantiles)
def test_differs_from_the_real_quantile_by_less_than_a_bucket(latencies: list[float], q: float) -> None:
    """The answer lies in the same bucket as the true quantile of the latencies."""
    counts = [sum(one <= bound for one in latencies) for bound in BOUNDS] + [len(latencies)]
    ordered = sorted(latencies)
    # Its rank in floating point, as Prometheus and the product count it.
    true = ordered[math.ceil(q * len(ordered)) - 1]
    got = quantile(q, BOUNDS, counts)
    assert got is not None
    edges = [0.0, *BOUNDS]
    if true > BOUNDS[-1]:
        assert got == BOUNDS[-1]
    else:
        low, high = next((low, high) for low, high in pairwise(edges) if low < true <= high or true == 0)
        assert low * (1 - 1e-9) <= got <= high * (1 + 1e-9)


@given(counts_per_bucket, st.floats(1e-6, 1e6))
def test_scale_of_the_counts_does_not_matter(observed: list[int], factor: float) -> None:
    """Rates and increases of the same window give the same latencies."""
    bounds = [0.001 * (at + 1) for at in range(len(observed) - 1)]
    plain = summarize(bounds, cumulative(observed))
    scaled = summarize(bounds, [count * factor for count in cumulative(observed)])
    if plain.p95 is None or plain.jitter is None:
        assert scaled.p95 is None
    else:
        assert scaled.p95 == pytest.approx(plain.p95, rel=1e-6)
        assert scaled.jitter == pytest.approx(plain.jitter, rel=1e-6, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=40))
def test_increase_is_never_negative(pairs: list[tuple[int, int]]) -> None:
    """No increase is negative, and that of a counter that did not fall is the difference."""
    gained = increase([old for old, _ in pairs], [new for _, new in pairs])
    for (old, new), gain in zip(pairs, gained, strict=True):
        assert gain == (new - old if new >= old else new)
        assert gain >= 0
