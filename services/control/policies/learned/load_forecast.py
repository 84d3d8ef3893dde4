"""What ``learned`` expects of the critical load during the life of the next limit.

Without a season the forecast *holds the peak*: the highest load of the last ``hold`` seconds, and falls
from there.  A load that surged twice within a minute is held for longer, so that one that flaps keeps
the room to flap.  While the load rises, the forecast extends the rise.

    F = max over the last ``hold`` of L, falling by ``fall`` a second afterwards
    F = L + trend (L - F)   where L rises above F

With a season it is what the last cycles had.  The highest load of each two seconds is kept for the last
four minutes, one byte each.  Lags are tried a few at a time; the lag at which the load differs least from
itself is the candidate for a period.  A candidate is only *trusted* while its forecasts are better than
the held peak by pinball loss.  For a forecast f and the load y,

    loss = tau (y - f) where y > f, else (1 - tau) (f - y)

so a load that was not forecast costs nine times as much as room left idle.
"""

from operator import sub
from typing import Annotated

from msgspec import Struct
from msgspec.structs import replace

from schemas.settings import Seconds, Settings, Share, between

_SECOND = 1e9
_BURST = 1.5e9
"""A surge that is over within this time was a burst, ns."""
_FLAPS = 60.0
"""Two surges within this many seconds are flapping."""
_FORGETS = 120.0
"""Time constant with which the longer hold is forgotten, seconds."""
_NOTICEABLE = 0.01
"""Share of the capacity by which the load must exceed the forecast to be a surge."""
_RESTLESS = 0.02
"""A rise by this share of the capacity within one period is unrest."""
_CALM = 30e9
"""Time without unrest after which a load counts as steady, ns."""
_LEAP = 0.05
"""A rise by more than this share in one period is a leap: it is over at once, and no trend."""
_LEAPS = 150e9
"""Time after a leap for which a season is a better forecast than a trend, ns."""
_SLACKENS = 20.0
"""Time constant with which a trend's errors are forgotten, seconds."""
_TAU = 0.9
_BIN = 2 * 10**9
"""Width of a bin, ns."""
_KEPT = 128
"""Bins that are kept."""
_SHORTEST = 4
"""Shortest period, bins."""
_LAGS = 2
"""Lags tried per bin: a full round takes a minute."""
_PARTS = 200
"""Parts of the capacity in a byte; a byte holds a little more than the capacity."""
_ALIKE = 0.5
"""A candidate's cycles differ by less than this share of what any two bins differ by."""
_CLEARLY = 0.9
"""A longer lag must be this much better: multiples of a period look as good as itself."""
_MEMORY = 0.05
"""Share of the newest loss in the mean loss."""
_PROBATION = 20
"""Forecasts of a candidate that are compared before it is trusted."""
_BETTER = 0.8
"""Share of the held peak's loss that a trusted candidate must stay below."""


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
    slope: float = 0.0
    """By how much it changed in a period of late, kbit/s."""
    slack: float = 0.0
    """The most that it exceeded that trend by of late, kbit/s."""


class LoadForecaster:
    """Follows the critical load and forecasts it."""

    def __init__(self, settings: ForecastSettings, capacity: float) -> None:
        """Take settings, and the capacity (kbit/s) that shares are of."""
        self._hold, self._hold_max, self._trend = settings.hold, settings.hold_max, settings.trend
        # Shares of the capacity as loads, kbit/s.
        self._fall = settings.fall * capacity
        self.noticeable, self.unrest, self._leap = _NOTICEABLE * capacity, _RESTLESS * capacity, _LEAP * capacity
        self._least_room = _NOTICEABLE / 4 * capacity

    def follow(self, history: LoadHistory, load: float, end: int, seconds: float, clean: bool) -> LoadHistory:
        """The history after one more period.

        Args:
            history: before the period.
            load: during the period, kbit/s.
            end: of the period, ns.
            seconds: its length.
            clean: whether a lower load can be believed: no SLO is broken.
        """
        # The hot part of every proposal: comparisons are written out, because calls would cost several times as much.
        hold = history.hold or self._hold
        last, peak, held = history.last, history.peak, history.held
        if load >= peak:
            peak, held = load, end
        elif not clean:
            # A queue makes the load look small: the hold goes on as long as that lasts.
            held = max(held, end - int(hold * _SECOND))
        else:
            if end - held > hold * _SECOND:
                peak = max(load, peak - self._fall * seconds)
            if hold != self._hold:
                hold = max(self._hold, hold - hold * seconds / _FORGETS)
        before = 0.0 if end - history.surged > _BURST else history.before
        if last < 0:
            return LoadHistory(load, peak, held, hold, history.surged, before, history.restless)
        change, slope = load - last, history.slope
        restless, slack = history.restless, history.slack * (1 - seconds / _SLACKENS)
        # A rise that goes on as before surprises nobody.
        if change > self.unrest and clean and change - max(slope, 0.0) > self.unrest:
            restless = end
        excess = change - slope
        if slack <= excess:
            slack = excess
        if slack < 0:
            slack = 0.0
        return LoadHistory(load, peak, held, hold, history.surged, before, restless, (slope + change) / 2, slack)

    def on_surge(self, history: LoadHistory, before: float, end: int, expected: bool) -> LoadHistory:
        """The load rose from ``before`` and broke an SLO."""
        flaps = not expected and history.surged and end - history.surged < _FLAPS * _SECOND
        hold = min(2 * history.hold, self._hold_max) if flaps else history.hold
        return LoadHistory(
            history.last, history.peak, history.held, hold, end, before, history.restless, history.slope, history.slack
        )

    def is_past_burst(self, history: LoadHistory, end: int) -> bool:
        """Whether the last surge turns out to have been a burst: it is over already."""
        return history.before > 0 and end > history.surged and history.last < history.before + self.unrest

    def measure_stair(self, before: LoadHistory, history: LoadHistory) -> float:
        """By how much (kbit/s) the load rose when it last surged, if it turns out now that it stays there; else 0."""
        size = history.last - before.before
        if not before.before or history.before or history.slope > size / 4:
            return 0.0
        return max(size, 0.0)

    def forecast(self, before: LoadHistory, history: LoadHistory) -> float:
        """The load to expect, kbit/s, after the history went from ``before`` to ``history``."""
        last, held, slope = history.last, history.peak, before.slope
        rising = last
        # A leap is over at once, though it may lie in two periods: the rest of one is no trend.
        if slope <= self._leap:
            rise = last - before.peak
            if before.last >= 0 and self.noticeable < rise < self._leap:
                held = last + self._trend * rise
            # One rise may be noise; two in a row are a trend.
            if slope > 0 and history.slope > 0 and 0 < last - before.last < self._leap:
                rising = last + 2 * history.slope
        return min(max(held, rising), rising + 2 * history.slack + self._least_room)

    def is_near_peak(self, history: LoadHistory) -> bool:
        """Whether the load is about its peak."""
        return history.last > history.peak - self.noticeable

    def leaps(self, history: LoadHistory, end: int) -> bool:
        """Whether the load has risen of late as no trend foretells."""
        return end - history.restless < _LEAPS

    def is_calm(self, history: LoadHistory, end: int) -> bool:
        """Whether the load has not risen by much for a while."""
        return end - history.restless > _CALM


class Season(Struct, frozen=True, omit_defaults=True, gc=False):
    """What is remembered of past cycles."""

    bins: bytes = b""
    """Highest load of each bin, oldest first; the last one is still open."""
    index: int = 0
    """Number of the open bin."""
    lag: int = 0
    """The next lag to try; 0 begins a new round."""
    best: int = 0
    """The most alike lag of this round, and how much its cycles differ."""
    difference: float = 0.0
    period: int = 0
    """The candidate, bins; 0 without one."""
    tried: int = 0
    """How many of its forecasts were compared."""
    loss: float = 0.0
    """Mean pinball loss of its forecasts, and of the peaks held meanwhile."""
    held_loss: float = 0.0
    foretold: tuple[int, int] = (0, 0)
    """The forecasts made when the bin before the open one began, and when the open one began."""
    held: tuple[int, int] = (0, 0)
    """The peaks held at those moments."""

    @property
    def trusted(self) -> bool:
        """Whether the candidate has beaten the held peak."""
        return self.period > 0 and self.tried >= _PROBATION and self.loss < _BETTER * self.held_loss


def forecast_season(season: Season) -> int:
    """The highest load from now to the end of the bin after the next, as the last two cycles had it; as a byte."""
    bins, period = season.bins, season.period
    later = len(bins) - 2 - period
    if later < 0:
        return 0
    loads, earlier = bins[later : later + 4], later - period
    return max(bins[earlier : earlier + 4] + loads if earlier >= 0 else loads)


def load_to_byte(load: float, capacity: float) -> int:
    """A load (kbit/s) as a byte, rounded up."""
    byte = int(load / capacity * _PARTS) + 1
    return byte if byte < 255 else 255


def byte_to_load(byte: int, capacity: float) -> float:
    """The load (kbit/s) that a byte stands for."""
    return byte * capacity / _PARTS


def follow_season(season: Season, load: float, peak: float, end: int, capacity: float) -> Season:
    """The memory after a period that ended at ``end`` (ns) with ``load``, while ``peak`` was held (both kbit/s)."""
    index, byte, bins = end // _BIN, load_to_byte(load, capacity), season.bins
    if not bins:
        return Season(bytes((byte,)), index)
    gap = index - season.index
    if gap == 0:
        # The usual case first: nothing is new.
        return season if byte <= bins[-1] else replace(season, bins=bins[:-1] + bytes((byte,)))
    if not 0 < gap < _KEPT // 4:
        return Season(bytes((byte,)), index)
    # Bins without a sample (an outage) get the value of the one before.
    bins += bins[-1:] * (gap - 1)
    if season.period and season.foretold[0]:
        # Compare what was forecast two bins ago with the highest load since.
        highest, weight = max(bins[-2:]), max(_MEMORY, 1 / (season.tried + 1))
        loss, held_loss = _pinball_loss(season.foretold[0], highest), _pinball_loss(season.held[0], highest)
        season = replace(
            season,
            tried=season.tried + 1,
            loss=season.loss + weight * (loss - season.loss),
            held_loss=season.held_loss + weight * (held_loss - season.held_loss),
        )
    return _open_bin(season, (bins + bytes((byte,)))[-_KEPT:], index, load_to_byte(peak, capacity))


def _pinball_loss(forecast: int, load: int) -> float:
    return _TAU * (load - forecast) if load > forecast else (1 - _TAU) * (forecast - load)


def _open_bin(season: Season, bins: bytes, index: int, peak: int) -> Season:
    """Open a new bin, try the next lags, and make the next forecast."""
    lag, best, difference, period = season.lag or _SHORTEST, season.best, season.difference, season.period
    longest = len(bins) // 2
    for _ in range(_LAGS):
        if lag > longest:
            break
        differs = sum(map(abs, map(sub, bins[lag:], bins))) / (len(bins) - lag)
        if not best or differs < _CLEARLY * difference:
            best, difference = lag, differs
        lag += 1
    tried, loss, held_loss = season.tried, season.loss, season.held_loss
    if lag > longest:
        mean = sum(bins) / len(bins)
        spread = sum(abs(one - mean) for one in bins) / len(bins)
        found = best if best and difference < _ALIKE * spread else 0
        if found != period and not (found and abs(found - period) <= 1):
            period, tried, loss, held_loss = found, 0, 0.0, 0.0
        lag = best = 0
        difference = 0.0
    opened = Season(bins, index, lag, best, difference, period, tried, loss, held_loss)
    forecasts = (season.foretold[1], forecast_season(opened) if period else 0)
    return replace(opened, foretold=forecasts, held=(season.held[1], peak))
