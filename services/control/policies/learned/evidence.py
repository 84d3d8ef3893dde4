"""What one sample shows, compared with what ``learned`` remembers."""

from msgspec import Struct

from services.control.observation import Observation
from services.control.policies.learned.load_forecast import LoadForecaster
from services.control.policies.learned.memory import LearnedMemory, LearnedParameters
from services.control.policy import Bounds

_SECOND = 1e9
_BLURRED = 2.5
"""How much larger a rise must be where the window's stress stands in for the last period's median."""


class Evidence(Struct, frozen=True, gc=False):
    """What the sample shows.  Rates are kbit/s over the last period; latencies are ratios to the P95's SLO."""

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
    recent_p50: float
    """Median latency over the last period."""
    rise: float
    """By how much that is above its usual value."""
    rise_before: float
    """The same a period ago."""
    queued: bool
    """A queue stands: the median rose by as much as a touch does."""
    queue_persists: bool
    """A queue stands, stood a period ago, and does not shrink."""
    surge: bool
    """The critical load is above its forecast."""
    load_rose: bool
    """The critical load rose by much, this period or last, within what was forecast or not."""
    new_violation: bool
    """An SLO is broken, and not by traffic that a cut has ended already."""
    near_violation: bool
    """The stress is high enough to show that the margin was too small."""
    settling: bool
    """The window still sees traffic from before the last cut."""
    clean: bool
    """No SLO is broken, and nothing is settling."""


class EvidenceBuilder:
    """Builds the evidence of one sample after the other."""

    def __init__(self, parameters: LearnedParameters, load: LoadForecaster) -> None:
        """Take the thresholds, and the forecaster that knows what load was expected."""
        self._parameters = parameters
        self._load = load

    def build(self, memory: LearnedMemory, seen: Observation, bounds: Bounds) -> Evidence:
        """Compare a sample with the memory; ``bounds`` are those of all pods together."""
        seconds, stress = seen.period / _SECOND, seen.stress or 0.0
        # How much was sent.
        critical_load = self._trust_load(memory, seen)
        best_effort = seen.target_recent
        sent = bounds.limit if best_effort is None or seen.violated else min(best_effort, bounds.limit)
        throughput = None
        if (
            best_effort is not None
            and seen.recent_p50 is not None
            and (seen.critical_recent is not None or critical_load == 0)
        ):
            throughput = float(seen.critical_recent or 0) + best_effort
        surge = seen.critical_recent is not None and self._load.is_surging(memory.load, critical_load)
        load_rose = self._load.has_risen(memory.load, critical_load, seen.end - 2 * seen.period)
        # Whether a queue stands.
        # A knee that was seen falling is expected to be met again: a smaller rise will do.
        touch = self._parameters.hesitate if memory.knee.falls else self._parameters.touch
        recent_p50 = seen.recent_p50
        if recent_p50 is None:
            recent_p50, touch = stress, touch * _BLURRED
        rise = recent_p50 - memory.usual if memory.usual else 0.0
        queue_persists = recent_p50 > 1 and memory.recent_p50 > 1 and recent_p50 > 0.9 * memory.recent_p50
        # Whether the sample shows the limits in force: not traffic from before a cut, and not a violation that
        # only shrinks, with no queue left.
        settling = seen.end - seen.window < memory.settles
        ended = stress <= memory.stress and memory.stress > 1 >= max(recent_p50, memory.recent_p50) and seen.lost <= 0
        current = not settling and not ended
        # By position, in the order of the fields: names would cost a tenth of the whole proposal.
        return Evidence(
            seconds, critical_load, critical_load + sent, critical_load + bounds.level, throughput, bounds.full,
            bounds.hungry, recent_p50, rise, memory.recent_p50 - memory.usual, rise > touch, queue_persists, surge,
            load_rose, seen.violated and current, stress > self._parameters.shaken and current, settling,
            not seen.violated and not settling,
        )  # fmt: skip

    def _trust_load(self, memory: LearnedMemory, seen: Observation) -> float:
        """The critical load: at least the last one while a queue throttles it, at its peak while it is not measured."""
        if seen.critical_recent is None:
            # Never the default itself: it is left out of the JSON, and is another object when it comes back.
            return max(memory.load.last, memory.load.peak, 0.0) or 0.0
        load = float(seen.critical_recent)
        if (seen.recent_p50 or 0.0) > 1 or memory.recent_p50 > 1:
            return max(load, memory.load.last, 0.0)
        return load
