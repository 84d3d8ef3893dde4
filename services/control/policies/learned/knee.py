"""What ``learned`` knows of the knee: the largest total load without a queue.

Below the knee nothing can be measured; above it the queue grows by 10 ms a second for each per cent too
much.  So the policy *touches* the knee and does not cross it: a load raised by a quarter of a per cent
builds up less than one SLO of queue before the median latency of the last period shows it, and is taken
back before an SLO is broken.  The knee is remembered, and probed again rarely: after ``rest`` seconds, and
after twice as long each time that nothing has changed.

    touched:    B <- min(B, T) (1 - e) - back      e = 2 q / t, the excess that built up the queue q within t
    persistent: B <- 0.97 N                        N = what senders get through a queue that stays: the capacity
    probing:    B <- B + step each period          step <= SLO / (1.6 t), the most that a touch can take back
    falling:    B <- B - v t each period           v = what two touches at rest differ by, over the time between

T is the total load (critical and best effort) of the last period, t the signal period.
"""

from typing import Annotated

from msgspec import Struct

from schemas.settings import Seconds, Settings, Share, between

_SECOND = 1e9
_NEW = 1.02
"""Beyond this share of the knee as it was known, a probe has found new room."""
_GROSS = 0.05
"""A larger excess is no drift: the capacity dropped, and the estimate is rough."""
_ROUGH_REST = 10.0
"""Seconds until a rough estimate is probed again."""
_AGAIN = 60.0
"""Seconds within which a second touch at rest shows that the knee is falling."""
_FASTEST = 0.01
"""Share of the capacity up to which the speed of a fall is believed, per second."""
_LONGEST = 10.0
"""Seconds for which a fall is expected to go on at most, or twice as long as it took to be seen."""
_CLEAR = 8
"""Steps without a queue after which a probe climbs twice as fast: the knee is not where it was."""
PASSED = 0.997
"""Share of a load that flowed without a queue which is safe: measurements differ by a little."""


class KneeSettings(Settings, frozen=True):
    """How to look for the knee."""

    step: Share = 0.0025
    """Largest step of a probe in one period, as a share of the knee."""
    back: Share = 0.0065
    """Step back from a touch, as a share of the capacity; four times as far from one met at rest."""
    rest: Seconds = 30.0
    """Time from a touch to the next probe; doubles while probes find nothing new."""
    rest_max: Annotated[float, between(0, 10_000_000, unit="s")] = 900.0
    """Longest time from a touch to the next probe."""


class Knee(Struct, frozen=True, omit_defaults=True, gc=False):
    """What is remembered of the knee.  Loads are kbit/s, times ns."""

    total: float = 0.0
    """The largest total load that is known to be safe; 0 before the first sample."""
    met: int = 0
    """When the knee was last met; 0 before it ever was."""
    rest: float = 0.0
    """Seconds from then to the next probe."""
    step: float = 0.0
    """Step of the probe that is under way; 0 without one."""
    began: float = 0.0
    """The knee as it was known when that probe began."""
    found: float = 0.0
    """The load under which it was last met."""
    falls: float = 0.0
    """How fast it was last seen to fall, kbit/s in a second; 0 while it is not known to."""
    until: int = 0
    """Until when that is expected to go on, or until when no probe begins."""
    climbed: int = 0
    """Steps of the probe that is under way."""


class KneeEstimator:
    """Estimates the knee from what happens under a known load."""

    def __init__(self, settings: KneeSettings, capacity: float) -> None:
        """Take settings, and the capacity (kbit/s) that shares are of."""
        self._settings = settings
        self._capacity = capacity

    def reference_of(self, knee: Knee) -> float:
        """What shares are of, kbit/s: the capacity, or the knee where it was met below that."""
        return knee.total if knee.met and knee.total < self._capacity else self._capacity

    def on_touch(self, knee: Knee, total: float, excess: float, end: int) -> Knee:
        """A queue began to form under ``total``, which was about ``excess`` (a share) too much."""
        if knee.met and total > knee.total * (1 + excess):
            # More load than was ever thought safe: that explains the queue, and shows nothing of the knee.
            return self._meet(knee.total, end, knee.rest)
        found = (min(knee.total, total) if knee.met else total) * (1 - excess)
        falls, until = self._estimate_fall(knee, found, excess, end)
        met_at_rest = falls > 0 or (knee.met and not knee.step)
        left = max(found - (4 if met_at_rest else 1) * self._settings.back * self.reference_of(knee), 0.0)
        rest = self._next_rest(knee, left) if excess < _GROSS else _ROUGH_REST
        return Knee(left, end, rest, found=found, falls=falls, until=until)

    def _next_rest(self, knee: Knee, left: float) -> float:
        """Seconds until the next probe: twice as long where this one found nothing new."""
        if knee.step and left < knee.began * _NEW:
            return min(2 * max(knee.rest, self._settings.rest / 2), self._settings.rest_max)
        return self._settings.rest

    def _estimate_fall(self, knee: Knee, found: float, excess: float, end: int) -> tuple[float, int]:
        """How fast the knee is falling, kbit/s in a second, and until when that is expected to go on."""
        if not knee.met or excess > _GROSS:
            return 0.0, 0
        seconds = (end - knee.met) / _SECOND
        if not knee.step and seconds < _AGAIN and found < knee.found:
            reference = self.reference_of(knee)
            falls = min((knee.found - found) / seconds, _FASTEST * reference)
            return falls, end + int(min(2 * seconds, _LONGEST) * _SECOND)
        return 0.0, 0

    def on_crossing(self, knee: Knee, total: float, end: int) -> Knee:
        """An SLO was broken under ``total`` while the load was being raised: a little too much."""
        left = min(knee.total, 0.985 * total)
        return self._meet(left, end, self._next_rest(knee, left) if knee.met else _ROUGH_REST)

    def wait(self, knee: Knee, seconds: float, left: float) -> Knee:
        """Keep a share of the load that is thought safe, and probe again after so many seconds at the earliest."""
        rest, until = knee.rest, knee.until
        if knee.falls:
            rest = min(max(rest, seconds), self._settings.rest_max)
        else:
            until = knee.met + int(min(seconds, self._settings.rest_max) * _SECOND)
        return Knee(left * knee.total, knee.met, rest, found=knee.found, falls=knee.falls, until=until)

    def on_persistent_queue(self, knee: Knee, throughput: float, end: int) -> Knee:
        """A queue stays although the load was cut: the throughput (kbit/s) is the capacity."""
        return self._meet(min(knee.total, 0.97 * throughput), end, _ROUGH_REST)

    def restore(self, knee: Knee, total: float, end: int) -> Knee:
        """Return to ``total``: the queues met since then were not the load's doing."""
        return self._meet(max(total, knee.total), end, self._settings.rest)

    def _meet(self, total: float, end: int, rest: float) -> Knee:
        return Knee(total, end, rest or self._settings.rest, found=total)

    def on_passed(self, knee: Knee, total: float) -> Knee:
        """A load of ``total`` has flowed for some periods without a queue: the knee is not below it."""
        if knee.total >= PASSED * total:
            return knee
        return Knee(PASSED * total, knee.met, knee.rest, knee.step, knee.began, knee.found, knee.falls, knee.until)

    def follow_fall(self, knee: Knee, seconds: float, end: int) -> Knee:
        """Lower the estimate by what the knee fell in ``seconds``, before it is met again."""
        if end > knee.until:
            return knee
        total = max(knee.total - knee.falls * seconds, 0.0)
        return Knee(total, knee.met, knee.rest, 0.0, 0.0, knee.found, knee.falls, knee.until)

    def is_due(self, knee: Knee, end: int) -> bool:
        """Whether it is time to probe again."""
        return end - knee.met > knee.rest * _SECOND and end > knee.until

    def is_urgent(self, knee: Knee, end: int) -> bool:
        """Whether a probe that is due is worth it even under a load that moves.

        The knee was met far from where it is, or not for the longest time between two probes.
        """
        return 0 < knee.rest <= _ROUGH_REST or end - knee.met > self._settings.rest_max * _SECOND

    def step_probe(self, knee: Knee, allowed_load: float, margin: float, step: float, near: float) -> Knee:
        """Begin a probe, or raise it one step: at most ``margin`` and a step beyond the load that was allowed.

        Steps double only below ``near``.
        """
        if not knee.met:
            return Knee(max(knee.total, allowed_load + margin + step), rest=knee.rest)
        if not knee.step:
            return Knee(knee.total, knee.met, knee.rest, step, knee.total, knee.found)
        if knee.climbed >= _CLEAR and knee.total < near:
            step *= 2
        total = max(knee.total, min(knee.total + knee.step, allowed_load + margin + knee.step))
        return Knee(total, knee.met, knee.rest, step, knee.began, knee.found, climbed=knee.climbed + 1)

    def pause_probe(self, knee: Knee) -> Knee:
        """Give up the probe for now."""
        if not knee.step:
            return knee
        return Knee(knee.total, knee.met, knee.rest, 0.0, 0.0, knee.found, knee.falls, knee.until)
