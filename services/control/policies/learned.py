"""``learned``: remembers the knee, touches it without crossing, and leaves room for the load to come.

    u = B - F - lambda

B is the largest total load under which no queue stands (``knee.py``), F the critical load to come
(``forecast.py``), and lambda a margin that grows by ``eta`` with each burst that was too short to be
followed.  The sum of the limits is u; the shield has the last word.

What is seen decides what is learned from it:

    queue       the median latency of the last period rose by ``touch`` of the SLO: the knee was touched
    surge       the critical load is above its forecast: that explains the violation, B stays
    standing    a queue stays after a cut: the capacity fell to what gets through
    spike       the P95 is above its SLO, but no queue stands and nothing was being raised: a host that
                stumbled; nothing is learned, and the limit comes back as fast as the shield lets it,
                unless a queue shows in the next periods: then it was the knee that came down

Where the critical throughput is not measured, F is 0 and B is the largest safe best-effort load itself;
where the last period's median is not, the window's stress stands in for it.
"""

from msgspec import Struct, field

from schemas.domain import Domain
from services.control.observe import Observation
from services.control.policies.forecast import Forecaster, Load, Outlook
from services.control.policies.knee import Finder, Habits, Knee
from services.control.policies.parameters import nameplate, parameters
from services.control.policies.season import Season, followed, forecast, load_of
from services.control.policy import Bounds, Proposal

_SECOND = 1e9
_HARDER = 0.625
"""A probe's step builds up at most SLO / 1.6 within a period, whose median shows half of it."""


class Parameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Settings; shares are of the capacity."""

    margin: float = 0.0075
    """Least distance to the knee."""
    margin_max: float = 0.1
    eta: float = 0.01
    """What a burst adds to the margin, at least."""
    shaken: float = 0.7
    """From this stress on, the margin was too small for a burst, though no SLO was broken."""
    forget: float = 2000.0
    """Time constant with which the margin shrinks again, seconds."""
    explore: float = 0.08
    """Rise in a second while the knee is unknown and far."""
    near: float = 0.9
    """From this share of the nameplate capacity on, the unknown knee is taken to be near."""
    touch: float = 0.15
    """Rise of the median over its usual value, as a share of the P95's SLO, that means a queue."""
    hesitate: float = 0.07
    """A rise by this much stops a probe until it is gone or has become a touch."""
    drain: float = 0.3
    """Seconds in which a queue is to be drained after a surge."""
    down: float = 0.0075
    up: float = 0.01
    """Smaller changes of the limit are not made, unless the knee is being sought."""
    knee: Habits = field(default_factory=Habits)
    load: Outlook = field(default_factory=Outlook)


class Memory(Struct, frozen=True, omit_defaults=True, gc=False):
    """All that is remembered."""

    knee: Knee = Knee()
    load: Load = Load()
    season: Season = Season()
    margin: float = 0.0
    """kbit/s."""
    usual: float = 0.0
    """Median latency without a queue, as a ratio to the P95's SLO; 0 before the first sample."""
    median: float = 0.0
    """The last one."""
    stress: float = 0.0
    """The last one."""
    settles: int = 0
    """Windows that start before this still see traffic from before the last cut, ns."""
    waits: int = 0
    """Periods that end before this still see the queue of the last touch, ns."""
    spiked: float = 0.0
    """Total load under which the last spike was seen, until it is over; kbit/s."""


class _Signs(Struct, frozen=True, gc=False):
    """What this sample says, after weighing it against the memory."""

    seconds: float
    """Length of the period."""
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


class Learned:
    """See the module's text."""

    version = "learned/2"
    memory_type = Memory

    def __init__(self, domain: Domain) -> None:
        """Read the domain's capacity, SLOs and settings.

        Raises:
            ValueError: a parameter is unknown or of the wrong type.
        """
        self._p = parameters(domain, Parameters)
        self._scale = float(nameplate(domain))
        self._slo = min(one.p95 for one in domain.critical) / _SECOND
        self._least = self._p.margin * self._scale
        self._knee = Finder(self._p.knee, self._scale)
        self._load = Forecaster(self._p.load, self._scale)

    def first(self) -> Memory:
        """Nothing is known of knee and load."""
        return Memory(margin=self._least)

    def propose(self, memory: Memory, seen: Observation, bounds: Bounds) -> Proposal:
        """Learn from the sample, then leave room for what is coming."""
        signs = self._signs(memory, seen, bounds)
        load = self._load.followed(memory.load, self._trusted(memory, seen), seen.end, signs.seconds, signs.clean)
        known = memory.knee if memory.knee.total else Knee(min(signs.allowed, self._p.near * self._scale))
        if known.falls:
            known = self._knee.fallen(known, signs.seconds, seen.end)
        knee, lesson = self._lesson(memory, known, signs, seen.end)
        margin, settles, waits = memory.margin, memory.settles, memory.waits
        if self._load.burst(load, seen.end):
            margin = min(margin + self._missed(seen, load, knee), self._p.margin_max * self._scale)
            load = Load(load.last, load.peak, load.held, load.hold, load.surged, 0.0, load.restless)
        else:
            margin = max(self._least, margin * (1 - signs.seconds / self._p.forget))
        if signs.fresh:
            settles = seen.end + seen.period + int(_SECOND / 2)
        if (signs.fresh and self._load.rising(memory.load, load.last)) or (signs.surge and signs.shaken):
            load = self._load.surged(load, memory.load.last, seen.end, expected=not signs.surge)
        if lesson == "touched":
            waits = seen.end + 2 * seen.period
        cycle = followed(memory.season, load.last, load.peak, seen.end, self._scale) if load.last > 0 else memory.season
        spiked = signs.total if lesson == "spike" else 0.0 if signs.clean or knee.met == seen.end else memory.spiked
        usual = memory.usual
        if signs.clean and not signs.queued:
            pace = 0.1 if signs.above < self._p.hesitate / 2 else 0.01
            usual += (signs.median - usual) * pace if usual else signs.median
            rises = cycle.period > 0 and load_of(forecast(cycle), self._scale) > load.last + self._least
            knee, lesson = self._probe(knee, load, signs, seen.end, lesson, rises)
        coming = self._load.coming(memory.load, load)
        if cycle.trusted:
            coming = max(load.last, load_of(forecast(cycle), self._scale))
        budget = self._budget(knee, coming, margin, signs, bounds)
        reason = f"{lesson}: safe total {knee.total / 1000:.1f}M, critical load to come {coming / 1000:.1f}M"
        kept = Memory(knee, load, cycle, margin, usual, signs.median, seen.stress or 0.0, settles, waits, spiked)
        return Proposal(int(max(budget, bounds.min)), reason, kept)

    def _missed(self, seen: Observation, load: Load, knee: Knee) -> float:
        """By how much the margin was too small for a burst, kbit/s.

        As if its queue had grown within half a period, where it was over in the next two.  One that lasted
        longer, or that no margin covers, adds the least.
        """
        missed = seen.p95 * self._slo / (seen.period / _SECOND / 2) * knee.total
        least = self._p.eta * self._scale
        short = seen.end - load.surged <= 2 * seen.period
        return missed if short and least < missed < self._p.margin_max * self._scale else least

    def _trusted(self, memory: Memory, seen: Observation) -> float:
        """The critical load; at least what it was where a queue crushes it, and where it is not measured any more."""
        if seen.critical_recent is None:
            return max(memory.load.last, memory.load.peak)
        load = float(seen.critical_recent)
        if (seen.standing or 0.0) > 1 or memory.median > 1:
            return max(load, memory.load.last, 0.0)
        return load

    def _signs(self, memory: Memory, seen: Observation, bounds: Bounds) -> _Signs:
        stress = seen.stress or 0.0
        blurred = seen.standing is None
        median = stress if blurred else seen.standing or 0.0
        above = median - memory.usual if memory.usual else 0.0
        # A knee that was seen falling is expected to be met again: a smaller sign of it will do.
        touch = (self._p.hesitate if memory.knee.falls else self._p.touch) * (2.5 if blurred else 1.0)
        load, effort = self._trusted(memory, seen), seen.effort_recent
        sending = bounds.limit if effort is None or seen.violated else min(effort, bounds.limit)
        settling = seen.end - seen.window < memory.settles
        stale = memory.stress > 1 and stress <= memory.stress and max(median, memory.median) <= 1 and seen.lost <= 0
        return _Signs(
            seconds=seen.period / _SECOND,
            total=load + sending,
            allowed=load + bounds.level,
            through=None if effort is None or blurred else float(seen.critical_recent or 0) + effort,
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

    def _lesson(self, memory: Memory, knee: Knee, signs: _Signs, end: int) -> tuple[Knee, str]:
        """What the sample teaches about the knee, and its name."""
        if signs.stays and not signs.fresh and signs.through is not None and signs.total > 1.05 * signs.through:
            return self._knee.standing(knee, signs.through, end), "a queue stays"
        if memory.spiked and signs.queued and not signs.surge:
            return self._touched(knee, min(memory.spiked, knee.total), signs, end), "fell"
        if signs.surge and (signs.fresh or signs.queued):
            return self._knee.paused(knee), "load surged"
        if signs.queued and signs.used and not signs.settling and end >= memory.waits and not signs.rose:
            return self._touched(knee, signs.total, signs, end), "touched"
        if not signs.fresh:
            return knee, "settles" if signs.settling else "steady"
        if signs.used and (knee.step or not knee.met):
            knee, lesson = self._knee.crossed(knee, signs.total, end), "crossed"
        else:
            knee, lesson = self._knee.paused(knee), "load rose" if signs.rose else "spike"
        return knee, lesson

    def _touched(self, knee: Knee, total: float, signs: _Signs, end: int) -> Knee:
        # As if the queue had grown from nothing within the period: its median is half of it.
        excess = min(2 * signs.above * self._slo / signs.seconds, 0.5)
        return self._knee.touched(knee, total, excess, end, harder=signs.fresh or signs.above > _HARDER)

    def _probe(
        self, knee: Knee, load: Load, signs: _Signs, end: int, lesson: str, rises: bool
    ) -> tuple[Knee, str]:
        """Ask the knee again when it is time, the load is steady, and best effort fills its limit."""
        if not signs.hungry or load.restless == end or not self._load.high(load):
            return self._knee.paused(knee), lesson
        calm = self._load.calm(load, end) and not rises
        asked = self._knee.ripe(knee, end) and (calm or knee.rough or self._knee.overdue(knee, end))
        if knee.met and not knee.step and not asked:
            return knee, lesson
        if signs.above > self._p.hesitate or min(signs.above, signs.was_above) > self._p.hesitate / 2:
            return knee, "waits"
        step = min(self._p.knee.step, self._slo / (1.6 * signs.seconds)) * knee.total
        if not knee.met and signs.total < self._p.near * self._scale:
            step = self._p.explore * self._scale * signs.seconds
        return self._knee.probed(knee, signs.allowed, self._least, step), "probes" if knee.met else "explores"

    def _budget(self, knee: Knee, coming: float, margin: float, signs: _Signs, bounds: Bounds) -> float:
        room = knee.total - coming - (self._least if knee.step or not knee.met else margin)
        if signs.fresh:
            # What a surge queued up is drained on top of making room.
            return min(room - (self._queued(signs, knee) if signs.surge else 0.0), bounds.limit / 2)
        if not signs.clean or signs.queued:
            return min(room - (self._queued(signs, knee) if signs.median > 1 else 0.0), bounds.limit)
        up = 0.0 if knee.step else self._p.up * self._scale
        if knee.met and -self._p.down * self._scale < room - bounds.limit < up:
            return bounds.limit
        return room

    def _queued(self, signs: _Signs, knee: Knee) -> float:
        """The rate at which the queue has to shrink to be drained in time, kbit/s."""
        return signs.median * self._slo * knee.total / self._p.drain
