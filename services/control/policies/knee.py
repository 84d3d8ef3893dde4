"""What ``learned`` knows of the knee: the largest total load under which no queue stands.

Below the knee nothing is to be seen; above it the queue grows by 10 ms a second for each per cent too
much.  So it is *touched*, not crossed: a load raised by a quarter of a per cent builds up less than one
SLO of queue before the median latency of the last period shows it, and is taken back before an SLO is
broken.  What the touch found is remembered, and asked again rarely: after ``rest`` seconds, and after
twice as long each time that nothing has changed.

    touched:   B <- min(B, T) (1 - e) - back      e = 2 q / t, the excess that built up the queue q within t
    standing:  B <- 0.97 N                        N = what senders get through a queue that stays: the capacity
    probing:   B <- B + step each period, and by longer steps once it is beyond what was known

T is the total load (critical and best effort) of the last period, t the signal period.
"""

from msgspec import Struct

_SECOND = 1e9
_BEYOND = 1.02
"""Beyond this share of the knee as it was known, a probe has found new room."""
_NEAR_HIGH = 0.96
"""From this share of the highest knee ever met on, a probe may be about to meet it again."""
_GROSS = 0.05
"""An excess above this is no drift: the capacity fell, and the estimate is rough."""
_ROUGH_REST = 10.0
_AGAIN = 10.0
"""Seconds within which a second touch means that the knee is moving."""
_MOVED_MOST = 0.05


class Habits(Struct, frozen=True, forbid_unknown_fields=True):
    """How to look for the knee."""

    step: float = 0.0025
    """Largest step of a probe in one period, as a share of the capacity."""
    faster: float = 1.05
    """Growth of that step in new room, up to three times its size."""
    back: float = 0.005
    """How far to step back from a touch, as a share of the capacity; four times as far from one met at rest."""
    rest: float = 30.0
    """Seconds from a touch to the next probe; doubles while probes find nothing new."""
    rest_max: float = 900.0


class Knee(Struct, frozen=True, omit_defaults=True, gc=False):
    """What is remembered.  Loads are kbit/s, times ns."""

    total: float = 0.0
    """The largest total load that is known to be safe; 0 before the first sample."""
    met: int = 0
    """When the knee was last met; 0 before it ever was."""
    rest: float = 0.0
    """Seconds from then to the next probe."""
    step: float = 0.0
    """Of the probe that is under way; 0 without one."""
    began: float = 0.0
    """The knee as it was known when that probe began."""
    back: float = 0.0
    """Last step back, as a share of the capacity."""
    high: float = 0.0
    """The highest that was ever met: near it a probe goes carefully again."""


class Finder:
    """Learns the knee."""

    def __init__(self, habits: Habits, scale: float) -> None:
        """Take habits, and the capacity (kbit/s) that shares are of."""
        self._habits = habits
        self._scale = scale

    def touched(self, knee: Knee, total: float, excess: float, end: int) -> Knee:
        """A queue began to stand under ``total``, which was about ``excess`` (a share) too much."""
        if knee.met and total > knee.total * (1 + excess):
            # More load than was ever thought safe: that explains the queue, and says nothing of the knee.
            return self._settled(knee, knee.total, end, knee.rest)
        back = self._habits.back if knee.step or not knee.met else 4 * self._habits.back
        if end - knee.met < _AGAIN * _SECOND and knee.met:
            back = max(back, min(2 * knee.back, _MOVED_MOST))
        found = (min(knee.total, total) if knee.met else total) * (1 - excess) - back * self._scale
        rest = self._habits.rest if excess < _GROSS else _ROUGH_REST
        if knee.step and knee.began and found < knee.began * _BEYOND:
            rest = min(2 * knee.rest, self._habits.rest_max)
        return Knee(max(found, 0.0), end, rest, back=back, high=max(knee.high, found))

    def crossed(self, knee: Knee, total: float, end: int) -> Knee:
        """An SLO was broken under ``total`` while it was being raised: too much, if only a little."""
        return self._settled(knee, min(knee.total, 0.985 * total), end, self._habits.rest)

    def standing(self, knee: Knee, through: float, end: int) -> Knee:
        """A queue stays although the load was cut: what gets ``through`` is the capacity."""
        return self._settled(knee, min(knee.total, 0.97 * through), end, _ROUGH_REST)

    def _settled(self, knee: Knee, total: float, end: int, rest: float) -> Knee:
        return Knee(total, end, rest or self._habits.rest, back=knee.back, high=max(knee.high, total))

    def ripe(self, knee: Knee, end: int) -> bool:
        """Whether it is time to probe again."""
        return end - knee.met > knee.rest * _SECOND

    def overdue(self, knee: Knee, end: int) -> bool:
        """Whether it is time to probe even under an unsteady load."""
        return end - knee.met > self._habits.rest_max * _SECOND

    def probed(self, knee: Knee, allowed: float, margin: float, step: float) -> Knee:
        """One step further: at most ``margin`` and a step beyond the total load that was ``allowed``."""
        if not knee.met:
            return Knee(max(knee.total, allowed + margin + step), rest=knee.rest)
        if not knee.step:
            return Knee(knee.total, knee.met, knee.rest, step, knee.total, knee.back, knee.high)
        further = max(knee.total, min(knee.total + knee.step, allowed + margin + knee.step))
        careful = further < knee.began * _BEYOND or _NEAR_HIGH * knee.high < further < _BEYOND * knee.high
        step = step if careful else min(knee.step * self._habits.faster, 3 * step)
        return Knee(further, knee.met, knee.rest, step, knee.began, knee.back, knee.high)

    def paused(self, knee: Knee) -> Knee:
        """The probe is given up for now."""
        return Knee(knee.total, knee.met, knee.rest, 0.0, 0.0, knee.back, knee.high) if knee.step else knee
