"""Last station before the bus: makes one domain's sample out of what a source measured.  Pure.

Nothing is left out silently: what is not known stands in the sample with its reason.
"""

from collections.abc import Sequence

from schemas.domain import Critical, Domain
from schemas.messages import CriticalMeasure, Sample, TargetMeasure
from services.common.resolution import too_coarse
from services.sampler.source import Latencies, Measurements

COARSEST = 0.5
"""A histogram cannot judge an SLO that lies inside a bucket wider than this share of it."""


def sample_of(domain: Domain, end: int, period: int, source: str, measured: Measurements) -> Sample:
    """The sample of one domain.

    Args:
        domain: whom to speak of.
        end: end of the window, UTC ns.
        period: time to the next sample, ns.
        source: what measured.
        measured: of all domains together.
    """
    return Sample(
        domain=domain.name,
        start=measured.start,
        end=end,
        period=period,
        source=source,
        critical=tuple(_critical(critical, measured) for critical in domain.critical),
        targets=tuple(
            TargetMeasure(
                target.key,
                measured.sent.get(target.key),
                measured.recent.get(target.key),
                measured.pods.get(target.key),
            )
            for target in domain.targets
        ),
    )


def empty_sample(domain: Domain, start: int, end: int, period: int, source: str, reason: str) -> Sample:
    """The sample of a window of which nothing is known.

    Args:
        domain: whom to speak of.
        start: start of the window, UTC ns.
        end: end of the window, UTC ns.
        period: time to the next sample, ns.
        source: what should have measured.
        reason: why it did not.
    """
    return Sample(domain=domain.name, start=start, end=end, period=period, source=source, no_data=reason)


def blind(domain: Domain, sample: Sample) -> str | None:
    """Why control will not act on a sample, in words for people; None when it will."""
    if sample.no_data is not None:
        return sample.no_data
    for measure in sample.critical:
        why = measure.why_unusable(domain.min_observations)
        if why is not None:
            return f"{measure.workload}: {why}"
    return None


def tells(domain: Domain, sample: Sample) -> bool:
    """Whether control learns anything from a sample: figures to act on, or a loss."""
    return blind(domain, sample) is None or any(measure.lost for measure in sample.critical)


def _coarse(critical: Critical, bounds: Sequence[float]) -> str | None:
    for figure, slo in (("P95", critical.p95), ("jitter", critical.jitter)):
        why = too_coarse(bounds, slo.seconds, COARSEST)
        if why is not None:
            return f"buckets too coarse for {figure}: {why}"
    return None


def _critical(critical: Critical, measured: Measurements) -> CriticalMeasure:
    found = measured.latency.get(critical.key, Latencies(missing="not measured"))
    missing = found.missing
    if missing is None and found.bounds is not None:
        missing = _coarse(critical, found.bounds)
    return CriticalMeasure(
        workload=critical.key,
        jitter=None if missing else found.jitter,
        p95=None if missing else found.p95,
        observations=found.observations,
        lost=found.lost,
        throughput=measured.sent.get(critical.key),
        recent=measured.recent.get(critical.key),
        recent_p50=None if missing else measured.medians.get(critical.key),
        missing=missing,
    )
