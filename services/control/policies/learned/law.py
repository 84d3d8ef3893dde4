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

from math import inf

from schemas.link import LinkEstimate
from services.control.observation import Observation
from services.control.policies.learned.evidence import Evidence, gather_evidence
from services.control.policies.learned.gain import follow_gain, tested_limit
from services.control.policies.learned.knee import PASSED, Knee, KneeEstimator
from services.control.policies.learned.load_forecast import (
    LoadForecaster,
    LoadHistory,
    Season,
    byte_to_load,
    follow_season,
    forecast_season,
)
from services.control.policies.learned.memory import Blame, Doubt, LearnedMemory, LearnedParameters
from services.control.policy import Bounds, Proposal

_SECOND = 1e9
_AGAIN = 60.0
"""Seconds within which a spike belongs to the one before."""
_OFTEN = 2
"""After so many spikes in a row the next is the load's doing: its bursts break an SLO before a queue forms."""
_MOVES, _MOVING = 30.0, 0.5
"""Seconds after the knee was met in which it may move on, where so many meetings that broke an SLO are remembered."""
_NEAR = 0.9
"""Under less than this share of the knee, a spike is not the load's doing."""
_ALIKE = 0.2
"""Violations whose stress differs by less than this share are alike."""
_EXCUSED = 600.0
"""Seconds for which violations at rest are not the load's doing, once lower loads did not change them."""
_BROKE = 300.0
"""Time constant with which it is forgotten that meeting the knee broke an SLO, seconds."""
_ONCE = 4.0
"""Seconds within which the knee is met again by the same fall."""
_DEAR = 12.0
"""Seconds until the next probe after the knee was met so; three times as long with each time that is remembered."""
_SHY = 0.05
"""Share by which the knee is then taken to move on for each earlier time that is remembered, up to three."""
_WORSE = 1.5
"""A stress so many times what is excused is not excused."""
_SERIES = 120.0
"""Seconds within which a violation belongs to the one before."""
_SUDDEN = 4.0
"""A stress so many times the median's rise came too suddenly for a load at rest: as if a host had stalled."""
_SETTLES = 500_000_000
"""Time beyond the next period in which a cut shows in full, ns."""
_DOUBTFUL = 3
"""Touches that a lower load did not change, after which latency itself has risen."""

_LAST = 0.95
"""Share of the capacity beyond which a probe never doubles its steps: the knee cannot be far."""

_NO_DOUBT = Doubt()
_NO_BLAME = Blame()


class Law:
    """Safe total load minus the critical load to come, minus a margin."""

    def __init__(self, parameters: LearnedParameters, slo: float, capacity: float, scale: float = 0.0) -> None:
        """Take the settings of one domain.

        Args:
            parameters: of the policy.
            slo: the tightest P95, seconds.
            capacity: what shares are of, kbit/s.
            scale: the same where it is an estimate to be remembered; 0 where it is configured.
        """
        self._parameters = parameters
        self._slo = slo
        self._capacity = capacity
        self.scale = scale
        self._hesitate, self._small = parameters.hesitate, parameters.hesitate / 2
        self._knee = KneeEstimator(parameters.knee, capacity)
        self._load = LoadForecaster(parameters.load, capacity)

    def propose(self, memory: LearnedMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Learn from the sample, then leave room for the load to come."""
        end = seen.end
        # Where the number of pods is not known, it is taken to be what it was.
        pods = memory.pods if bounds.pods is None else bounds.pods
        if pods > 1:
            bounds = bounds.for_all_pods(pods)
        evidence = gather_evidence(memory, seen, bounds, self._parameters, self._load)
        load = self._load.follow(memory.load, evidence.critical_load, end, evidence.seconds, evidence.clean)
        knee, lesson, doubt = self._learn_knee(memory, evidence, end)
        left = 1 - evidence.seconds / _BROKE
        blame, broke = memory.blame, memory.broke * (left if left > 0 else 0.0)
        if knee.met == end or evidence.stands or blame.excused > end:
            knee, lesson, blame = self._doubt_blame(memory, evidence, knee, lesson, end)
            knee, broke = self._wait_longer(memory, knee, lesson, broke, seen)
        margin, load = self._learn_margin(memory, load, evidence, seen, knee)
        if (evidence.load_rises and evidence.new_violation) or (evidence.surge and evidence.near_violation):
            load = self._load.on_surge(load, memory.load.last, end, expected=not evidence.surge)
        # A season is kept in units of the scale.
        season = memory.season if memory.scale == self.scale else Season()
        if load.last > 0:
            season = follow_season(season, load.last, load.peak, end, self._capacity)
        passed: tuple[float, ...] = ()
        tail, gain, usual = memory.tail, memory.gain, evidence.medians if lesson == "latency rose" else memory.usual
        if evidence.clean and not evidence.queued:
            tail += (seen.shared_p95 - tail) * (0.1 if tail else 1.0)
            usual = _follow_usual(usual, evidence.medians, self._small)
            knee, passed = self._learn_passed(knee, memory.passed, evidence)
            knee, lesson = self._probe(knee, load, season, evidence, end, lesson)
            if seen.target_recent is not None and bounds.limit:
                gain = follow_gain(gain, seen.target_recent, bounds.limit, end)
        if season.trusted and self._load.leaps(load, end):
            coming = max(load.last, byte_to_load(forecast_season(season), self._capacity))
        else:
            coming = self._load.forecast(memory.load, load)
        budget = self._budget(knee, coming, margin, evidence, bounds.limit)
        if gain.steady:
            budget = min(budget, tested_limit(gain, end, seen.period))
        spikes, last_spike, spiked = memory.spikes, memory.last_spike, 0.0 if evidence.clean else memory.spiked
        if not evidence.quiet or knee.met == end:
            spikes, last_spike, spiked = self._count_spikes(memory, evidence, knee, lesson, end)
        kept = LearnedMemory(
            knee, load, season, margin, usual, tail, evidence.recent_p50, evidence.rise, evidence.stress,
            end + seen.period + _SETTLES if evidence.new_violation else memory.settles,
            end + 2 * seen.period if lesson == "touched" else memory.waits,
            spiked, spikes, last_spike, doubt, pods, passed, gain, self.scale, memory.distrusted, blame, broke,
            evidence.throughput or 0.0,
        )  # fmt: skip
        total = knee.total
        reason = f"{lesson}: safe total {total / 1000:.1f}M, critical load to come {coming / 1000:.1f}M"
        link = LinkEstimate(int(total), int(coming), int(margin), int(total - coming - margin), lesson, knee.met)
        return Proposal(int(max(budget / pods, bounds.min / pods)), reason, kept, link)

    def _count_spikes(
        self, memory: LearnedMemory, evidence: Evidence, knee: Knee, lesson: str, end: int
    ) -> tuple[int, int, float]:
        """Spikes in a row, when the last one was, and the load at it, which is kept until it is over."""
        if lesson == "spike":
            near = evidence.total_load >= _NEAR * knee.total
            follows = end - memory.last_spike < _AGAIN * _SECOND
            # One that happens under a far lower load, too, is not the load's doing.
            return (memory.spikes + 1 if follows else 1) if near else 0, end, evidence.total_load
        if knee.met == end and lesson != "crossed":
            return 0, memory.last_spike, 0.0
        return memory.spikes, memory.last_spike, 0.0 if evidence.clean or lesson == "crossed" else memory.spiked

    def _learn_knee(self, memory: LearnedMemory, evidence: Evidence, end: int) -> tuple[Knee, str, Doubt]:
        """What the sample teaches about the knee, the name of the lesson, and whether to doubt such lessons."""
        known = memory.knee
        if not known.total:
            known = Knee(min(evidence.allowed_load, self._parameters.near * self._capacity))
        if known.falls:
            known = self._knee.follow_fall(known, evidence.seconds, end)
        knee, lesson, doubt = known, evidence.default_lesson, memory.doubt
        if not evidence.quiet:
            knee, lesson = self._take_lesson(memory, known, evidence, end)
        # Count touches that a lower load does not change: under a queue it would.
        if evidence.rise <= self._hesitate or evidence.new_violation:
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

    def _wait_longer(
        self, memory: LearnedMemory, knee: Knee, lesson: str, broke: float, seen: Observation
    ) -> tuple[Knee, float]:
        """Probe more rarely where the knee is not met without breaking an SLO; and how often it was of late."""
        if lesson in ("not the load", "latency rose"):
            return knee, 0.0
        if knee.met != seen.end or not seen.violated:
            return knee, broke
        if seen.end - memory.knee.met > _ONCE * _SECOND:
            broke += 1
        return self._knee.wait(knee, _DEAR * 3 ** (broke - 1), 1 - _SHY * min(max(broke - 1, 0.0), 3.0)), broke

    def _doubt_blame(
        self, memory: LearnedMemory, evidence: Evidence, knee: Knee, lesson: str, end: int
    ) -> tuple[Knee, str, Blame]:
        """Count violations at rest that were all alike, although each lowered the load: it did not cause them."""
        blame, before, stress = memory.blame, memory.knee, evidence.stress
        if evidence.stands or (blame.excused > end and stress > _WORSE * blame.stress):
            # No host stalls for so long; or what was excused has become worse under the load that was given back.
            return knee, lesson, _NO_BLAME
        if knee.met != end or before.step or not evidence.new_violation or evidence.throughput is None:
            return knee, lesson, blame
        alike = end - blame.last < _SERIES * _SECOND and abs(stress - blame.stress) < _ALIKE * blame.stress
        if not alike:
            return knee, lesson, Blame(1, before.total, stress, end, blame.excused)
        if blame.count + 1 < _DOUBTFUL:
            return knee, lesson, Blame(blame.count + 1, blame.total, blame.stress, end, blame.excused)
        excused = end + int(_EXCUSED * _SECOND)
        worst = max(blame.stress, stress)
        return self._knee.restore(knee, blame.total, end), "not the load", Blame(stress=worst, excused=excused)

    def _take_lesson(self, memory: LearnedMemory, knee: Knee, evidence: Evidence, end: int) -> tuple[Knee, str]:
        throughput = evidence.throughput
        if evidence.stands and throughput is not None:
            # Of what flows in, as much as the capacity flows out, and the queue grows by the rest.
            # Between the middles of both periods, where their medians are.
            growth = (evidence.recent_p50 - memory.recent_p50) * self._slo / evidence.seconds
            capacity = (throughput + (memory.flowed or throughput)) / 2 / (1 + max(growth, 0.0))
            if evidence.total_load > 1.05 * capacity or knee.total > 1.05 * capacity:
                return self._knee.on_persistent_queue(knee, capacity, end), "a queue stays"
        if memory.spiked and evidence.queued and not evidence.surge:
            return self._touch(knee, min(memory.spiked, knee.total), evidence, end), "fell"
        if evidence.surge and (evidence.new_violation or evidence.queued):
            return self._knee.pause_probe(knee), "load surged"
        caused = evidence.queued and evidence.full and not evidence.load_rose
        stalls = evidence.new_violation and not knee.step and evidence.stress > _SUDDEN * evidence.rise
        excused = end < memory.blame.excused and evidence.rise_before <= self._parameters.touch
        if (
            caused
            and not stalls
            and not (excused and evidence.new_violation)
            and not evidence.settling
            and end >= memory.waits
        ):
            return self._touch(knee, evidence.total_load, evidence, end), "touched"
        if not evidence.new_violation:
            return knee, evidence.default_lesson
        near = not excused and evidence.total_load > _NEAR * knee.total
        often = near and memory.spikes >= _OFTEN and end - memory.last_spike < _AGAIN * _SECOND
        # A knee that broke an SLO when it was met, not long ago, has more likely moved on than a host stalled.
        moves = memory.broke > _MOVING and end - memory.knee.met < _MOVES * _SECOND
        often = often or (near and moves and not evidence.load_rose)
        if evidence.full and (often or knee.step or (not knee.met and evidence.queued)):
            knee, lesson = self._knee.on_crossing(knee, evidence.total_load, end), "crossed"
        else:
            knee, lesson = self._knee.pause_probe(knee), "load rose" if evidence.load_rose else "spike"
        return knee, lesson

    def _learn_passed(
        self, knee: Knee, passed: tuple[float, ...], evidence: Evidence
    ) -> tuple[Knee, tuple[float, ...]]:
        """Raise the knee to what has flowed without a queue for four periods."""
        if evidence.throughput is None:
            return knee, ()
        passed = (*passed[-3:], evidence.throughput)
        # The least of four loads is worth finding only if the last one is above what is known to be safe.
        if len(passed) == 4 and knee.total < PASSED * evidence.throughput:
            knee = self._knee.on_passed(knee, min(passed))
        return knee, passed

    def _touch(self, knee: Knee, total: float, evidence: Evidence, end: int) -> Knee:
        # As if the queue had grown from nothing within the period: its median is half of it.
        excess = min(max(2 * evidence.rise, evidence.tail) * self._slo / evidence.seconds, 0.5)
        return self._knee.on_touch(knee, total, excess, end)

    def _learn_margin(
        self, memory: LearnedMemory, load: LoadHistory, evidence: Evidence, seen: Observation, knee: Knee
    ) -> tuple[float, LoadHistory]:
        """The margin, and the load with a burst that was answered."""
        margin = memory.margin
        if not load.before or not self._load.is_past_burst(load, seen.end):
            least = self._parameters.margin * self._knee.reference_of(knee)
            if memory.load.before:
                stair = self._load.measure_stair(memory.load, load)
                if stair < self._parameters.stair * self._capacity:
                    least = max(least, stair)
            if knee.met == seen.end and evidence.new_violation and not memory.knee.step:
                # The knee came to meet a load at rest: the capacity moves by more than the margin.
                most = self._parameters.margin_max * self._knee.reference_of(knee)
                margin = min(margin + self._parameters.eta * self._knee.reference_of(knee), most)
            margin *= 1 - evidence.seconds / self._parameters.forget
            return margin if margin > least else least, load
        # By how much the margin was too small, as if the burst's queue had grown within half a period.  A burst
        # that lasted longer than two periods, or that no margin covers, adds the least.
        shortfall = seen.p95 * self._slo / (seen.period / _SECOND / 2) * knee.total
        least, most = self._parameters.eta * self._capacity, self._parameters.margin_max * self._capacity
        short = seen.end - load.surged <= 2 * seen.period
        margin = min(margin + (shortfall if short and least < shortfall < most else least), most)
        return margin, LoadHistory(
            load.last, load.peak, load.held, load.hold, load.surged, 0.0, load.restless, load.slope, load.slack
        )

    def _probe(
        self, knee: Knee, load: LoadHistory, season: Season, evidence: Evidence, end: int, lesson: str
    ) -> tuple[Knee, str]:
        """Probe the knee again when it is time, the load is steady, and best effort fills its limits."""
        if not evidence.hungry or load.restless == end or not self._load.is_near_peak(load):
            return self._knee.pause_probe(knee), lesson
        begins = knee.met > 0 and not knee.step
        if begins and not self._knee.is_due(knee, end):
            return knee, lesson
        margin = self._parameters.margin * self._knee.reference_of(knee)
        if begins and not self._knee.is_urgent(knee, end):
            # A probe begins when it is due and nothing moves, or the knee was met far from where it may be.  A
            # candidate for a season is heeded before it is trusted.
            room = load.last + margin
            if not self._load.is_calm(load, end) or (
                season.period and byte_to_load(forecast_season(season), self._capacity) > room
            ):
                return knee, lesson
        if evidence.rise > self._hesitate or min(evidence.rise, evidence.rise_before) > self._small:
            return knee, "waits"
        step = min(self._parameters.knee.step, self._slo / (1.6 * evidence.seconds)) * knee.total
        if not knee.met and evidence.total_load < self._parameters.near * self._capacity:
            step = self._parameters.explore * self._capacity * evidence.seconds
        # An estimate of the capacity says nothing of how far the knee may be.
        near = inf if self.scale else _LAST * self._capacity
        probed = self._knee.step_probe(knee, evidence.allowed_load, margin, step, near)
        return probed, "probes" if knee.met else "explores"

    def _budget(self, knee: Knee, coming: float, margin: float, evidence: Evidence, limit: int) -> float:
        """Room under the knee, kbit/s; small changes are not made unless the knee is being sought."""
        reference = self._knee.reference_of(knee)
        room = knee.total - coming - (self._parameters.margin * reference if knee.step else margin)
        if evidence.new_violation:
            # What a surge queued up is drained on top of making room.
            return min(room - (self._drain(knee, evidence) if evidence.surge else 0.0), limit / 2)
        if evidence.recovers:
            return room
        if not evidence.clean or evidence.queued:
            return min(room - (self._drain(knee, evidence) if evidence.recent_p50 > 1 else 0.0), limit)
        if knee.met:
            up = 0.0 if knee.step else self._parameters.up * reference
            if -self._parameters.down * reference < room - limit < up:
                return limit
        return room

    def _drain(self, knee: Knee, evidence: Evidence) -> float:
        """The rate at which the queue has to shrink to be drained in time, kbit/s."""
        return evidence.recent_p50 * self._slo * knee.total / self._parameters.drain


def _follow_usual(usual: tuple[float, ...], medians: tuple[float, ...], small: float) -> tuple[float, ...]:
    """The usual medians after a calm period: small rises are followed within seconds, larger ones within minutes."""
    if len(usual) != len(medians):
        return medians
    followed = []
    for i, old in enumerate(usual):
        change = medians[i] - old
        followed.append(old + change * (0.1 if change < small else 0.01))
    return tuple(followed)
