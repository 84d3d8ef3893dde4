"""What the network sees of one sample, and what its answer means.  Training and control share this module.

The network does not find the knee itself.  The memory keeps the largest total load that passed without a queue, and
lowers it to what flowed when a queue stood.  The network decides how far below or above that the total shall be.
"""

from math import log1p

from msgspec import Struct

from services.control.observation import Observation
from services.control.policy import Bounds

_QUEUE = 0.25
"""Least median latency, as a ratio to the tightest P95's SLO, that means a queue."""
_FORGET_S = 20.0
"""Time constant with which the highest critical load is forgotten."""
_UP, _DOWN = 0.1, 0.5
"""How far above and below the knee the total may be, as a share of the knee, for an action of 1 and -1."""
MOST = 2.0
"""Every feature lies within +-2."""

FEATURES = (
    "critical load, of the nameplate",
    "its change since the last sample, of the nameplate, times 5",
    "highest critical load of late minus the load, of the nameplate, times 5",
    "limits of all targets together, of the nameplate",
    "knee minus load and limits, of the nameplate, times 10",
    "knee, of the nameplate",
    "worst P95: half of log(1 + ratio to its SLO)",
    "worst jitter: half of log(1 + ratio to its SLO)",
    "least median: log(1 + ratio to the tightest SLO); without medians, the worst ratio",
    "1 if something was lost",
    "log(1 + seconds since the last queue) / 5",
    "1 if a target would send more",
    "length of the signal window, in 10 s",
)
"""In words, in their order.  The nameplate is the configured capacity, or the sum of all maxima."""


class LinkMemory(Struct, frozen=True, omit_defaults=True, gc=False):
    """What is kept of earlier samples; rates are kbit/s, times ns."""

    knee: int = 0
    """The largest total load that builds up no queue, as far as is known; 0 at first: the nameplate."""
    queued: int = 0
    """End of the last sample that showed a queue; 0 before any did."""
    load: int = 0
    """The critical load in the last sample."""
    peak: float = 0.0
    """The highest of late."""
    end: int = 0
    """End of the last sample."""


def extract(memory: LinkMemory, seen: Observation, bounds: Bounds, plate: int) -> tuple[tuple[float, ...], LinkMemory]:
    """The features of one sample with data, and the memory after it; ``plate`` is the nameplate, kbit/s.

    Where the critical load is not measured, it is left out of the total and of the knee alike.
    """
    load = seen.critical_recent or 0
    total = load + (bounds.limit if seen.target_recent is None else seen.target_recent)
    worst = seen.stress or 0.0
    shared = worst if not seen.medians else min(seen.medians)
    is_queue = seen.lost > 0 or (shared > _QUEUE if seen.medians else worst > 1)
    knee = memory.knee or plate
    knee = max(min(knee, total) if is_queue else max(knee, total) if memory.knee else knee, 1)
    first = memory.end == 0
    passed = 0.0 if first else max(seen.end - memory.end, 0) / 1e9
    peak = max(float(load), memory.peak - (memory.peak - load) * min(passed / _FORGET_S, 1.0))
    queued = seen.end if is_queue else memory.queued
    features = (
        load / plate,
        0.0 if first else 5 * (load - memory.load) / plate,
        5 * (peak - load) / plate,
        bounds.limit / plate,
        10 * (knee - load - bounds.limit) / plate,
        knee / plate,
        log1p(seen.p95) / 2,
        log1p(seen.jitter) / 2,
        log1p(shared),
        1.0 if seen.lost > 0 else 0.0,
        log1p(max(seen.end - queued, 0) / 1e9) / 5 if queued else 1.0,
        1.0 if bounds.hungry else 0.0,
        seen.window / 1e10,
    )
    clipped = tuple(min(max(one, -MOST), MOST) for one in features)
    return clipped, LinkMemory(knee, queued, load, peak, seen.end)


def find_budget(memory: LinkMemory, action: float) -> int:
    """The budget that an action within [-1, 1] asks for, kbit/s: 0 aims at the knee, after the memory's last sample."""
    share = _UP * action if action > 0 else _DOWN * action
    return max(int(memory.knee * (1 + share)) - memory.load, 0)


def find_action(memory: LinkMemory, budget: int) -> float:
    """The action that asks for a budget (kbit/s), as near as an action can."""
    share = (budget + memory.load) / memory.knee - 1
    return min(max(share / (_UP if share > 0 else _DOWN), -1.0), 1.0)
