"""Quantiles of a classic histogram, computed as Prometheus does, and whether its buckets suffice.  Pure.

The direct scrape, the simulated plant and the benches all use it, so that they agree on every figure.

A histogram is given as its finite upper bounds, ascending, and one cumulative count more than there
are bounds: the last is the ``+Inf`` bucket, that is all observations.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from math import inf, isfinite
from typing import NamedTuple

BOUNDS = (
    *(0.00005, 0.0001, 0.0002, 0.0003, 0.0004, 0.0005, 0.0006, 0.0008),
    *(0.001, 0.00125, 0.0015, 0.00175, 0.002, 0.00225, 0.0025, 0.003, 0.0035, 0.004, 0.005, 0.0075),
    *(0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
"""Upper bounds in seconds that keep the error around 2 ms within 3 %."""


class HistogramSummary(NamedTuple):
    """The figures of a latency histogram that samples carry."""

    jitter: float | None
    """Q75 - Q25, seconds; None without observations."""
    p95: float | None
    """95th percentile, seconds; None without observations."""
    observations: float


def increase(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """The increase of each counter between two readings; one that fell was reset and counts from zero."""
    return [new - old if new >= old else new for old, new in zip(before, after, strict=True)]


def quantile(q: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """PromQL's ``histogram_quantile``: linear inside the bucket that holds the rank.

    The first bucket begins at 0.  A rank in the ``+Inf`` bucket gives the highest finite bound.
    Counts that fall from one bucket to the next, as after a reset in part of the series, are
    lifted to the count before.

    Args:
        q: which quantile, above 0 and at most 1.
        bounds: finite upper bounds, ascending.
        counts: cumulative counts; the last one is of ``+Inf``.

    Returns:
        The quantile in the unit of the bounds, or None where Prometheus returns NaN: nothing was
        observed, or there is no finite bucket.

    Raises:
        ValueError: ``q`` is out of range, or ``counts`` is not one longer than ``bounds``.
    """
    if not 0 < q <= 1:
        raise ValueError(f"quantile {q} is outside 0 (excluded) to 1")
    if len(counts) != len(bounds) + 1:
        raise ValueError(f"{len(bounds)} bounds need {len(bounds) + 1} counts, got {len(counts)}")
    rising = list(accumulate(counts, max))
    observations = rising[-1]
    if not bounds or not isfinite(observations) or observations <= 0:
        return None
    rank = q * observations
    at = bisect_left(rising, rank, 0, len(bounds))
    if at == len(bounds):
        return bounds[-1]
    if at == 0:
        return bounds[0] * (rank / rising[0]) if bounds[0] > 0 else bounds[0]
    start, below = bounds[at - 1], rising[at - 1]
    return start + (bounds[at] - start) * ((rank - below) / (rising[at] - below))


def summarize(bounds: Sequence[float], counts: Sequence[float]) -> HistogramSummary:
    """Jitter, P95 and the number of observations of one histogram.

    Raises:
        ValueError: ``counts`` is not one longer than ``bounds``.
    """
    rising = list(accumulate(counts, max))
    low, high = quantile(0.25, bounds, rising), quantile(0.75, bounds, rising)
    jitter = None if low is None or high is None else high - low
    return HistogramSummary(jitter, quantile(0.95, bounds, rising), rising[-1])


@lru_cache(1024)
def explain_coarseness(bounds: tuple[float, ...], slo: float, widest: float) -> str | None:
    """Why buckets cannot tell whether an SLO is kept; None where they can.  Each sample asks the same again.

    Prometheus interpolates inside a bucket, so a quantile can be off by the bucket's width, and it never
    exceeds the highest finite bound.

    Args:
        bounds: upper bounds, seconds, ascending; ``+Inf`` may be among them.
        slo: seconds.
        widest: how wide the bucket around the SLO may be, as a share of the SLO.
    """
    edges = [0.0, *(bound for bound in bounds if bound < inf)]
    around = next(((low, high) for low, high in pairwise(edges) if low < slo <= high), None)
    if around is None or slo == edges[-1]:
        return f"the SLO of {slo * 1e3:g} ms is not below the highest bucket, {edges[-1] * 1e3:g} ms"
    low, high = around
    # The bounds are decimal fractions: a bucket exactly as wide as allowed may come out a little wider.
    if high - low <= widest * slo * (1 + 1e-9):
        return None
    return (
        f"the SLO of {slo * 1e3:g} ms lies in the bucket from {low * 1e3:g} to {high * 1e3:g} ms: a quantile "
        f"there can be off by {(high - low) / slo:.0%} of the SLO"
    )
