"""What one sample shows of one domain.

Missing data is a case of its own: a workload without a trustworthy figure makes the whole observation
*no data*, because nothing is known of that workload.  So does a signal window that cannot be: one that
ends before it starts, or is longer than an hour.
"""

from math import inf

from msgspec import Struct

from schemas.domain import Domain
from schemas.messages import CriticalMeasure, Sample, TargetMeasure

_LONGEST = 3600 * 10**9
_QUEUED = 0.5
"""Share of the tightest SLO from which the least median means a queue."""


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
    critical_throughput: int | None
    """Throughput of all critical workloads together; None unless each is measured."""
    critical_recent: int | None
    """The same over the last period alone where the source measures it, else over the window."""
    target_throughput: int | None
    """Throughput of all targets together; None unless each is measured."""
    target_recent: int | None
    """The same over the last period alone where the source measures it, else over the window."""
    medians: tuple[float, ...] | None
    """Median latency of each critical workload over the last period alone, as a ratio to the tightest P95's SLO.

    None unless each workload's is measured.  A shared queue raises all of them, a stalled host only its own.
    """
    shared_p95: float
    """Least P95 over the critical workloads, as a ratio to the tightest SLO: no shared queue raised it above that."""
    queued: bool
    """Whether all of them wait for more than half of that SLO, or one loses something, or that is not known."""
    missing: str | None
    """Why there is no data; None when there is."""
    stress: float | None
    """The worse of jitter and P95: 1 is exactly at the SLO; None without data."""
    violated: bool
    """Whether an SLO is broken: latency over its limit, or anything lost.

    Loss counts even where latency is not known: a lost packet needs no quantile.
    """
    recent_by_target: tuple[int | None, ...]
    """Throughput of each target as in ``target_recent``; None where not measured."""
    pods: tuple[int | None, ...]
    """How many pods each target has, None where not known; empty where no limit is per pod."""


class Observer:
    """Compares samples with one domain's objectives."""

    def __init__(self, domain: Domain) -> None:
        """Prepare what every sample needs."""
        self._critical = tuple((i, one.key, 1e9 / one.jitter, 1e9 / one.p95) for i, one in enumerate(domain.critical))
        self._per_tightest = max(per_p95 for _, _, _, per_p95 in self._critical)
        self._targets = tuple((i, target.key) for i, target in enumerate(domain.targets))
        self._min_observations = domain.min_observations
        self._per_pod = any(target.scope == "per-pod" for target in domain.targets)

    def observe(self, sample: Sample) -> Observation:
        """Compare one sample with the objectives."""
        end, period = sample.end, sample.period
        window = end - sample.start
        missing = sample.no_data
        if not 0 < period <= window <= _LONGEST:
            missing = missing or f"impossible window: from {sample.start} to {end}, a sample every {period} ns"
            window = period = 1
        unusable, latency, medians, critical, critical_recent = self._observe_critical(sample.critical)
        jitter, p95, shared_p95, lost = latency
        target, target_recent, recent_by_target, pods = self._observe_targets(sample.targets)
        if unusable is not None and not missing:
            missing = unusable
        if missing is not None:
            return Observation(
                end, window, period, 0.0, 0.0, lost, critical, critical_recent, target, target_recent, None, 0.0, True,
                missing, None, lost > 0, recent_by_target, pods,
            )  # fmt: skip
        stress = p95 if p95 > jitter else jitter
        queued = medians is None or lost > 0 or min(medians) > _QUEUED
        return Observation(
            end, window, period, jitter, p95, lost, critical, critical_recent, target, target_recent, medians,
            shared_p95, queued, None, stress, stress > 1 or lost > 0, recent_by_target, pods,
        )  # fmt: skip

    # The hot part of every step: comparisons and sums are written out, because calls would cost several times as much.

    def _observe_critical(  # noqa: C901, PLR0912 - one pass, with a branch for each figure that may be missing
        self, measures: tuple[CriticalMeasure, ...]
    ) -> tuple[str | None, tuple[float, float, float, float], tuple[float, ...] | None, int | None, int | None]:
        """Why there is no data; worst jitter, worst and least P95 and what was lost; medians; throughputs."""
        missing: str | None = None
        jitter = p95 = lost = 0.0
        shared_p95 = inf
        medians: list[float] | None = []
        throughput = recent = 0
        measured = True
        for index, key, per_jitter, per_p95 in self._critical:
            # Samplers write the workloads in the configuration's order: look there first.
            measure = measures[index] if index < len(measures) else None
            if measure is None or measure.workload != key:
                measure = next((one for one in measures if one.workload == key), None)
            if measure is None:
                measured, missing = False, missing or f"{key}: not in the sample"
                continue
            rate, last = measure.throughput, measure.recent
            if rate is None or rate < 0:
                measured = False
            else:
                throughput += rate
                recent += rate if last is None or last < 0 else last
            loss = measure.lost
            if loss is not None and 0 < loss < inf:
                lost += loss
            why = measure.why_unusable(self._min_observations)
            if why is not None:
                missing = missing or f"{key}: {why}"
                continue
            median = measure.recent_p50
            if median is None:
                medians = None
            elif medians is not None:
                medians.append(median * self._per_tightest)
            if (ratio := measure.jitter * per_jitter) > jitter:  # type: ignore[operator]  # usable
                jitter = ratio
            latest: float = measure.p95  # type: ignore[assignment]  # usable
            if (ratio := latest * per_p95) > p95:
                p95 = ratio
            if (ratio := latest * self._per_tightest) < shared_p95:
                shared_p95 = ratio
        latency = jitter, p95, shared_p95, lost
        each = None if medians is None else tuple(medians)
        if not measured:
            return missing, latency, each, None, None
        return missing, latency, each, throughput, recent

    def _observe_targets(
        self, measures: tuple[TargetMeasure, ...]
    ) -> tuple[int | None, int | None, tuple[int | None, ...], tuple[int | None, ...]]:
        """Throughput of all targets together, over the window and recent; the recent one and the pods of each."""
        throughput = recent = 0
        measured = True
        each: list[int | None] = []
        pods: list[int | None] = []
        for index, key in self._targets:
            measure = measures[index] if index < len(measures) else None
            if measure is None or measure.target != key:
                measure = next((one for one in measures if one.target == key), None)
            if self._per_pod:
                pods.append(None if measure is None else measure.pods)
            rate, last = (None, None) if measure is None else (measure.throughput, measure.recent)
            if rate is None or rate < 0:
                measured = False
            else:
                throughput += rate
                recent += rate if last is None or last < 0 else last
            if last is None:
                last = rate
            each.append(last if last is not None and last >= 0 else None)
        if not measured:
            return None, None, tuple(each), tuple(pods)
        return throughput, recent, tuple(each), tuple(pods)
