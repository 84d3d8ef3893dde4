"""Whether a histogram's buckets are fine enough to judge an SLO.  Pure.

Inside a bucket Prometheus draws a straight line, so a quantile can be off by the bucket's width; and
none can lie above the highest finite bound, however bad latency is.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import inf


def too_coarse(bounds: Sequence[float], slo: float, widest: float) -> str | None:
    """Why buckets cannot tell whether an SLO is kept; None where they can.

    Args:
        bounds: upper bounds, seconds, ascending; ``+Inf`` may be among them.
        slo: seconds.
        widest: how wide the bucket around the SLO may be, as a share of it.
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
