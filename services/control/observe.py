"""First station of a step: what one sample says about one domain.

Missing data is a case of its own: a workload without a trustworthy figure makes the whole
observation *no data*, because nobody can vouch for the workload that is not seen.
"""

from math import isfinite

from msgspec import Struct

from schemas.domain import Critical, Domain
from schemas.messages import CriticalMeasure, Sample


class Observation(Struct, frozen=True):
    """What a policy may look at.  Rates are kbit/s, times ns, ratios have no unit."""

    end: int
    """End of the signal window."""
    window: int
    """Length of the signal window: the stretch that the measurements average over."""
    period: int
    """Time to the next sample."""
    jitter: float | None
    """Worst jitter over the critical workloads, as a ratio to its SLO."""
    p95: float | None
    """Worst P95 over the critical workloads, as a ratio to its SLO."""
    lost: float
    """Packets or probes that critical workloads lost in the window."""
    critical_load: int | None
    """Throughput of all critical workloads together; None unless each is measured."""
    effort_load: int | None
    """Throughput of all targets together; None unless each is measured."""
    missing: str | None
    """Why there is no data; None when there is."""

    @property
    def stress(self) -> float | None:
        """The worse of the two ratios: 1 is exactly at the SLO; None without data."""
        if self.missing is not None or self.jitter is None or self.p95 is None:
            return None
        return max(self.jitter, self.p95)

    @property
    def violated(self) -> bool:
        """Whether an SLO is broken: latency over its limit, or anything lost.

        Loss counts even where latency is not known: a lost packet needs no quantile.
        """
        stress = self.stress
        return self.lost > 0 or (stress is not None and stress > 1)


def observe(domain: Domain, sample: Sample) -> Observation:
    """Weigh a sample against the domain's objectives."""
    by_key = {measure.workload: measure for measure in sample.critical}
    missing = sample.no_data
    jitter = p95 = lost = 0.0
    for critical in domain.critical:
        measure = by_key.get(critical.key)
        lost += _lost(measure)
        why = _why_unusable(measure, domain.min_observations)
        if why is not None:
            missing = missing or f"{critical.key}: {why}"
            continue
        jitter = max(jitter, _ratio(measure, "jitter", critical))
        p95 = max(p95, _ratio(measure, "p95", critical))
    efforts = {measure.target: measure.throughput for measure in sample.targets}
    return Observation(
        end=sample.end,
        window=max(sample.end - sample.start, sample.period, 1),
        period=max(sample.period, 1),
        jitter=None if missing else jitter,
        p95=None if missing else p95,
        lost=lost,
        critical_load=_total([by_key[c.key].throughput if c.key in by_key else None for c in domain.critical]),
        effort_load=_total([efforts.get(target.key) for target in domain.targets]),
        missing=missing,
    )


def _why_unusable(measure: CriticalMeasure | None, least: int) -> str | None:
    if measure is None:
        return "not in the sample"
    if measure.missing is not None:
        return measure.missing
    if measure.jitter is None or measure.p95 is None:
        return "no latency"
    if not (isfinite(measure.jitter) and isfinite(measure.p95)) or min(measure.jitter, measure.p95) < 0:
        return f"latency is no number: jitter {measure.jitter}, P95 {measure.p95}"
    if measure.observations < least:
        return f"blind: {measure.observations} observations, {least} needed"
    return None


def _ratio(measure: CriticalMeasure | None, figure: str, critical: Critical) -> float:
    value: float = getattr(measure, figure)
    slo: int = getattr(critical, figure)
    return value * 1e9 / slo


def _lost(measure: CriticalMeasure | None) -> float:
    if measure is None or measure.lost is None or not isfinite(measure.lost):
        return 0.0
    return max(measure.lost, 0.0)


def _total(rates: list[int | None]) -> int | None:
    total = 0
    for rate in rates:
        if rate is None or rate < 0:
            return None
        total += rate
    return total
