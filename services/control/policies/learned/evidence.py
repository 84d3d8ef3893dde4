"""What one sample shows, compared with what ``learned`` remembers.

What did not come from the shared queue must not be blamed on it.  A queue at the bottleneck delays every critical
workload, so the least rise over the workloads is its sign.  A host that stalls, or outliers, raise some of them only.
"""

from msgspec import Struct

from services.control.allocation import FULL
from services.control.observation import Observation
from services.control.policies.learned.load_forecast import LoadForecaster
from services.control.policies.learned.memory import LearnedMemory, LearnedParameters
from services.control.policy import Bounds

_SECOND = 1e9
_BLURRED = 2.5
"""How much larger a rise must be where the window's stress replaces the last period's median."""


class Evidence(Struct, frozen=True, gc=False):
    """What one sample shows, compared with the memory.

    Rates are kbit/s over the last period; latencies are ratios to the P95's SLO.
    """

    stress: float
    """The worse of jitter and P95 over the window."""
    seconds: float
    """Length of the period."""
    critical_load: float
    """Critical throughput, as far as it can be trusted."""
    total_load: float
    """Critical and best effort together."""
    allowed_load: float
    """The total load if best effort had filled its limits."""
    throughput: float | None
    """What was measured in all; None where not everything is measured."""
    full: bool
    """Whether best effort filled its limits: only then does the load show anything about the knee."""
    hungry: bool
    """Whether best effort would use more than its limits."""
    medians: tuple[float, ...]
    """Median latency of each critical workload over the last period."""
    recent_p50: float
    """The least of them."""
    rise: float
    """By how much all of them are above their usual values, at least: a shared queue raises every one."""
    rise_before: float
    """The same a period ago."""
    queued: bool
    """There is a queue: the median rose by as much as a touch does, or a probe sees one begin."""
    tail: float
    """By how much the window's P95 is above its usual value for all of them, where a probe sees a queue begin; else 0.
    """
    stands: bool
    """There is a queue that delays all by an SLO, as a period ago, and it does not shrink."""
    surge: bool
    """The critical load is above its forecast."""
    load_rises: bool
    """The critical load is well above that of the period before."""
    load_rose: bool
    """The critical load rose by much, this period or last, within what was forecast or not."""
    new_violation: bool
    """An SLO is broken, and not by traffic that a cut has ended already."""
    near_violation: bool
    """The stress is high enough to show that the margin was too small."""
    settling: bool
    """The window still sees traffic from before the last cut."""
    clean: bool
    """No SLO is broken by a queue, and nothing is settling."""
    stalled: bool
    """An SLO is broken, but some workload does not feel it: a host stalled, and no shared queue."""
    recovers: bool
    """The window still sees a spike, but no queue has shown since, although the cut has shown in full."""


def gather_evidence(
    memory: LearnedMemory, seen: Observation, bounds: Bounds, parameters: LearnedParameters, forecaster: LoadForecaster
) -> Evidence:
    """Compare a sample with the memory; ``bounds`` are those of all pods together."""
    seconds, stress = seen.period / _SECOND, seen.stress or 0.0
    # Without medians, the stress replaces them.
    medians = seen.medians or (stress,)
    recent_p50 = min(medians)
    gain = memory.gain.value
    # How much was sent.  While a queue throttles the critical load it is at least the last one, and while it
    # is not measured, at its peak.
    if seen.critical_recent is None:
        # Never the default itself: it is left out of the JSON, and is another object when it comes back.
        critical_load = max(memory.load.last, memory.load.peak, 0.0) or 0.0
    else:
        critical_load = seen.critical_recent / gain
        if recent_p50 > 1 or memory.recent_p50 > 1:
            critical_load = max(critical_load, memory.load.last, 0.0)
    best_effort = None if seen.target_recent is None else seen.target_recent / gain
    sent = bounds.limit if best_effort is None or seen.violated else min(best_effort, bounds.limit)
    throughput = None
    if (
        best_effort is not None
        and seen.medians is not None
        and (seen.critical_recent is not None or critical_load == 0)
    ):
        throughput = (seen.critical_recent or 0) / gain + best_effort
    full = bounds.full or (gain < 1 and best_effort is not None and best_effort > FULL * bounds.limit)
    surge, rises, rose = forecaster.compare(memory.load, critical_load, seen.end - 2 * seen.period)
    # Whether there is a queue.
    # A knee that was seen falling is expected to be met again: a smaller rise will do.
    touch = parameters.hesitate if memory.knee.falls else parameters.touch
    if seen.medians is None:
        touch *= _BLURRED
    usual = memory.usual
    tail = seen.shared_p95 - memory.tail if memory.tail else 0.0
    rise = min([one - usual[i] for i, one in enumerate(medians)]) if len(usual) == len(medians) else 0.0
    stands = recent_p50 > 1 and memory.recent_p50 > 1 and recent_p50 > 0.9 * memory.recent_p50
    # Whether the sample shows the limits in force: not traffic from before a cut, and not a violation that
    # only shrinks, with no queue left.
    settling = seen.end - seen.window < memory.settles
    ended = stress <= memory.stress and memory.stress > 1 >= max(recent_p50, memory.recent_p50) and seen.lost <= 0
    # The last tenth of a second decides the window's P95: it shows a queue a period before the last period's median.
    begins = memory.knee.step > 0 and tail > parameters.tail and rise > parameters.hesitate / 2
    stalled = seen.violated and seen.lost <= 0 and seen.shared_p95 < parameters.shaken and rise <= touch
    current = not settling and not ended and not stalled
    # By position, in the order of the fields: names would cost a tenth of the whole proposal.
    return Evidence(
        stress, seconds, critical_load, critical_load + sent, critical_load + bounds.level, throughput, full,
        full and (bounds.hungry or (not bounds.full and bounds.limit < bounds.max)), medians, recent_p50, rise,
        memory.rise, rise > touch or begins, tail if begins else 0.0, stands,
        surge and seen.critical_recent is not None, rises, rose, seen.violated and current,
        stress > parameters.shaken and current, settling, (not seen.violated or stalled) and not settling,
        stalled,
        memory.spiked > 0 and seen.end >= memory.settles and rise <= parameters.hesitate,
    )  # fmt: skip
