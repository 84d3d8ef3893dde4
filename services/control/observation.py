"""First station of a step: what one sample says about one domain.

Missing data is a case of its own: a workload without a trustworthy figure makes the whole
observation *no data*, because nobody can vouch for the workload that is not seen.  A signal window
that cannot be (it ends before it starts, or is longer than an hour) vouches for nothing either.
"""

from math import inf

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
        self._critical = tuple((i, one.key, 1e9 / one.jitter, 1e9 / one.p95) for i, one in enumerate(domain.critical))
        self._targets = tuple((i, target.key) for i, target in enumerate(domain.targets))
        self._least = domain.min_observations
        self._per_pod = any(target.scope == "per-pod" for target in domain.targets)

    def observe(self, sample: Sample) -> Observation:
        """Weigh one sample."""
        end, period = sample.end, sample.period
        window = end - sample.start
        missing = sample.no_data
        if not 0 < period <= window <= _LONGEST:
            missing = missing or f"impossible window: from {sample.start} to {end}, a sample every {period} ns"
            window = period = 1
        unseen, jitter, p95, lost, standing, load, recent = self._latency(sample.critical)
        effort, effort_recent, sent = self._effort(sample.targets)
        pods = self._pods(sample.targets) if self._per_pod else ()
        if unseen is not None and not missing:
            missing = unseen
        if missing is not None:
            return Observation(
                end, window, period, 0.0, 0.0, lost, load, recent, effort, effort_recent, None, missing, None,
                lost > 0, sent, pods,
            )  # fmt: skip
        stress = p95 if p95 > jitter else jitter
        return Observation(
            end, window, period, jitter, p95, lost, load, recent, effort, effort_recent, standing, None, stress,
            stress > 1 or lost > 0, sent, pods,
        )  # fmt: skip

    # The hot part of every step: comparisons and sums stand where calls would cost several times as much.

    def _latency(  # noqa: C901 - one pass, with a branch for each figure that may be missing
        self, measures: tuple[CriticalMeasure, ...]
    ) -> tuple[str | None, float, float, float, float | None, int | None, int | None]:
        """Why there is no data, worst jitter and P95, what was lost, worst median, and the load, whole and recent."""
        missing: str | None = None
        jitter = p95 = lost = 0.0
        standing: float | None = 0.0
        load = recent = 0
        measured = True
        for index, key, per_jitter, per_p95 in self._critical:
            measure = _of_workload(measures, index, key)
            if measure is None:
                measured, missing = False, missing or f"{key}: not in the sample"
                continue
            rate, last = measure.throughput, measure.recent
            if rate is None or rate < 0:
                measured = False
            else:
                load += rate
                recent += rate if last is None or last < 0 else last
            loss = measure.lost
            if loss is not None and 0 < loss < inf:
                lost += loss
            why = _why_unusable(measure, self._least)
            if why is not None:
                missing = missing or f"{key}: {why}"
                continue
            median = measure.recent_p50
            if median is None:
                standing = None
            elif standing is not None and (ratio := median * per_p95) > standing:
                standing = ratio
            if (ratio := measure.jitter * per_jitter) > jitter:  # type: ignore[operator]  # usable
                jitter = ratio
            if (ratio := measure.p95 * per_p95) > p95:  # type: ignore[operator]  # usable
                p95 = ratio
        if not measured:
            return missing, jitter, p95, lost, standing, None, None
        return missing, jitter, p95, lost, standing, load, recent

    def _effort(self, measures: tuple[TargetMeasure, ...]) -> tuple[int | None, int | None, tuple[int | None, ...]]:
        """Throughput of all targets together, whole and recent, and what each of them sent last."""
        load = recent = 0
        measured = True
        sent: list[int | None] = []
        for index, key in self._targets:
            measure = _of_target(measures, index, key)
            rate, last = (None, None) if measure is None else (measure.throughput, measure.recent)
            if rate is None or rate < 0:
                measured = False
            else:
                load += rate
                recent += rate if last is None or last < 0 else last
            if last is None:
                last = rate
            sent.append(last if last is not None and last >= 0 else None)
        return (load, recent, tuple(sent)) if measured else (None, None, tuple(sent))

    def _pods(self, measures: tuple[TargetMeasure, ...]) -> tuple[int | None, ...]:
        """How many pods each target has, by the same measures as ``_effort`` goes by."""
        found = [_of_target(measures, index, key) for index, key in self._targets]
        return tuple([None if one is None else one.pods for one in found])


def _of_workload(measures: tuple[CriticalMeasure, ...], index: int, key: str) -> CriticalMeasure | None:
    # Samplers write the workloads in the configuration's order: look there first.
    if index < len(measures) and measures[index].workload == key:
        return measures[index]
    return next((measure for measure in measures if measure.workload == key), None)


def _of_target(measures: tuple[TargetMeasure, ...], index: int, key: str) -> TargetMeasure | None:
    if index < len(measures) and measures[index].target == key:
        return measures[index]
    return next((measure for measure in measures if measure.target == key), None)


def _why_unusable(measure: CriticalMeasure, least: int) -> str | None:
    if measure.missing is not None:
        return measure.missing
    jitter, p95 = measure.jitter, measure.p95
    if jitter is None or p95 is None:
        return "no latency"
    if not (0 <= jitter < inf and 0 <= p95 < inf):
        return f"latency is no number: jitter {jitter}, P95 {p95}"
    if measure.observations < least:
        return f"blind: {measure.observations} observations, {least} needed"
    return None
