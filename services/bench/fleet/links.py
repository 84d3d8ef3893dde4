"""Many nodes' uplinks at once, as arrays: a fluid queue each, loads that move, and pods that come and go.

It is coarser than ``services.plant.simulated``: no packets, no TCP.  In return nearly all of a run is spent in the
control step, which is the live one.
"""

from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Array = NDArray[np.float64]

TICK_S = 0.02
PERIOD_S = 0.5
TICKS = round(PERIOD_S / TICK_S)
WINDOW = 4
"""Periods in a signal window."""
LATE_S = 0.0016
"""Seconds of queue above which a round trip breaks the objective of 2 ms, with the hosts' own 0.4 ms."""
NAMEPLATES = (100_000, 250_000, 1_000_000)
"""kbit/s; there is a definition for each."""
_HOST_S = 0.0004
_FIFO_S = 0.1
_BURST_S, _BETWEEN_BURSTS_S = 1.5, 180.0
_PODS = 10.0
"""Best-effort pods of a node, on average."""
_POD_LIFE_S = 900.0
_DELAY = 5
"""Ticks from a sample to its limit in force."""


class Seen(Struct, frozen=True):
    """What a sampler would measure of every node at the end of a period."""

    p95: Array
    """Seconds, over the window."""
    jitter: Array
    """Q75 - Q25, seconds, over the window."""
    p50: Array
    """Median over the last period, seconds."""
    lost: Array
    """Probes lost in the window."""
    load: Array
    """Of the critical workload in the last period, kbit/s."""
    sent: Array
    """Of the targets in the last period, kbit/s."""


class Links:
    """The uplinks of a fleet."""

    def __init__(self, nodes: int, seed: int) -> None:
        """Begin with empty queues; nodes get their nameplates in turn."""
        self._random = np.random.default_rng(seed)
        self.nameplate = np.array([NAMEPLATES[node % len(NAMEPLATES)] for node in range(nodes)], dtype=float)
        # Most uplinks give what they promise; one in ten gives much less.
        share = np.where(self._random.random(nodes) < 0.1, 0.6, self._random.uniform(0.92, 1.0, nodes))
        self.capacity: Array = self.nameplate * share
        self._base = self._random.uniform(0.15, 0.35, nodes)
        self._season_s = self._random.uniform(120, 600, nodes)
        self._phase = self._random.uniform(0, 2 * np.pi, nodes)
        self._drift = np.zeros(nodes)
        self._burst_left = np.zeros(nodes)
        self.pods: NDArray[np.int64] = self._random.poisson(_PODS, nodes)
        self.limit: Array = 0.2 * self.nameplate
        self._coming: Array = self.limit.copy()
        self._queue = np.zeros(nodes)
        self._delays = np.full((WINDOW * TICKS, nodes), _HOST_S)
        self._lost = np.zeros((WINDOW, nodes))
        self.time_s = 0.0

    def set_limits(self, limits: Array) -> None:
        """Limits in force a tenth of a second from now, kbit/s a node."""
        self._coming = limits.copy()

    def churn(self) -> NDArray[np.int64]:
        """Pods end and are placed anew, for one period; gives how many came to each node."""
        ends = self._random.binomial(self.pods, PERIOD_S / _POD_LIFE_S)
        comes = self._random.poisson(_PODS * PERIOD_S / _POD_LIFE_S, len(self.pods))
        self.pods = self.pods - ends + comes
        return comes

    def restart(self, node: int) -> None:
        """A node comes back empty, with another load."""
        self._queue[node] = 0
        self._base[node] = self._random.uniform(0.15, 0.35)
        self._delays[:, node] = _HOST_S
        self._lost[:, node] = 0
        self.limit[node] = self._coming[node] = 0.2 * self.nameplate[node]
        self.pods[node] = max(int(self._random.poisson(_PODS)), 1)

    def advance(self) -> tuple[Seen, dict[str, Any]]:
        """One period; gives what is seen of it, and its truth: late ticks, delivered and possible rates, losses."""
        load = self._find_load()
        nodes = len(load)
        late, sent_sum, delivered = np.zeros(nodes), np.zeros(nodes), np.zeros(nodes)
        lost = np.zeros(nodes)
        block = np.empty((TICKS, nodes))
        fifo = _FIFO_S * self.capacity
        for tick in range(TICKS):
            if tick == _DELAY:
                self.limit = self._coming
            sent = np.where(self.pods > 0, self.limit, 0.0)
            queue = self._queue + (load + sent - self.capacity) * TICK_S
            lost += queue > fifo
            self._queue = np.clip(queue, 0.0, fifo)
            delay = self._queue / self.capacity
            late += delay > LATE_S
            block[tick] = delay + _HOST_S + self._random.exponential(0.00003, nodes)
            sent_sum += sent
            delivered += np.minimum(sent, np.maximum(self.capacity - load, 0.0))
        self._delays = np.concatenate((self._delays[TICKS:], block))
        self._lost = np.concatenate((self._lost[1:], lost[None]))
        self.time_s += PERIOD_S
        q25, q75, q95 = np.percentile(self._delays, (25, 75, 95), axis=0)
        seen = Seen(q95, q75 - q25, np.median(block, axis=0), self._lost.sum(axis=0), load, sent_sum / TICKS)
        room = np.where(self.pods > 0, np.maximum(self.capacity - load, 0.0), 0.0)
        return seen, {"late": late / TICKS, "delivered": delivered / TICKS, "room": room, "lost": lost}

    def _find_load(self) -> Array:
        """The critical load of this period: a season, a drift, and bursts, kbit/s."""
        nodes = len(self._base)
        self._drift = 0.995 * self._drift + self._random.normal(0, 0.001, nodes)
        begins = self._random.random(nodes) < PERIOD_S / _BETWEEN_BURSTS_S
        self._burst_left = np.where(begins, _BURST_S, np.maximum(self._burst_left - PERIOD_S, 0.0))
        season = 0.08 * np.sin(2 * np.pi * self.time_s / self._season_s + self._phase)
        share = self._base + season + self._drift + 0.02 * (self._burst_left > 0)
        return np.asarray(self.nameplate * np.clip(share, 0.02, 0.5), dtype=float)
