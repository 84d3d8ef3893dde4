"""Forecasts of the critical load from what is known: held peaks, slopes and seasons.  Each is an array by sample."""

from itertools import product

import numpy as np
from msgspec import Struct
from numpy.lib.stride_tricks import sliding_window_view

from services.bench.bound.timeline import Array, Knowledge

_HOLDS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_CAPACITY_HOLDS = (0.0, 2.0, 8.0)
_SLOPES = (0.0, 1.0, 2.0)
_LIKE = 0.6
"""A season's autocorrelation is at least this."""
_LONGEST_SEASON, _SHORTEST_SEASON = 125.0, 4.0


class Forecast(Struct, frozen=True):
    """How the load, and the capacity where it is known, are foreseen."""

    hold: float = 0.0
    """How long a peak of the load is held, seconds."""
    capacity_hold: float = 0.0
    """How long a low of the capacity is held, seconds."""
    slope: float = 0.0
    """How many delays ahead both are prolonged."""
    season: float = 0.0
    """Period of the load, seconds; 0: none."""

    def load(self, known: Knowledge) -> Array:
        """The load to come, at each sample."""
        held: Array = _hold(known.load, self.hold / known.period) + _ahead(known, known.load, self.slope).clip(0)
        if not self.season:
            return held
        lag = round(self.season / known.period)
        if lag >= known.load.size:
            return held
        # The highest load around this phase, a period ago and two, over the time that the limit will be in force.
        reach = round((known.delay + 2 * known.period) / known.period)
        ahead = sliding_window_view(np.pad(known.load, (1, reach), mode="edge"), reach + 2).max(axis=1)
        seasonal = np.empty(known.load.size)
        seasonal[:lag] = held[:lag]
        seasonal[lag:] = ahead[: known.load.size - lag]
        foreseen: Array = np.maximum(seasonal, known.load)
        return np.minimum(foreseen, held) if self.hold else foreseen

    def capacity(self, known: Knowledge) -> Array:
        """The capacity to come, at each sample."""
        low: Array = -_hold(-known.capacity, self.capacity_hold / known.period)
        low += _ahead(known, known.capacity, self.slope).clip(max=0)
        return low


def forecasts(known: Knowledge) -> list[Forecast]:
    """The family that is searched; what never changes needs no forecast."""
    holds = _HOLDS if np.ptp(known.load) else _HOLDS[:1]
    lows = _CAPACITY_HOLDS if np.ptp(known.capacity) else _CAPACITY_HOLDS[:1]
    slopes = _SLOPES if np.ptp(known.load) or np.ptp(known.capacity) else _SLOPES[:1]
    season = find_season(known)
    seasons = (0.0, season) if season else (0.0,)
    return [Forecast(*one) for one in product(holds, lows, slopes, seasons)]


def find_season(known: Knowledge) -> float:
    """The load's period by its autocorrelation, seconds; 0: none."""
    load = known.load - known.load.mean()
    power = float(load @ load)
    if power == 0:
        return 0.0
    first, last = round(_SHORTEST_SEASON / known.period), min(round(_LONGEST_SEASON / known.period), load.size // 2)
    likeness = np.array(
        [float(load[lag:] @ load[:-lag]) / power * load.size / (load.size - lag) for lag in range(first, last)]
    )
    # The first peak beyond the first dip.
    below = np.flatnonzero(likeness < 0.3)
    if not below.size:
        return 0.0
    rest = likeness[below[0] :]
    best = int(rest.argmax())
    return float((first + below[0] + best) * known.period) if rest[best] > _LIKE else 0.0


def _hold(values: Array, samples: float) -> Array:
    """The maximum over the last samples."""
    width = round(samples) + 1
    held: Array = sliding_window_view(np.pad(values, (width - 1, 0), mode="edge"), width).max(axis=1)
    return held


def _ahead(known: Knowledge, values: Array, slope: float) -> Array:
    """What ``slope`` delays add if the values go on as in the last period."""
    change: Array = np.diff(values, prepend=values[0])
    return change * (slope * (known.delay + known.period) / known.period)
