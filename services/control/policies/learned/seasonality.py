"""Detects whether the critical load is periodic, and forecasts the next seconds from its last cycles.

The highest load of each two seconds is kept for the last four minutes, one byte each.  Lags are tried a
few at a time; the lag at which the load differs least from itself is the candidate for a period.  A
candidate is only *trusted* while its forecasts are better than the held peak by pinball loss.  For a
forecast f and the load y,

    loss = tau (y - f) where y > f, else (1 - tau) (f - y)

so a load that was not forecast costs nine times as much as room left idle.
"""

from operator import sub

from msgspec import Struct
from msgspec.structs import replace

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
    highest = 0
    for cycle in (period, 2 * period):
        first = len(bins) - 2 - cycle
        if first >= 0:
            highest = max(highest, *bins[first : first + 4])
    return highest


def load_to_byte(load: float, capacity: float) -> int:
    """A load (kbit/s) as a byte, rounded up."""
    return min(int(load / capacity * _PARTS) + 1, 255)


def byte_to_load(byte: int, capacity: float) -> float:
    """The load (kbit/s) that a byte stands for."""
    return byte * capacity / _PARTS


def follow_season(season: Season, load: float, peak: float, end: int, capacity: float) -> Season:
    """The memory after a period that ended at ``end`` (ns) with ``load``, while ``peak`` was held (both kbit/s)."""
    index, byte = end // _BIN, load_to_byte(load, capacity)
    gap = index - season.index
    if gap == 0 and season.bins:
        if byte <= season.bins[-1]:
            return season
        return replace(season, bins=season.bins[:-1] + bytes((byte,)))
    if not season.bins or not 0 < gap < _KEPT // 4:
        return Season(bytes((byte,)), index)
    # Bins without a sample (an outage) get the value of the one before.
    bins = season.bins + season.bins[-1:] * (gap - 1)
    scored = _score_forecast(season, max(bins[-2:]))
    return _open_bin(scored, (bins + bytes((byte,)))[-_KEPT:], index, load_to_byte(peak, capacity))


def _score_forecast(season: Season, load: int) -> Season:
    """Compare what was forecast two bins ago with the highest load since."""
    if not season.period or not season.foretold[0]:
        return season
    loss, held_loss = _pinball_loss(season.foretold[0], load), _pinball_loss(season.held[0], load)
    weight = max(_MEMORY, 1 / (season.tried + 1))
    return replace(
        season,
        tried=season.tried + 1,
        loss=season.loss + weight * (loss - season.loss),
        held_loss=season.held_loss + weight * (held_loss - season.held_loss),
    )


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
