"""First station of a step: what one sample says about one domain.

Missing data is a case of its own: a workload without a trustworthy figure makes the whole
observation *no data*, because nobody can vouch for the workload that is not seen.  A signal window
that cannot be (it ends before it starts, or is longer than an hour) vouches for nothing either.
"""

from collections.abc import Sequence
from math import isfinite

from msgspec import Struct

from schemas.domain import Domain
from schemas.messages import CriticalMeasure, Sample, TargetMeasure

_LONGEST = 3600 * 10**9


class Observation(Struct, frozen=True, gc=False):
    """What a policy may look at.  Rates are kbit/s, times ns, ratios have no unit."""

    end: int
    """End of the signal window."""
    window: int
    """Length of the signal window: the stretch that the measurements average over."""
    period: int
    """Time to the next sample."""
    jitter: float
    """Worst jitter over the critical workloads, as a ratio to its SLO; 0 without data."""
    p95: float
    """Worst P95 over the critical workloads, as a ratio to its SLO; 0 without data."""
    lost: float
    """Packets or probes that critical workloads lost in the window."""
    critical_load: int | None
    """Throughput of all critical workloads together; None unless each is measured."""
    critical_recent: int | None
    """The same over the last period alone where the source tells it, else over the window."""
    effort_load: int | None
    """Throughput of all targets together; None unless each is measured."""
    effort_recent: int | None
    """The same over the last period alone where the source tells it, else over the window."""
    standing: float | None
    """Worst median latency over the last period alone, as a ratio to the P95's SLO: above 1, a queue stands now.

    None unless each workload's is measured.
    """
    missing: str | None
    """Why there is no data; None when there is."""
    stress: float | None
    """The worse of jitter and P95: 1 is exactly at the SLO; None without data."""
    violated: bool
    """Whether an SLO is broken: latency over its limit, or anything lost.

    Loss counts even where latency is not known: a lost packet needs no quantile.
    """
    sent: tuple[int | None, ...]
    """Throughput of each target as in ``effort_recent``; None where not measured."""
    pods: tuple[int | None, ...]
    """How many pods each target has, None where not known; empty where no limit is each pod's."""


class Observer:
    """Weighs samples against one domain's objectives."""

    def __init__(self, domain: Domain) -> None:
        """Prepare what every sample needs."""
        self._critical = tuple((one.key, 1e9 / one.jitter, 1e9 / one.p95) for one in domain.critical)
        self._targets = tuple(target.key for target in domain.targets)
        self._least = domain.min_observations
        self._per_pod = any(target.scope == "per-pod" for target in domain.targets)

    def observe(self, sample: Sample) -> Observation:
        """Weigh one sample."""
        missing = sample.no_data
        window = sample.end - sample.start
        period = sample.period
        if not 0 < period <= window <= _LONGEST:
            missing = missing or f"impossible window: from {sample.start} to {sample.end}, a sample every {period} ns"
            window = period = 1
        jitter = p95 = lost = 0.0
        standing: float | None = 0.0
        critical = []
        for index, (key, per_jitter, per_p95) in enumerate(self._critical):
            measure = _of_workload(sample.critical, index, key)
            critical.append(measure)
            why = _why_unusable(measure, self._least)
            if measure is not None and measure.lost is not None and measure.lost > 0 and isfinite(measure.lost):
                lost += measure.lost
            if why is not None:
                missing = missing or f"{key}: {why}"
                continue
            median = measure.recent_p50  # type: ignore[union-attr]
            standing = None if standing is None or median is None else max(standing, median * per_p95)
            jitter = max(jitter, measure.jitter * per_jitter)  # type: ignore[operator, union-attr]  # usable
            p95 = max(p95, measure.p95 * per_p95)  # type: ignore[operator, union-attr]
        load, recent = _loads(critical)
        effort = [_of_target(sample.targets, index, key) for index, key in enumerate(self._targets)]
        loads = load, recent, *_loads(effort), None if missing else standing
        sent = tuple([_recent(one) for one in effort])
        pods = tuple([None if one is None else one.pods for one in effort]) if self._per_pod else ()
        if missing is not None:
            return Observation(sample.end, window, period, 0.0, 0.0, lost, *loads, missing, None, lost > 0, sent, pods)
        stress = max(jitter, p95)
        return Observation(
            sample.end, window, period, jitter, p95, lost, *loads, None, stress, stress > 1 or lost > 0, sent, pods
        )


def _of_workload(measures: tuple[CriticalMeasure, ...], index: int, key: str) -> CriticalMeasure | None:
    # Samplers write the workloads in the configuration's order: look there first.
    if index < len(measures) and measures[index].workload == key:
        return measures[index]
    return next((measure for measure in measures if measure.workload == key), None)


def _of_target(measures: tuple[TargetMeasure, ...], index: int, key: str) -> TargetMeasure | None:
    if index < len(measures) and measures[index].target == key:
        return measures[index]
    return next((measure for measure in measures if measure.target == key), None)


def _loads(measures: Sequence[CriticalMeasure | TargetMeasure | None]) -> tuple[int | None, int | None]:
    """Throughput of all together, over the window and over the last period; None unless each is measured."""
    total = recent = 0
    for measure in measures:
        rate = None if measure is None else measure.throughput
        if rate is None or rate < 0:
            return None, None
        total += rate
        last = measure.recent  # type: ignore[union-attr]  # a rate comes from a measure
        recent += rate if last is None or last < 0 else last
    return total, recent


def _recent(measure: TargetMeasure | None) -> int | None:
    if measure is None:
        return None
    rate = measure.throughput if measure.recent is None else measure.recent
    return rate if rate is not None and rate >= 0 else None


def _why_unusable(measure: CriticalMeasure | None, least: int) -> str | None:
    if measure is None:
        return "not in the sample"
    if measure.missing is not None:
        return measure.missing
    jitter, p95 = measure.jitter, measure.p95
    if jitter is None or p95 is None:
        return "no latency"
    if not (jitter >= 0 and p95 >= 0 and isfinite(jitter) and isfinite(p95)):
        return f"latency is no number: jitter {jitter}, P95 {p95}"
    if measure.observations < least:
        return f"blind: {measure.observations} observations, {least} needed"
    return None
