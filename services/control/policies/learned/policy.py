"""``learned``: remembers the knee, touches it without crossing, and leaves room for the load to come.

    u = B - F - lambda

B is the largest total load without a queue (``knee.py``), F the critical load to come
(``load_forecast.py``), and lambda a margin.  The margin grows with each burst that was
too short to be followed, by as much as it was too small for it.  The sum of the limits is u; the shield
has the last word.

What the evidence shows decides what is learned from it:

    queue       the median latency of the last period rose by ``touch`` of the SLO: the knee was touched
    surge       the critical load is above its forecast: that explains the violation, B stays
    persistent  a queue stays after a cut: the capacity dropped to the measured throughput
    spike       the P95 is above its SLO, but there is no queue and nothing was being raised: the host
                stalled.  Nothing is learned, and the limit comes back as fast as the shield allows.  If a
                queue shows in the next periods, the knee fell.  The third spike in a row is the load's
                doing: its bursts are too large
    rise        touches that no lower load ends: latency itself rose, and B returns to what it was

If the critical throughput is never measured, F is 0 and B is the largest safe best-effort load; if it is
not measured for a while, it is taken to be at its peak.  If the last period's median is not measured, the
window's stress replaces it.  Limits of one pod each count as many times as their pods send.
"""

from schemas.domain import Domain
from schemas.messages import LinkEstimate
from services.control.observation import Observation
from services.control.policies.learned.knee import Knee, KneeEstimator
from services.control.policies.learned.load_forecast import (
    LoadForecaster,
    LoadHistory,
    Season,
    byte_to_load,
    follow_season,
    forecast_season,
)
from services.control.policies.learned.memory import Doubt, Evidence, LearnedMemory, LearnedParameters
from services.control.policies.parameters import nameplate, read_parameters
from services.control.policy import Bounds, Proposal

_SECOND = 1e9
_BLURRED = 2.5
"""How much larger a rise must be where the window's stress replaces the last period's median."""
_HARDER = 0.625
"""A probe's step builds up at most SLO / 1.6 within a period; the period's median shows half of it."""
_AGAIN = 60.0
"""Seconds within which a spike belongs to the one before."""
_OFTEN = 2
"""After so many spikes in a row the next is the load's doing: its bursts break an SLO before a queue forms."""
_DOUBTFUL = 3
"""Touches that a lower load did not change, after which latency itself has risen."""

_NO_DOUBT = Doubt()


class Learned:
    """Safe total load minus the critical load to come, minus a margin."""

    version = "learned/3"
    memory_type = LearnedMemory
    parameters_type = LearnedParameters

    def __init__(self, domain: Domain) -> None:
        """Read the domain's capacity, SLOs and parameters.

        Raises:
            ValueError: a parameter is unknown, of the wrong type, or outside its range.
        """
        self._parameters = read_parameters(domain, LearnedParameters)
        self._capacity = float(nameplate(domain))
        self._slo = min(one.p95 for one in domain.critical) / _SECOND
        self._knee = KneeEstimator(self._parameters.knee, self._capacity)
        self._load = LoadForecaster(self._parameters.load, self._capacity)

    def propose(self, memory: LearnedMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Learn from the sample, then leave room for the load to come."""
        end = seen.end
        # Where the number of pods is not known, it is taken to be what it was.
        pods = memory.pods if bounds.pods is None else bounds.pods
        if pods > 1:
            bounds = bounds.for_all_pods(pods)
        evidence = self._gather_evidence(memory, seen, bounds)
        load = self._load.follow(memory.load, evidence.critical_load, end, evidence.seconds, evidence.clean)
        knee, lesson, doubt = self._learn_knee(memory, evidence, end)
        latency_rose = lesson == "latency rose"
        margin, load = self._learn_margin(memory.margin, load, evidence, seen, knee)
        if (evidence.load_rises and evidence.new_violation) or (evidence.surge and evidence.near_violation):
            load = self._load.on_surge(load, memory.load.last, end, expected=not evidence.surge)
        settles = end + seen.period + int(_SECOND / 2) if evidence.new_violation else memory.settles
        waits = end + 2 * seen.period if lesson == "touched" else memory.waits
        season = memory.season
        if load.last > 0:
            season = follow_season(season, load.last, load.peak, end, self._capacity)
        calm, usual = evidence.clean and not evidence.queued, memory.usual
        if latency_rose or (calm and not usual):
            usual = evidence.recent_p50
        elif calm:
            # Small rises are followed within seconds, larger ones within minutes.
            pace = 0.1 if evidence.rise < self._parameters.hesitate / 2 else 0.01
            usual += (evidence.recent_p50 - usual) * pace
        if calm:
            knee, lesson = self._probe(knee, load, season, evidence, end, lesson)
        if season.trusted:
            coming = max(load.last, byte_to_load(forecast_season(season), self._capacity))
        else:
            coming = self._load.forecast(memory.load, load)
        budget = self._budget(knee, coming, margin, evidence, bounds) / pods
        reason = f"{lesson}: safe total {knee.total / 1000:.1f}M, critical load to come {coming / 1000:.1f}M"
        # The load at a spike is kept until it is over.
        spikes, last_spike = memory.spikes, memory.last_spike
        spiked = 0.0 if evidence.clean or lesson == "crossed" else memory.spiked
        if lesson == "spike":
            spikes = spikes + 1 if end - last_spike < _AGAIN * _SECOND else 1
            last_spike, spiked = end, evidence.total_load
        elif knee.met == end and lesson != "crossed":
            spikes, spiked = 0, 0.0
        kept = LearnedMemory(
            knee, load, season, margin, usual, evidence.recent_p50, seen.stress or 0.0, settles, waits, spiked, spikes,
            last_spike, doubt, pods,
        )  # fmt: skip
        headroom = int(knee.total - coming - margin)
        link = LinkEstimate(int(knee.total), int(coming), int(margin), headroom, lesson, knee.met)
        return Proposal(int(max(budget, bounds.min / pods)), reason, kept, link)

    def _gather_evidence(self, memory: LearnedMemory, seen: Observation, bounds: Bounds) -> Evidence:
        """Compare a sample with the memory; ``bounds`` are those of all pods together."""
        seconds, stress = seen.period / _SECOND, seen.stress or 0.0
        # How much was sent.  While a queue throttles the critical load it is at least the last one, and while it
        # is not measured, at its peak.
        if seen.critical_recent is None:
            # Never the default itself: it is left out of the JSON, and is another object when it comes back.
            critical_load = max(memory.load.last, memory.load.peak, 0.0) or 0.0
        else:
            critical_load = float(seen.critical_recent)
            if (seen.recent_p50 or 0.0) > 1 or memory.recent_p50 > 1:
                critical_load = max(critical_load, memory.load.last, 0.0)
        best_effort = seen.target_recent
        sent = bounds.limit if best_effort is None or seen.violated else min(best_effort, bounds.limit)
        throughput = None
        if (
            best_effort is not None
            and seen.recent_p50 is not None
            and (seen.critical_recent is not None or critical_load == 0)
        ):
            throughput = float(seen.critical_recent or 0) + best_effort
        surge, rises, rose = self._load.compare(memory.load, critical_load, seen.end - 2 * seen.period)
        # Whether there is a queue.
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
            bounds.hungry, recent_p50, rise, memory.recent_p50 - memory.usual, rise > touch, queue_persists,
            surge and seen.critical_recent is not None, rises, rose, seen.violated and current,
            stress > self._parameters.shaken and current, settling, not seen.violated and not settling,
        )  # fmt: skip

    def _learn_knee(self, memory: LearnedMemory, evidence: Evidence, end: int) -> tuple[Knee, str, Doubt]:
        """What the sample teaches about the knee, the name of the lesson, and whether to doubt such lessons."""
        known = memory.knee
        if not known.total:
            known = Knee(min(evidence.allowed_load, self._parameters.near * self._capacity))
        if known.falls:
            known = self._knee.follow_fall(known, evidence.seconds, end)
        knee, lesson = self._take_lesson(memory, known, evidence, end)
        doubt = memory.doubt
        # Count touches that a lower load does not change: under a queue it would.
        if evidence.rise <= self._parameters.hesitate or evidence.new_violation:
            doubt = _NO_DOUBT
        elif lesson in ("touched", "fell"):
            if not doubt.touches:
                doubt = Doubt(1, known.total, evidence.rise)
            elif abs(evidence.rise - doubt.rise) > doubt.rise / 4:
                doubt = Doubt(1, doubt.total, evidence.rise)
            else:
                doubt = Doubt(doubt.touches + 1, doubt.total, doubt.rise)
        if doubt.touches >= _DOUBTFUL:
            return self._knee.restore(knee, doubt.total, end), "latency rose", _NO_DOUBT
        return knee, lesson, doubt

    def _take_lesson(self, memory: LearnedMemory, knee: Knee, evidence: Evidence, end: int) -> tuple[Knee, str]:
        throughput = evidence.throughput
        persists = evidence.queue_persists and not evidence.new_violation
        if persists and throughput is not None and evidence.total_load > 1.05 * throughput:
            return self._knee.on_persistent_queue(knee, throughput, end), "a queue stays"
        if memory.spiked and evidence.queued and not evidence.surge:
            return self._touch(knee, min(memory.spiked, knee.total), evidence, end), "fell"
        if evidence.surge and (evidence.new_violation or evidence.queued):
            return self._knee.pause_probe(knee), "load surged"
        caused = evidence.queued and evidence.full and not evidence.load_rose
        if caused and not evidence.settling and end >= memory.waits:
            return self._touch(knee, evidence.total_load, evidence, end), "touched"
        if not evidence.new_violation:
            return knee, "settles" if evidence.settling else "steady"
        often = memory.spikes >= _OFTEN and end - memory.last_spike < _AGAIN * _SECOND
        if evidence.full and (often or knee.step or (not knee.met and evidence.queued)):
            knee, lesson = self._knee.on_crossing(knee, evidence.total_load, end), "crossed"
        else:
            knee, lesson = self._knee.pause_probe(knee), "load rose" if evidence.load_rose else "spike"
        return knee, lesson

    def _touch(self, knee: Knee, total: float, evidence: Evidence, end: int) -> Knee:
        # As if the queue had grown from nothing within the period: its median is half of it.
        excess = min(2 * evidence.rise * self._slo / evidence.seconds, 0.5)
        return self._knee.on_touch(knee, total, excess, end, harder=evidence.new_violation or evidence.rise > _HARDER)

    def _learn_margin(
        self, margin: float, load: LoadHistory, evidence: Evidence, seen: Observation, knee: Knee
    ) -> tuple[float, LoadHistory]:
        """The margin, and the load with a burst that was answered."""
        if not self._load.is_past_burst(load, seen.end):
            least = self._parameters.margin * self._knee.reference_of(knee)
            return max(least, margin * (1 - evidence.seconds / self._parameters.forget)), load
        # By how much the margin was too small, as if the burst's queue had grown within half a period.  A burst
        # that lasted longer than two periods, or that no margin covers, adds the least.
        shortfall = seen.p95 * self._slo / (seen.period / _SECOND / 2) * knee.total
        least, most = self._parameters.eta * self._capacity, self._parameters.margin_max * self._capacity
        short = seen.end - load.surged <= 2 * seen.period
        margin = min(margin + (shortfall if short and least < shortfall < most else least), most)
        return margin, LoadHistory(load.last, load.peak, load.held, load.hold, load.surged, 0.0, load.restless)

    def _probe(
        self, knee: Knee, load: LoadHistory, season: Season, evidence: Evidence, end: int, lesson: str
    ) -> tuple[Knee, str]:
        """Probe the knee again when it is time, the load is steady, and best effort fills its limits."""
        if not evidence.hungry or load.restless == end or not self._load.is_near_peak(load):
            return self._knee.pause_probe(knee), lesson
        margin = self._parameters.margin * self._knee.reference_of(knee)
        if knee.met and not knee.step:
            # A probe begins when it is due and nothing moves, or the knee was met far from where it may be.  A
            # candidate for a season is heeded before it is trusted.
            room = load.last + margin
            if not self._knee.is_due(knee, end) or not (
                self._knee.is_urgent(knee, end)
                or (
                    self._load.is_calm(load, end)
                    and not (season.period and byte_to_load(forecast_season(season), self._capacity) > room)
                )
            ):
                return knee, lesson
        hesitate = self._parameters.hesitate
        if evidence.rise > hesitate or min(evidence.rise, evidence.rise_before) > hesitate / 2:
            return knee, "waits"
        step = min(self._parameters.knee.step, self._slo / (1.6 * evidence.seconds)) * knee.total
        if not knee.met and evidence.total_load < self._parameters.near * self._capacity:
            step = self._parameters.explore * self._capacity * evidence.seconds
        probed = self._knee.step_probe(knee, evidence.allowed_load, margin, step)
        return probed, "probes" if knee.met else "explores"

    def _budget(self, knee: Knee, coming: float, margin: float, evidence: Evidence, bounds: Bounds) -> float:
        """Room under the knee, kbit/s; small changes are not made unless the knee is being sought."""
        reference = self._knee.reference_of(knee)
        room = knee.total - coming - (self._parameters.margin * reference if knee.step or not knee.met else margin)
        # The rate at which the queue has to shrink to be drained in time.
        drain = evidence.recent_p50 * self._slo * knee.total / self._parameters.drain
        if evidence.new_violation:
            # What a surge queued up is drained on top of making room.
            return min(room - (drain if evidence.surge else 0.0), bounds.limit / 2)
        if not evidence.clean or evidence.queued:
            return min(room - (drain if evidence.recent_p50 > 1 else 0.0), bounds.limit)
        up = 0.0 if knee.step else self._parameters.up * reference
        if knee.met and -self._parameters.down * reference < room - bounds.limit < up:
            return bounds.limit
        return room
