"""A fluid model of the link: many controllers at once, as arrays, a thousand times as fast as the simulated plant.

It has one queue, no packets, no TCP and no noise.  It ranks settings; the best ones are then played on the plant.
"""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from services.bench.bound.timeline import TICK, Array, Timeline

_LATE = 0.0012
"""Seconds of queue above which a round trip breaks the usual SLO of 2 ms, with the hosts' own delay."""
_SEEN = 0.0003
"""Seconds of queue that show in the median of a period."""
FASTEST = 4.0
"""How many times as fast as at first an estimate may rise."""
_LATE_SHARE = 0.05
"""A second is bad if more of its round trips are late: they are its P95."""
_DEPTH = 0.1
"""The FIFO, in seconds at the nameplate."""


class Figures(Struct, frozen=True):
    """What several settings achieve, one array element each."""

    violation: Array
    """Bad seconds outside of unpredicted steps, as a share."""
    per_step: Array
    """Bad seconds for each unpredicted step."""
    goodput: Array
    """Mean of what targets deliver, kbit/s on the wire."""


def judge(truth: Timeline, limits: Array) -> Figures:
    """Judge limits: one row for each tick, one column for each setting."""
    sent = np.minimum(limits, truth.demand[:, None])
    net = np.cumsum((truth.load - truth.capacity)[:, None] * TICK + sent * TICK, axis=0)
    # The queue is what came minus what was served; the FIFO's size is left out, since settings that fill it are unsafe.
    queue = net - np.minimum(np.minimum.accumulate(net, axis=0), 0.0)
    room = np.maximum(truth.capacity - truth.load, 0.0)[:, None]
    return tally(truth, queue > _LATE * truth.capacity[:, None], np.minimum(sent, room))


def tally(truth: Timeline, late: NDArray[np.bool_], delivered: Array) -> Figures:
    """Count bad seconds and average the goodput after learning."""
    per_second = round(1 / TICK)
    seconds = truth.judged.size
    bad = late[: seconds * per_second].reshape(seconds, per_second, -1).mean(axis=1) > _LATE_SHARE
    learned = truth.judged | truth.after_step
    goodput = delivered[: seconds * per_second].reshape(seconds, per_second, -1).mean(axis=1)[learned].mean(axis=0)
    violation = bad[truth.judged].sum(axis=0) / max(int(learned.sum()), 1)
    per_step = bad[truth.after_step].sum(axis=0) / max(truth.steps, 1)
    return Figures(violation, per_step, goodput)


class ProbeGrid(Struct, frozen=True):
    """Settings of the prober, one array element each; see ``controllers.Prober``."""

    rise: Array
    """Rise of the estimate, as a share of the nameplate and second."""
    back: Array
    """What a touch takes of the capacity that it shows."""
    wait: Array
    """Seconds without a queue before the estimate rises."""
    faster: Array
    """Factor on the rise for each period without a queue."""
    margin: Array
    """Below the estimate, as a share of the nameplate."""
    hold: NDArray[np.int64]
    """Which of the forecasts it uses."""


def probe(truth: Timeline, seen: Array, forecasts: Array, grid: ProbeGrid, period: float, delay: float) -> Figures:
    """Judge probers, which learn the capacity only while there is a queue.

    Args:
        truth: of the scenario.
        seen: the capacity by sample, which a prober may read while its queue shows.
        forecasts: of the load: one row for each, by sample.
        grid: the settings.
        period: of the samples, seconds.
        delay: from a sample to its limit in force, seconds.
    """
    plate, size = truth.nameplate, grid.rise.size
    estimate = np.full(size, 0.6 * plate)
    calm, speed = np.zeros(size), np.ones(size)
    limit = after = np.full(size, 0.4 * plate)
    queue, queued = np.zeros(size), np.zeros(size)
    ticks, late_by, per = truth.load.size, round(delay / TICK), round(period / TICK)
    late = np.empty((ticks, size), dtype=np.bool_)
    delivered = np.empty((ticks, size), dtype=np.float64)
    for tick in range(ticks):
        sample, phase = divmod(tick, per)
        if phase == 0 and sample < seen.size:
            touched = queued > per / 2
            calm = np.where(touched, 0.0, calm + period)
            speed = np.where(touched, 1.0, np.where(calm > grid.wait, np.minimum(speed * grid.faster, FASTEST), 1.0))
            risen = estimate + (calm > grid.wait) * grid.rise * speed * plate * period
            estimate = np.where(touched, seen[sample] * (1 - grid.back), np.minimum(risen, plate))
            after = np.clip(estimate - forecasts[grid.hold, sample] - grid.margin * plate, 0.01 * plate, plate)
            queued = np.zeros(size)
        if phase == late_by % per:
            limit = after
        capacity, room = truth.capacity[tick], truth.capacity[tick] - truth.load[tick]
        sent = np.minimum(limit, truth.demand[tick])
        queue = np.clip(queue + (sent - room) * TICK, 0.0, _DEPTH * plate)
        is_late = queue > _LATE * capacity
        late[tick] = is_late
        queued += queue > _SEEN * capacity
        delivered[tick] = np.minimum(sent, max(room, 0.0))
    return tally(truth, late, delivered)
