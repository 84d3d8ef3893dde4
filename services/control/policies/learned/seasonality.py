"""Whether the critical load comes in cycles, and what the last cycles say of the seconds to come.

The highest load of each two seconds is kept for the last four minutes, one byte each.  Lags are tried a
few at a time; the one after which the load looks most like itself is the candidate for a period.  A
candidate is only *trusted* while it has foretold the load better than holding the peak did, by pinball
loss: of a forecast f for the load y,

    loss = tau (y - f) where y > f, else (1 - tau) (f - y)

so that a load that was not foreseen costs nine times what room left idle costs.
"""

from operator import sub

from msgspec import Struct

_TAU = 0.9
_BIN = 2 * 10**9
"""Width of a bin, ns."""
_KEPT = 128
"""Bins that are kept."""
_SHORTEST = 4
"""Shortest period, bins."""
_LAGS = 2
"""Lags tried per bin: a full round takes a minute."""
_SCALE = 200
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
    """What is remembered."""

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


def forecast(season: Season) -> int:
    """The highest load from now to the end of the bin after the next, as the last two cycles had it; parts."""
    bins, period = season.bins, season.period
    highest = 0
    for cycle in (period, 2 * period):
        first = len(bins) - 2 - cycle
        if first >= 0:
            highest = max(highest, *bins[first : first + 4])
    return highest


def parts(load: float, scale: float) -> int:
    """A load as a byte, rounded up."""
    return min(int(load / scale * _SCALE) + 1, 255)


def load_of(byte: int, scale: float) -> float:
    """The load that a byte stands for."""
    return byte * scale / _SCALE


def followed(season: Season, load: float, peak: float, end: int, scale: float) -> Season:
    """The memory after a period that ended at ``end`` (ns) with ``load``, while ``peak`` was held (both kbit/s)."""
    index, value = end // _BIN, parts(load, scale)
    gap = index - season.index
    if gap == 0 and season.bins:
        if value <= season.bins[-1]:
            return season
        return _with_bins(season, season.bins[:-1] + bytes((value,)))
    if not season.bins or not 0 < gap < _KEPT // 4:
        return Season(bytes((value,)), index)
    # Bins without a sample (an outage) are taken to be as the one before.
    bins = season.bins + season.bins[-1:] * (gap - 1)
    judged = _judged(season, max(bins[-2:]))
    kept = (bins + bytes((value,)))[-_KEPT:]
    return _searched(judged, kept, index, parts(peak, scale))


def _with_bins(season: Season, bins: bytes) -> Season:
    return Season(
        bins, season.index, season.lag, season.best, season.difference, season.period, season.tried, season.loss,
        season.held_loss, season.foretold, season.held,
    )  # fmt: skip


def _judged(season: Season, load: int) -> Season:
    """Compare what was foretold two bins ago with the highest load since."""
    if not season.period or not season.foretold[0]:
        return season
    loss, held_loss = _pinball(season.foretold[0], load), _pinball(season.held[0], load)
    weight = max(_MEMORY, 1 / (season.tried + 1))
    return Season(
        season.bins, season.index, season.lag, season.best, season.difference, season.period, season.tried + 1,
        season.loss + weight * (loss - season.loss), season.held_loss + weight * (held_loss - season.held_loss),
        season.foretold, season.held,
    )  # fmt: skip


def _pinball(foretold: int, load: int) -> float:
    return _TAU * (load - foretold) if load > foretold else (1 - _TAU) * (foretold - load)


def _searched(season: Season, bins: bytes, index: int, peak: int) -> Season:
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
        found = best if best and difference < _ALIKE * _spread(bins) else 0
        if found != period and not (found and abs(found - period) <= 1):
            period, tried, loss, held_loss = found, 0, 0.0, 0.0
        lag = best = 0
        difference = 0.0
    opened = Season(bins, index, lag, best, difference, period, tried, loss, held_loss)
    foretold = (season.foretold[1], forecast(opened) if period else 0)
    return Season(bins, index, lag, best, difference, period, tried, loss, held_loss, foretold, (season.held[1], peak))


def _spread(bins: bytes) -> float:
    """How much a bin differs from the mean, on average."""
    mean = sum(bins) / len(bins)
    return sum(abs(one - mean) for one in bins) / len(bins)
