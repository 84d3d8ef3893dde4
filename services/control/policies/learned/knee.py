"""What ``learned`` knows of the knee: the largest total load under which no queue stands.

Below the knee nothing is to be seen; above it the queue grows by 10 ms a second for each per cent too
much.  So it is *touched*, not crossed: a load raised by a quarter of a per cent builds up less than one
SLO of queue before the median latency of the last period shows it, and is taken back before an SLO is
broken.  What the touch found is remembered, and asked again rarely: after ``rest`` seconds, and after
twice as long each time that nothing has changed.

    touched:   B <- min(B, T) (1 - e) - back      e = 2 q / t, the excess that built up the queue q within t
    standing:  B <- 0.97 N                        N = what senders get through a queue that stays: the capacity
    probing:   B <- B + step each period          step <= SLO / (1.6 t), the most that a touch can take back
    falling:   B <- B - v t each period           v = what two touches at rest differ by, over the time between

T is the total load (critical and best effort) of the last period, t the signal period.
"""

from msgspec import Struct

_SECOND = 1e9
_NEW = 1.02
"""Beyond this share of the knee as it was known, a probe has found new room."""
_GROSS = 0.05
"""An excess above this is no drift: the capacity fell, and the estimate is rough."""
_ROUGH_REST = 10.0
_AGAIN = 60.0
"""Seconds within which a second touch at rest means that the knee is falling."""
_SLOWEST, _FASTEST = 0.0025, 0.01
"""Shares of the capacity between which a fall in a second is believed."""
_MET = 0.005
"""The same for a knee that came to meet a probe."""
_SHORTEST = 10.0
"""Seconds for which a fall is expected to go on, or twice as long as it took to be seen."""


class Habits(Struct, frozen=True, forbid_unknown_fields=True):
    """How to look for the knee."""

    step: float = 0.0025
    """Largest step of a probe in one period, as a share of the knee."""
    back: float = 0.0065
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
    found: float = 0.0
    """The load under which it was last met."""
    falls: float = 0.0
    """How fast it was last seen to fall, kbit/s in a second; 0 while it is not known to."""
    until: int = 0
    """Until when that is expected to go on."""

    @property
    def rough(self) -> bool:
        """Whether it was met far from where it is: worth asking again under a load that moves."""
        return 0 < self.rest <= _ROUGH_REST


class Finder:
    """Learns the knee."""

    def __init__(self, habits: Habits, scale: float) -> None:
        """Take habits, and the capacity (kbit/s) that shares are of."""
        self._habits = habits
        self._scale = scale

    def size(self, knee: Knee) -> float:
        """What shares are of, kbit/s: the capacity, or what is left of it once the knee was met far below."""
        return min(self._scale, knee.total) if knee.met else self._scale

    def touched(self, knee: Knee, total: float, excess: float, end: int, *, harder: bool) -> Knee:
        """A queue began to stand under ``total``, which was about ``excess`` (a share) too much.

        ``harder``: the queue is more than a probe's own step builds up.
        """
        if knee.met and total > knee.total * (1 + excess):
            # More load than was ever thought safe: that explains the queue, and says nothing of the knee.
            return self._settled(knee.total, end, knee.rest)
        found = (min(knee.total, total) if knee.met else total) * (1 - excess)
        falls, until = self._fall(knee, found, excess, end, harder)
        came = falls > 0 or (knee.met and not knee.step)
        left = max(found - (4 if came else 1) * self._habits.back * self.size(knee), 0.0)
        rest = self._rest(knee, left) if excess < _GROSS else _ROUGH_REST
        return Knee(left, end, rest, found=found, falls=falls, until=until)

    def _rest(self, knee: Knee, left: float) -> float:
        """Until the next probe: twice as long where this one found nothing new."""
        if knee.step and left < knee.began * _NEW:
            return min(2 * max(knee.rest, self._habits.rest / 2), self._habits.rest_max)
        return self._habits.rest

    def _fall(self, knee: Knee, found: float, excess: float, end: int, harder: bool) -> tuple[float, int]:
        """How fast the knee is falling, kbit/s in a second, and until when that is expected to go on."""
        if not knee.met or excess > _GROSS:
            return 0.0, 0
        seconds = (end - knee.met) / _SECOND
        if not knee.step and seconds < _AGAIN and found < knee.found:
            size = self.size(knee)
            falls = min(max((knee.found - found) / seconds, _SLOWEST * size), _FASTEST * size)
            return falls, end + int(max(2 * seconds, _SHORTEST) * _SECOND)
        if harder:
            # The knee came to meet the probe.
            return _MET * self.size(knee), end + int(_SHORTEST * _SECOND)
        return 0.0, 0

    def crossed(self, knee: Knee, total: float, end: int) -> Knee:
        """An SLO was broken under ``total`` while it was being raised: too much, if only a little."""
        left = min(knee.total, 0.985 * total)
        return self._settled(left, end, self._rest(knee, left) if knee.met else _ROUGH_REST)

    def standing(self, knee: Knee, through: float, end: int) -> Knee:
        """A queue stays although the load was cut: what gets ``through`` is the capacity."""
        return self._settled(min(knee.total, 0.97 * through), end, _ROUGH_REST)

    def restored(self, knee: Knee, total: float, end: int) -> Knee:
        """What was learned since it was ``total`` was not its doing."""
        return self._settled(max(total, knee.total), end, knee.rest)

    def _settled(self, total: float, end: int, rest: float) -> Knee:
        return Knee(total, end, rest or self._habits.rest, found=total)

    def fallen(self, knee: Knee, seconds: float, end: int) -> Knee:
        """After some more seconds of a fall: the knee is followed down before it is met again."""
        if end > knee.until:
            return knee
        total = max(knee.total - knee.falls * seconds, 0.0)
        return Knee(total, knee.met, knee.rest, 0.0, 0.0, knee.found, knee.falls, knee.until)

    def ripe(self, knee: Knee, end: int) -> bool:
        """Whether it is time to probe again."""
        return end - knee.met > knee.rest * _SECOND and end > knee.until

    def overdue(self, knee: Knee, end: int) -> bool:
        """Whether it is time to probe even under an unsteady load."""
        return end - knee.met > self._habits.rest_max * _SECOND

    def probed(self, knee: Knee, allowed: float, margin: float, step: float) -> Knee:
        """One step further: at most ``margin`` and a step beyond the total load that was ``allowed``."""
        if not knee.met:
            return Knee(max(knee.total, allowed + margin + step), rest=knee.rest)
        if not knee.step:
            return Knee(knee.total, knee.met, knee.rest, step, knee.total, knee.found)
        further = max(knee.total, min(knee.total + knee.step, allowed + margin + knee.step))
        return Knee(further, knee.met, knee.rest, step, knee.began, knee.found)

    def paused(self, knee: Knee) -> Knee:
        """The probe is given up for now."""
        if not knee.step:
            return knee
        return Knee(knee.total, knee.met, knee.rest, 0.0, 0.0, knee.found, knee.falls, knee.until)
