"""What ``learned`` expects of the critical load during the life of the next limit.

Without a season the forecast *holds the peak*: the highest load of the last ``hold`` seconds, and falls
from there.  A load that surged twice within a minute is held for longer, so that one that flaps keeps
the room to flap.  While the load rises, the forecast extends the rise.

    F = max over the last ``hold`` of L, falling by ``fall`` a second afterwards
    F = L + trend (L - F)   where L rises above F
"""

from typing import Annotated

from msgspec import Struct

from schemas.settings import Seconds, Settings, Share, between

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
"""A rise by more than this share in one period is a leap: it is over at once, and no trend."""


class ForecastSettings(Settings, frozen=True):
    """How to forecast the critical load."""

    hold: Seconds = 2.0
    """How long a peak is held."""
    hold_max: Seconds = 30.0
    """How long a peak is held at most, when the load flaps."""
    fall: Share = 0.05
    """Fall of the forecast in a second afterwards, as a share of the capacity."""
    trend: Annotated[float, between(0, 100)] = 1.5
    """How much further a rise is expected to go, in rises of the last period."""


class LoadHistory(Struct, frozen=True, omit_defaults=True, gc=False):
    """What is remembered of the critical load.  Loads are kbit/s, times ns."""

    last: float = -1.0
    """In the last period; negative before the first."""
    peak: float = 0.0
    """The peak that is held."""
    held: int = 0
    """When the load was last at that peak."""
    hold: float = 0.0
    """For how long a peak is held, seconds."""
    surged: int = 0
    """When it last surged."""
    before: float = 0.0
    """The load before that surge, until it is known whether it was a burst; 0 afterwards."""
    restless: int = 0
    """When it last rose by much."""


class LoadForecaster:
    """Follows the critical load and forecasts it."""

    def __init__(self, settings: ForecastSettings, capacity: float) -> None:
        """Take settings, and the capacity (kbit/s) that shares are of."""
        self._settings = settings
        self._capacity = capacity

    def follow(self, history: LoadHistory, load: float, end: int, seconds: float, clean: bool) -> LoadHistory:
        """The history after one more period.

        Args:
            history: before the period.
            load: during the period, kbit/s.
            end: of the period, ns.
            seconds: its length.
            clean: whether a lower load can be believed: no SLO is broken.
        """
        hold = history.hold or self._settings.hold
        peak, held = history.peak, history.held
        if load >= peak:
            peak, held = load, end
        elif not clean:
            # A queue makes the load look small: the hold goes on as long as that lasts.
            held = max(held, end - int(hold * _SECOND))
        else:
            if end - held > hold * _SECOND:
                peak = max(load, peak - self._settings.fall * self._capacity * seconds)
            hold = max(self._settings.hold, hold - hold * seconds / _FORGETS)
        rose = clean and history.last >= 0 and load - history.last > _RESTLESS * self._capacity
        before = 0.0 if end - history.surged > _BURST * _SECOND else history.before
        return LoadHistory(load, peak, held, hold, history.surged, before, end if rose else history.restless)

    def is_surging(self, history: LoadHistory, load: float) -> bool:
        """Whether the load is above what was forecast."""
        return history.last >= 0 and load > history.peak + _NOTICEABLE * self._capacity

    def is_rising(self, history: LoadHistory, load: float) -> bool:
        """Whether the load is well above that of the period before."""
        return history.last >= 0 and load > history.last + _NOTICEABLE * self._capacity

    def on_surge(self, history: LoadHistory, before: float, end: int, expected: bool) -> LoadHistory:
        """The load rose from ``before`` and broke an SLO."""
        flaps = not expected and history.surged and end - history.surged < _FLAPS * _SECOND
        hold = min(2 * history.hold, self._settings.hold_max) if flaps else history.hold
        return LoadHistory(history.last, history.peak, history.held, hold, end, before, history.restless)

    def is_past_burst(self, history: LoadHistory, end: int) -> bool:
        """Whether the last surge turns out to have been a burst: it is over already."""
        return (
            history.before > 0 and end > history.surged and history.last < history.before + _RESTLESS * self._capacity
        )

    def forecast(self, before: LoadHistory, history: LoadHistory) -> float:
        """The load to expect, kbit/s, after the history went from ``before`` to ``history``."""
        rise = history.last - before.peak
        if before.last < 0 or not _NOTICEABLE * self._capacity < rise < _LEAP * self._capacity:
            return history.peak
        return history.last + self._settings.trend * rise

    def is_near_peak(self, history: LoadHistory) -> bool:
        """Whether the load is about its peak."""
        return history.last > history.peak - _NOTICEABLE * self._capacity

    def has_risen(self, history: LoadHistory, load: float, since: int) -> bool:
        """Whether the load rises by much now or did since then: it may have caused a queue that shows now."""
        return history.restless >= since or (history.last >= 0 and load - history.last > _RESTLESS * self._capacity)

    def is_calm(self, history: LoadHistory, end: int) -> bool:
        """Whether the load has not risen by much for a while."""
        return end - history.restless > _CALM * _SECOND
