"""What one sample says to ``learned``, weighed against what it remembers."""

from msgspec import Struct

from services.control.observation import Observation
from services.control.policies.learned.load_forecast import Forecaster
from services.control.policies.learned.memory import Memory, Parameters
from services.control.policy import Bounds

_SECOND = 1e9
_BLURRED = 2.5
"""How much larger a sign must be where the window's stress stands in for the last period's median."""


class Signs(Struct, frozen=True, gc=False):
    """What this sample says, after weighing it against the memory."""

    seconds: float
    """Length of the period."""
    load: float
    """The critical load, as far as it can be trusted, kbit/s."""
    total: float
    """Load of the last period, kbit/s."""
    allowed: float
    """What it would have been if best effort had filled its limits, kbit/s."""
    through: float | None
    """What was sent in all, kbit/s; None where not measured."""
    used: bool
    """Whether best effort filled its limits, so that the load was worth a lesson."""
    hungry: bool
    """Whether it would use more, too."""
    median: float
    """Of the last period, as a ratio to the P95's SLO."""
    above: float
    """By how much that is above its usual value."""
    was_above: float
    """The same a period ago."""
    queued: bool
    stays: bool
    """A queue stands, did before, and does not shrink."""
    surge: bool
    rose: bool
    """The critical load rose by much, though to nothing unheard of, or had just done so."""
    fresh: bool
    """An SLO is broken anew, and not by what a cut has ended already."""
    shaken: bool
    """One nearly is."""
    settling: bool
    clean: bool


class Scales:
    """Weighs samples."""

    def __init__(self, settings: Parameters, load: Forecaster) -> None:
        """Take the settings, and who knows the load."""
        self._p = settings
        self._load = load

    def _trusted(self, memory: Memory, seen: Observation) -> float:
        """The critical load; at least what it was where a queue crushes it, and where it is not measured any more."""
        if seen.critical_recent is None:
            # Never the default itself: it is left out of the JSON, and is another object when it comes back.
            return max(memory.load.last, memory.load.peak, 0.0) or 0.0
        load = float(seen.critical_recent)
        if (seen.standing or 0.0) > 1 or memory.median > 1:
            return max(load, memory.load.last, 0.0)
        return load

    def weigh(self, memory: Memory, seen: Observation, bounds: Bounds) -> Signs:
        """What a sample says; ``bounds`` are those of all pods together."""
        stress = seen.stress or 0.0
        blurred = seen.standing is None
        median = stress if blurred else seen.standing or 0.0
        above = median - memory.usual if memory.usual else 0.0
        # A knee that was seen falling is expected to be met again: a smaller sign of it will do.
        touch = (self._p.hesitate if memory.knee.falls else self._p.touch) * (_BLURRED if blurred else 1.0)
        load, effort = self._trusted(memory, seen), seen.effort_recent
        sending = bounds.limit if effort is None or seen.violated else min(effort, bounds.limit)
        lost_sight = seen.critical_recent is None and load > 0
        settling = seen.end - seen.window < memory.settles
        stale = memory.stress > 1 and stress <= memory.stress and max(median, memory.median) <= 1 and seen.lost <= 0
        return Signs(
            seconds=seen.period / _SECOND,
            load=load,
            total=load + sending,
            allowed=load + bounds.level,
            through=None if effort is None or blurred or lost_sight else float(seen.critical_recent or 0) + effort,
            used=bounds.full,
            hungry=bounds.hungry,
            median=median,
            above=above,
            was_above=memory.median - memory.usual,
            queued=above > touch,
            stays=median > 1 and memory.median > 1 and median > 0.9 * memory.median,
            surge=seen.critical_recent is not None and self._load.surging(memory.load, load),
            rose=self._load.rose(memory.load, load, seen.end - 2 * seen.period),
            fresh=seen.violated and not settling and not stale,
            settling=settling,
            shaken=stress > self._p.shaken and not settling and not stale,
            clean=not seen.violated and not settling,
        )
