"""Packets in the simulated bottleneck: from bytes over time to the round trips that probes see.

The senders of the model are fluid.  Real ones send packets in bursts, and below the cliff, where no
queue exists, those bursts are all the latency there is.  Each sender's bytes are therefore cut into
its bursts again, all bursts pass through the queue one by one (Lindley's recursion, solved for a whole
stretch at once), and every probe waits for what it finds there.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Noise(Struct, frozen=True):
    """What hosts add to a round trip besides the queue; seconds."""

    base: float = 200e-6
    """Median of an empty path, the host's wake-ups included."""
    spread: float = 0.25
    """Of that median: standard deviation of its logarithm."""
    stall_share: float = 0.03
    """Round trips that meet a busy host."""
    stall: float = 0.0004
    """Mean of what such a host adds."""

    def draw(self, count: int, random: np.random.Generator) -> Array:
        """Draw the extra seconds of ``count`` round trips."""
        base = self.base * np.exp(self.spread * random.standard_normal(count))
        stalled = random.random(count) < self.stall_share
        extra: Array = base + stalled * random.exponential(self.stall, count)
        return extra


class TickSeries(Struct, frozen=True):
    """What happened between two moments, at ticks; arrays are cumulative and begin at their first tick."""

    times: Array
    """Of the ticks, seconds."""
    service: Array
    """Bytes that the bottleneck could have served of the bursty senders, cumulative from 0."""
    arrived: Sequence[Array]
    """Bytes accepted from each bursty sender, cumulative over the whole run."""


class Bursts:
    """Carries the queue of bursts from one stretch to the next."""

    def __init__(self, sizes: Sequence[float], jitter: float, seed: np.random.Generator) -> None:
        """Send bursts of ``sizes`` bytes, one size a sender, each up to ``jitter`` seconds late."""
        self._sizes = list(sizes)
        self._jitter = jitter
        self._random = seed
        self._sent = [-float(seed.uniform(0, size)) for size in sizes]
        self._left = 0.0

    def backlog_at(self, probes: Array, stretch: TickSeries) -> Array:
        """The bytes that each probe finds queued; ``probes`` are ascending times within the stretch."""
        times, sizes = self._arrivals(stretch)
        service = np.interp(times, stretch.times, stretch.service)
        # Backlog just after arrival k: what came, less what was served, plus what was idle time.
        net = np.cumsum(sizes) + self._left - service
        idle = np.minimum.accumulate(np.minimum(net - sizes, 0.0))
        after = net - idle
        end = float(stretch.service[-1])
        served = np.interp(probes, stretch.times, stretch.service)
        # Position 0 stands for the backlog that was there before the first arrival.
        after = np.concatenate(([self._left], after))
        since = np.concatenate(([0.0], service))
        place = times.searchsorted(probes, side="right")
        self._left = max(float(after[-1]) - (end - float(since[-1])), 0.0)
        found: Array = np.maximum(after[place] - (served - since[place]), 0.0)
        return found

    def _arrivals(self, stretch: TickSeries) -> tuple[Array, Array]:
        times, sizes = [], []
        for sender, (size, arrived) in enumerate(zip(self._sizes, stretch.arrived, strict=True)):
            first = self._sent[sender]
            count = max(int((float(arrived[-1]) - first) // size), 0)
            self._sent[sender] = first + count * size
            if count:
                times.append(np.interp(first + size * np.arange(1, count + 1), arrived, stretch.times))
                sizes.append(np.full(count, size))
        if not times:
            return np.empty(0), np.empty(0)
        when = np.concatenate(times)
        when += self._random.uniform(0, self._jitter, when.size)
        np.minimum(when, stretch.times[-1], out=when)
        order = when.argsort()
        return when[order], np.concatenate(sizes)[order]
