"""What one sample shows of one domain: how its objectives are kept, and whether limits hold.  Pure.

Missing data is a case of its own: a workload without a trustworthy figure makes the whole observation
*no data*, because nothing is known of that workload.  So does a signal window that cannot be: one that
ends before it starts, or is longer than an hour.

Nothing in a cluster reports that a limit is not enforced: a bandwidth manager that is off, an agent that hangs, or
traffic that takes a way around it all look like a limit that holds.  But what a target sends over its limit, for
longer than bursts, a patch and a queue explain, shows it.

    over      it sent more than the limit by a tenth and 250 kbit/s, over the last period
    overrun   it has been over for four seconds, without a break

Limits whose target does not want more cannot be judged, and need not be.  A source that measures throughput over its
whole window is judged only once the window lies after the limit's last change, and an overrun takes a window at least.
The limit is the higher one of what was decided and what was reported to be in force: a cut that the API server does not
take is no fault of enforcement.  Where several limits are in force on a target, nothing is judged.  What is not known
begins the four seconds anew, but does not take an overrun back.
"""

from collections.abc import Mapping
from math import inf

from msgspec import Struct

from schemas.domain import Domain, Target
from schemas.messages import CriticalMeasure, InForce, Overrun, Sample, State, TargetMeasure

_LONGEST = 3600 * 10**9
_QUEUED = 0.5
"""Share of the tightest SLO from which the least median means a queue."""
_SHARE = 1.1
_SLACK_KBIT = 250
LONG_NS = 4 * 10**9
"""Longer than a patch, the agent's reaction, the drain of a queue and one more period take together."""
_NEAR = 0.9
"""A target that sends this share of its limit fills it."""


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
            spread, latest = measure.jitter, measure.p95
            if (
                spread is None
                or latest is None
                or measure.missing is not None
                or not (0 <= spread < inf and 0 <= latest < inf and measure.observations >= self._min_observations)
            ):
                missing = missing or f"{key}: {measure.why_unusable(self._min_observations)}"
                continue
            median = measure.recent_p50
            if median is None:
                medians = None
            elif medians is not None:
                medians.append(median * self._per_tightest)
            if (ratio := spread * per_jitter) > jitter:
                jitter = ratio
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


def allows(limit: int, sent: int) -> bool:
    """Whether a limit explains what was sent; both kbit/s."""
    return sent <= limit * _SHARE + _SLACK_KBIT


def fills(target: Target, sample: Sample, limit: int) -> bool | None:
    """Whether a target filled its limit (kbit/s, in its scope); None where that is not known."""
    for one in sample.targets:
        if one.target == target.key:
            sent = one.throughput if one.recent is None else one.recent
            pods = one.pods if target.scope == "per-pod" else 1
            return None if sent is None or pods is None else pods > 0 and sent >= _NEAR * limit * pods
    return None


def follow_overruns(
    domain: Domain, state: State, in_force: Mapping[str, InForce], sample: Sample, seen: Observation
) -> tuple[dict[str, int], tuple[Overrun, ...]]:
    """Compare what every target sent with its limit.

    Args:
        domain: whose targets.
        state: before this sample, with the limits that were decided, and since when targets have been over theirs.
        in_force: what was reported to be in force, by target; without a report it is what was decided.
        sample: what was measured.
        seen: the same, as policies see it.

    Returns:
        Since when targets have been over their limits, ns, after this sample, and the overruns.
    """
    over: dict[str, int] = {}
    overruns = []
    # Nobody saw what was sent in a gap between samples.
    is_gap = sample.end - state.end > 2 * sample.period
    for number, target in enumerate(domain.targets):
        sent, key = seen.recent_by_target[number], target.key
        known, actual = state.shield.get(key), in_force.get(key)
        limit = target.fail_safe if known is None else known.limit
        if actual is not None and actual.limit > limit:
            limit = actual.limit  # the cut is on its way, or the API server does not take it
        # The usual case first: this is part of every step.
        if sent is not None and (sent <= limit or allows(limit, sent)):
            continue
        pods = seen.pods[number] if target.scope == "per-pod" else 1
        if sent is not None and pods is not None and allows(limit * pods, sent):
            continue
        is_recent = any(one.target == key and one.recent is not None for one in sample.targets)
        is_changed = not is_recent and actual != state.in_force.get(key)
        long = LONG_NS if is_recent else max(LONG_NS, sample.end - sample.start)
        began = state.over.get(key)
        found = began if began is not None and state.end - began >= long else None
        is_mixed = not is_recent and (known is None or known.since > sample.start)
        if sent is None or not pods or is_mixed or (actual is not None and actual.unsettled):
            if found is not None:
                over[key] = found  # knowing nothing takes nothing back
            continue
        if found is None and (began is None or is_gap or is_changed):
            began = sample.end - sample.period
        assert began is not None
        over[key] = began
        if sample.end - began >= long:
            overruns.append(Overrun(target=key, sent=sent, limit=limit * pods, since=began))
    return over, tuple(overruns)
