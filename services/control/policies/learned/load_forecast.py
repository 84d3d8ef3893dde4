"""What ``learned`` expects of the critical load: the load that the next limit will live through.

Without a season it *holds the peak*: the highest load of the last ``hold`` seconds, and on its way down
from there.  A load that surged twice within a minute is held for longer, so that one that flaps is left
the room to flap.  While the load rises, the rise goes on for a while in the forecast.

    F = max over the last ``hold`` of L, falling by ``fall`` a second afterwards
    F = L + trend (L - F)   where L rises above F
"""

from msgspec import Struct

_SECOND = 1e9
_BURST = 1.5
"""A surge that is over within this many seconds was a burst."""
_FLAPS = 60.0
"""Two surges within this many seconds are flapping."""
_FORGETS = 120.0
"""Time constant with which the longer hold is forgotten, seconds."""
_NOTICEABLE = 0.01
"""Share of the capacity by which the load must exceed the forecast to be a surge."""
_RESTLESS = 0.02
"""A rise by this share of the capacity within one period is unrest."""
_CALM = 30.0
"""Seconds without unrest after which a load counts as steady."""
_LEAP = 0.05
"""A rise by more than this share in one period is a leap, over at once, and no trend."""


class Outlook(Struct, frozen=True, forbid_unknown_fields=True):
    """Settings."""

    hold: float = 2.0
    """Seconds that a peak is held."""
    hold_max: float = 30.0
    """And at most, when the load flaps."""
    fall: float = 0.05
    """Share of the capacity by which the forecast falls in a second afterwards."""
    trend: float = 1.5
    """How much further a rise is expected to go, in rises of the last period."""


class Load(Struct, frozen=True, omit_defaults=True, gc=False):
    """What is remembered of the critical load.  Loads are kbit/s, times ns."""

    last: float = -1.0
    """In the last period; negative before the first."""
    peak: float = 0.0
    """As held."""
    held: int = 0
    """When it was last at that peak."""
    hold: float = 0.0
    """For how long a peak is held, seconds."""
    surged: int = 0
    """When it last surged."""
    before: float = 0.0
    """The load before that surge, until it is known whether it was a burst; 0 afterwards."""
    restless: int = 0
    """When it last rose by much."""


class Forecaster:
    """Follows the critical load."""

    def __init__(self, outlook: Outlook, scale: float) -> None:
        """Take settings, and the capacity (kbit/s) that shares are of."""
        self._outlook = outlook
        self._scale = scale

    def followed(self, load: Load, measured: float, end: int, seconds: float, clean: bool) -> Load:
        """The memory after a period in which ``measured`` was sent.

        Args:
            load: the memory before.
            measured: kbit/s.
            end: of the period, ns.
            seconds: its length.
            clean: whether the figures are to be trusted as a sign of less load: no SLO is broken.
        """
        hold = load.hold or self._outlook.hold
        peak, held = load.peak, load.held
        if measured >= peak:
            peak, held = measured, end
        elif not clean:
            # Crushed by a queue it looks small: the hold goes on as long as that lasts.
            held = max(held, end - int(hold * _SECOND))
        else:
            if end - held > hold * _SECOND:
                peak = max(measured, peak - self._outlook.fall * self._scale * seconds)
            hold = max(self._outlook.hold, hold - hold * seconds / _FORGETS)
        leapt = clean and load.last >= 0 and measured - load.last > _RESTLESS * self._scale
        before = 0.0 if end - load.surged > _BURST * _SECOND else load.before
        return Load(measured, peak, held, hold, load.surged, before, end if leapt else load.restless)

    def surging(self, load: Load, measured: float) -> bool:
        """Whether ``measured`` is above what was expected."""
        return load.last >= 0 and measured > load.peak + _NOTICEABLE * self._scale

    def rising(self, load: Load, measured: float) -> bool:
        """Whether ``measured`` is well above the period before."""
        return load.last >= 0 and measured > load.last + _NOTICEABLE * self._scale

    def surged(self, load: Load, before: float, end: int, expected: bool) -> Load:
        """The load rose from ``before`` and broke an SLO."""
        flaps = not expected and load.surged and end - load.surged < _FLAPS * _SECOND
        hold = min(2 * load.hold, self._outlook.hold_max) if flaps else load.hold
        return Load(load.last, load.peak, load.held, hold, end, before, load.restless)

    def burst(self, load: Load, end: int) -> bool:
        """Whether the last surge turns out to have been a burst: it is over already."""
        return load.before > 0 and end > load.surged and load.last < load.before + _RESTLESS * self._scale

    def coming(self, before: Load, load: Load) -> float:
        """The load to expect, kbit/s, after the memory went from ``before`` to ``load``."""
        rise = load.last - before.peak
        if before.last < 0 or not _NOTICEABLE * self._scale < rise < _LEAP * self._scale:
            return load.peak
        return load.last + self._outlook.trend * rise

    def high(self, load: Load) -> bool:
        """Whether the load is about its peak."""
        return load.last > load.peak - _NOTICEABLE * self._scale

    def rose(self, load: Load, measured: float, since: int) -> bool:
        """Whether the load rises by much now or did since then: a queue that shows now may be its doing."""
        return load.restless >= since or (load.last >= 0 and measured - load.last > _RESTLESS * self._scale)

    def calm(self, load: Load, end: int) -> bool:
        """Whether the load has not risen by much for a while."""
        return end - load.restless > _CALM * _SECOND
