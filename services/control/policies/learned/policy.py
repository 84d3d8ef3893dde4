"""``learned``: remembers the knee, touches it without crossing, and leaves room for the load to come.

    u = B - F - lambda

B is the largest total load under which no queue stands (``knee.py``), F the critical load to come
(``forecast.py``), and lambda a margin that grows with each burst that was too short to be followed, by
what it was too small for it.  The sum of the limits is u; the shield has the last word.

What is seen decides what is learned from it:

    queue       the median latency of the last period rose by ``touch`` of the SLO: the knee was touched
    surge       the critical load is above its forecast: that explains the violation, B stays
    standing    a queue stays after a cut: the capacity fell to what gets through
    spike       the P95 is above its SLO, but no queue stands and nothing was being raised: a host that
                stumbled; nothing is learned, and the limit comes back as fast as the shield lets it,
                unless a queue shows in the next periods: then it was the knee that came down.  The
                third in a row is no host: this load is too much in bursts
    rise        touches that no lower load ends: latency itself rose; what was given up comes back

Where the critical throughput is never measured, F is 0 and B is the largest safe best-effort load itself;
where it is not for a while, it is taken to be at its peak.  Where the last period's median is not measured,
the window's stress stands in for it.  Limits of one pod each count as many times as their pods send.
"""

from schemas.domain import Domain
from services.control.observation import Observation
from services.control.policies.learned.evidence import Scales, Signs
from services.control.policies.learned.knee import Finder, Knee
from services.control.policies.learned.load_forecast import Forecaster, Load
from services.control.policies.learned.memory import Doubt, Memory, Parameters
from services.control.policies.learned.seasonality import Season, followed, forecast, load_of
from services.control.policies.parameters import nameplate, parameters
from services.control.policy import Bounds, Proposal

_SECOND = 1e9
_HARDER = 0.625
"""A probe's step builds up at most SLO / 1.6 within a period, whose median shows half of it."""
_AGAIN = 60.0
"""Seconds within which a spike belongs to the one before."""
_OFTEN = 2
"""After so many spikes in a row the next is the load's doing: its bursts break an SLO before a queue stands."""
_DOUBTFUL = 3
"""Touches that a lower load did not change, after which latency itself has risen."""

_NO_DOUBT = Doubt()


class Learned:
    """See the module's text."""

    version = "learned/3"
    memory_type = Memory

    def __init__(self, domain: Domain) -> None:
        """Read the domain's capacity, SLOs and settings.

        Raises:
            ValueError: a parameter is unknown or of the wrong type.
        """
        self._p = parameters(domain, Parameters)
        self._scale = float(nameplate(domain))
        self._slo = min(one.p95 for one in domain.critical) / _SECOND
        self._knee = Finder(self._p.knee, self._scale)
        self._load = Forecaster(self._p.load, self._scale)
        self._scales = Scales(self._p, self._load)

    def first(self) -> Memory:
        """Nothing is known of knee and load."""
        return Memory()

    def propose(self, memory: Memory, seen: Observation, bounds: Bounds) -> Proposal:
        """Learn from the sample, then leave room for what is coming."""
        # As many as there were, where nobody tells.
        pods = memory.pods if bounds.pods is None else bounds.pods
        if pods > 1:
            bounds = _times(bounds, pods)
        signs = self._scales.weigh(memory, seen, bounds)
        load = self._load.followed(memory.load, signs.load, seen.end, signs.seconds, signs.clean)
        known = memory.knee if memory.knee.total else Knee(min(signs.allowed, self._p.near * self._scale))
        if known.falls:
            known = self._knee.fallen(known, signs.seconds, seen.end)
        knee, lesson = self._lesson(memory, known, signs, seen.end)
        doubt = self._doubted(memory.doubt, known, signs, lesson)
        risen = doubt.touches >= _DOUBTFUL
        if risen:
            knee, lesson, doubt = self._knee.restored(knee, doubt.total, seen.end), "latency rose", _NO_DOUBT
        margin, load = self._margin(memory.margin, load, signs, seen, knee)
        settles = seen.end + seen.period + int(_SECOND / 2) if signs.fresh else memory.settles
        if (signs.fresh and self._load.rising(memory.load, load.last)) or (signs.surge and signs.shaken):
            load = self._load.surged(load, memory.load.last, seen.end, expected=not signs.surge)
        waits = seen.end + 2 * seen.period if lesson == "touched" else memory.waits
        cycle = followed(memory.season, load.last, load.peak, seen.end, self._scale) if load.last > 0 else memory.season
        usual = signs.median if risen else self._usual(memory.usual, signs)
        if signs.clean and not signs.queued:
            knee, lesson = self._probe(knee, load, cycle, signs, seen.end, lesson)
        if cycle.trusted:
            coming = max(load.last, load_of(forecast(cycle), self._scale))
        else:
            coming = self._load.coming(memory.load, load)
        budget = self._budget(knee, coming, margin, signs, bounds) / pods
        reason = f"{lesson}: safe total {knee.total / 1000:.1f}M, critical load to come {coming / 1000:.1f}M"
        spikes, last_spike, spiked = self._spikes(memory, signs, knee, lesson, seen.end)
        kept = Memory(
            knee, load, cycle, margin, usual, signs.median, seen.stress or 0.0, settles, waits, spiked, spikes,
            last_spike, doubt, pods,
        )  # fmt: skip
        return Proposal(int(max(budget, bounds.min / pods)), reason, kept)

    def _doubted(self, doubt: Doubt, known: Knee, signs: Signs, lesson: str) -> Doubt:
        """Count touches that a lower load does not change: under a queue it would."""
        if signs.above <= self._p.hesitate or signs.fresh:
            return _NO_DOUBT
        if lesson not in ("touched", "fell"):
            return doubt
        if not doubt.touches:
            return Doubt(1, known.total, signs.above)
        if abs(signs.above - doubt.above) > doubt.above / 4:
            return Doubt(1, doubt.total, signs.above)
        return Doubt(doubt.touches + 1, doubt.total, doubt.above)

    def _margin(self, margin: float, load: Load, signs: Signs, seen: Observation, knee: Knee) -> tuple[float, Load]:
        """The margin, and the load with a burst that was answered."""
        if not self._load.burst(load, seen.end):
            return max(self._least(knee), margin * (1 - signs.seconds / self._p.forget)), load
        margin = min(margin + self._missed(seen, load, knee), self._p.margin_max * self._scale)
        return margin, Load(load.last, load.peak, load.held, load.hold, load.surged, 0.0, load.restless)

    def _usual(self, usual: float, signs: Signs) -> float:
        if not signs.clean or signs.queued:
            return usual
        pace = 0.1 if signs.above < self._p.hesitate / 2 else 0.01
        return usual + (signs.median - usual) * pace if usual else signs.median

    def _spikes(self, memory: Memory, signs: Signs, knee: Knee, lesson: str, end: int) -> tuple[int, int, float]:
        """How many spikes there were, when the last was, and the load under it until it is over."""
        if lesson == "spike":
            near = end - memory.last_spike < _AGAIN * _SECOND
            return memory.spikes + 1 if near else 1, end, signs.total
        if knee.met == end and lesson != "crossed":
            return 0, memory.last_spike, 0.0
        return memory.spikes, memory.last_spike, 0.0 if signs.clean or lesson == "crossed" else memory.spiked

    def _least(self, knee: Knee) -> float:
        """The least margin, kbit/s."""
        return self._p.margin * self._knee.size(knee)

    def _missed(self, seen: Observation, load: Load, knee: Knee) -> float:
        """By how much the margin was too small for a burst, kbit/s.

        As if its queue had grown within half a period, where it was over in the next two.  One that lasted
        longer, or that no margin covers, adds the least.
        """
        missed = seen.p95 * self._slo / (seen.period / _SECOND / 2) * knee.total
        least = self._p.eta * self._scale
        short = seen.end - load.surged <= 2 * seen.period
        return missed if short and least < missed < self._p.margin_max * self._scale else least

    def _lesson(self, memory: Memory, knee: Knee, signs: Signs, end: int) -> tuple[Knee, str]:
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
        often = memory.spikes >= _OFTEN and end - memory.last_spike < _AGAIN * _SECOND
        if signs.used and (often or knee.step or (not knee.met and signs.queued)):
            knee, lesson = self._knee.crossed(knee, signs.total, end), "crossed"
        else:
            knee, lesson = self._knee.paused(knee), "load rose" if signs.rose else "spike"
        return knee, lesson

    def _touched(self, knee: Knee, total: float, signs: Signs, end: int) -> Knee:
        # As if the queue had grown from nothing within the period: its median is half of it.
        excess = min(2 * signs.above * self._slo / signs.seconds, 0.5)
        return self._knee.touched(knee, total, excess, end, harder=signs.fresh or signs.above > _HARDER)

    def _probe(self, knee: Knee, load: Load, cycle: Season, signs: Signs, end: int, lesson: str) -> tuple[Knee, str]:
        """Ask the knee again when it is time, the load is steady, and best effort fills its limit."""
        if not signs.hungry or load.restless == end or not self._load.high(load):
            return self._knee.paused(knee), lesson
        if knee.met and not knee.step and not self._asked(knee, load, cycle, end):
            return knee, lesson
        if signs.above > self._p.hesitate or min(signs.above, signs.was_above) > self._p.hesitate / 2:
            return knee, "waits"
        step = min(self._p.knee.step, self._slo / (1.6 * signs.seconds)) * knee.total
        if not knee.met and signs.total < self._p.near * self._scale:
            step = self._p.explore * self._scale * signs.seconds
        return self._knee.probed(knee, signs.allowed, self._least(knee), step), "probes" if knee.met else "explores"

    def _asked(self, knee: Knee, load: Load, cycle: Season, end: int) -> bool:
        """Whether it is time for a probe: nothing moves, or the knee was met far from where it may be."""
        if not self._knee.ripe(knee, end):
            return False
        if knee.rough or self._knee.overdue(knee, end):
            return True
        if not self._load.calm(load, end):
            return False
        # A candidate for a season need not be trusted to be heeded.
        return not cycle.period or load_of(forecast(cycle), self._scale) <= load.last + self._least(knee)

    def _budget(self, knee: Knee, coming: float, margin: float, signs: Signs, bounds: Bounds) -> float:
        room = knee.total - coming - (self._least(knee) if knee.step or not knee.met else margin)
        if signs.fresh:
            # What a surge queued up is drained on top of making room.
            return min(room - (self._queued(signs, knee) if signs.surge else 0.0), bounds.limit / 2)
        if not signs.clean or signs.queued:
            return min(room - (self._queued(signs, knee) if signs.median > 1 else 0.0), bounds.limit)
        size = self._knee.size(knee)
        up = 0.0 if knee.step else self._p.up * size
        if knee.met and -self._p.down * size < room - bounds.limit < up:
            return bounds.limit
        return room

    def _queued(self, signs: Signs, knee: Knee) -> float:
        """The rate at which the queue has to shrink to be drained in time, kbit/s."""
        return signs.median * self._slo * knee.total / self._p.drain


def _times(bounds: Bounds, pods: float) -> Bounds:
    """Bounds of all pods together, where the limits are those of one."""
    least, most, fail_safe, limit, level = (
        int(one * pods) for one in (bounds.min, bounds.max, bounds.fail_safe, bounds.limit, bounds.level)
    )
    return Bounds(least, most, fail_safe, limit, level, bounds.full, bounds.hungry, pods)
