"""What one sample shows, compared with what ``learned`` remembers.

What did not come from the shared queue must not be blamed on it.  A queue at the bottleneck delays every critical
workload, so the least rise over the workloads is its sign.  A host that stalls, or outliers, raise some of them only.
"""

from operator import sub

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
    quiet: bool
    """There is neither a queue nor a new violation: nothing shows where the knee is."""
    default_lesson: str
    """What the sample is called if it teaches nothing: ``steady``, ``settles``, ``host stalled``."""


def gather_evidence(
    memory: LearnedMemory, seen: Observation, bounds: Bounds, parameters: LearnedParameters, forecaster: LoadForecaster
) -> Evidence:
    """Compare a sample with the memory; ``bounds`` are those of all pods together."""
    # The hot part of every proposal: comparisons are written out, because calls would cost several times as much.
    end, period, violated, limit, gain = seen.end, seen.period, seen.violated, bounds.limit, memory.gain.value
    stress = seen.stress or 0.0
    medians = seen.medians or (stress,)  # Without medians, the stress replaces them.
    recent_p50 = medians[0] if len(medians) == 1 else min(medians)
    # What was sent: at least the last load while a queue throttles it, its peak while it is not measured.
    throughput, measured = None, seen.critical_recent is not None
    if seen.critical_recent is not None:
        critical_load = flowed = seen.critical_recent / gain
        if recent_p50 > 1 or memory.recent_p50 > 1:
            critical_load = max(critical_load, memory.load.last, 0.0)
    else:
        # Never the default itself: it is left out of the JSON, and is another object when it comes back.
        critical_load, flowed = max(memory.load.last, memory.load.peak, 0.0) or 0.0, 0.0
    full, sent = bounds.full, float(limit)
    if seen.target_recent is not None:
        best_effort = seen.target_recent / gain
        if best_effort <= limit and not violated:
            sent = best_effort
        if seen.medians is not None and (measured or critical_load == 0):
            throughput = flowed + best_effort
        full = full or (gain < 1 and best_effort > FULL * limit)
    # How the critical load compares with the forecast, with the period before, and with what is unrest.
    history, noticeable, surge, rises = memory.load, forecaster.noticeable, False, False
    rose = history.restless >= end - 2 * period
    if history.last >= 0:
        surge = measured and critical_load > history.peak + noticeable
        rises = critical_load > history.last + noticeable
        rose = rose or critical_load - history.last > forecaster.unrest
    # Whether there is a queue.
    hesitate = parameters.hesitate
    touch = hesitate if memory.knee.falls else parameters.touch  # A falling knee is expected to be met again.
    if seen.medians is None:
        touch *= _BLURRED
    rise = min(map(sub, medians, memory.usual)) if len(memory.usual) == len(medians) else 0.0
    probes = memory.knee.step > 0 and memory.tail
    tail = seen.shared_p95 - memory.tail if probes and rise > hesitate / 2 else 0.0
    begins = tail > parameters.tail
    queued = rise > touch or begins
    stands = recent_p50 > 1 and memory.recent_p50 > 1 and recent_p50 > 0.9 * memory.recent_p50
    # Whether the sample shows the limits in force.
    settling = end - seen.window < memory.settles
    stalled, new_violation, near_violation, shaken = False, False, False, stress > parameters.shaken
    if violated or shaken:
        stalled = violated and seen.lost <= 0 and seen.shared_p95 < parameters.shaken and rise <= touch
        current = not settling and not stalled and not _is_ending(memory, seen, stress, recent_p50)
        new_violation, near_violation = violated and current, shaken and current
    # By position, in the order of the fields: names would cost a tenth of the whole proposal.
    return Evidence(
        stress, period / _SECOND, critical_load, critical_load + sent, critical_load + bounds.level, throughput, full,
        full and (bounds.hungry or (not bounds.full and limit < bounds.max)), medians, recent_p50, rise, memory.rise,
        queued, tail if begins else 0.0, stands, surge, rises, rose, new_violation, near_violation, settling,
        (not violated or stalled) and not settling, stalled,
        memory.spiked > 0 and end >= memory.settles and rise <= hesitate,
        not (queued or new_violation or stands), "host stalled" if stalled else "settles" if settling else "steady",
    )  # fmt: skip


def _is_ending(memory: LearnedMemory, seen: Observation, stress: float, recent_p50: float) -> bool:
    """Whether a violation only shrinks, with no queue left."""
    return stress <= memory.stress and memory.stress > 1 >= max(recent_p50, memory.recent_p50) and seen.lost <= 0
