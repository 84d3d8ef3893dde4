"""The probes of the simulated plant: from bytes over time to the round trips that are counted.

The senders of the model are fluid.  Real senders send packets in bursts, and while no queue builds up,
those bursts cause all of the latency.  ``Bursts`` therefore cuts each sender's bytes into bursts again.
All bursts pass through the queue one by one (Lindley's recursion, solved for a whole stretch of time at
once), and every probe waits for the bytes that it finds queued.

A ``SimulatedWorkload`` sends the probes of one critical workload and keeps their round trips twice: as
an exporter counts them, when they come back, and as ground truth of the second in which they were sent.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from services.plant.interface import BUCKETS, CriticalSecond, Histogram
from services.plant.simulated.senders import Limiter, Path, TcpSender, UdpSender
from services.plant.workloads import Apps, CriticalApp

Array = NDArray[np.float64]
_BOUNDS = np.array(BUCKETS)


class Pause(Struct, frozen=True):
    """A stretch of time in which a critical workload's host answers late, whatever the queue is; seconds."""

    start: float
    """After the plant's start."""
    seconds: float
    extra: float
    """What it adds to each round trip."""
    workload: str = ""
    """Whose host; empty: all of them."""


class Noise(Struct, frozen=True):
    """What hosts add to a round trip besides the queue; seconds."""

    base: float = 200e-6
    """Median of an empty path, the host's wake-ups included."""
    spread: float = 0.25
    """Standard deviation of the logarithm of that part."""
    stall_share: float = 0.03
    """Share of the round trips that meet a busy host."""
    stall: float = 0.0004
    """Mean delay that such a host adds."""
    outlier_share: float = 0.0
    """Share of the round trips that are outliers."""
    outlier: float = 0.01
    """Mean delay that an outlier adds."""
    pauses: tuple[Pause, ...] = ()
    """In the order of their starts; none overlaps another of the same workload."""

    def draw(self, count: int, random: np.random.Generator) -> Array:
        """Draw the extra seconds of ``count`` round trips."""
        base = self.base * np.exp(self.spread * random.standard_normal(count))
        stalled = random.random(count) < self.stall_share
        extra: Array = base + stalled * random.exponential(self.stall, count)
        # Without outliers nothing is drawn for them, so that seeds give the figures they always gave.
        if self.outlier_share:
            extra += (random.random(count) < self.outlier_share) * random.exponential(self.outlier, count)
        return extra

    def pauses_of(self, workload: str) -> "PauseSeries":
        """The pauses of one workload's host."""
        return PauseSeries([one for one in self.pauses if one.workload in ("", workload)])


class PauseSeries:
    """The pauses of one host, ready for many lookups."""

    def __init__(self, pauses: Sequence[Pause]) -> None:
        """Take them in the order of their starts."""
        self._starts = np.array([one.start for one in pauses])
        self._ends = np.array([one.start + one.seconds for one in pauses])
        self._extra = np.array([one.extra for one in pauses])

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._starts.size)

    def extra_at(self, times: Array) -> Array:
        """What is added to round trips that begin at ``times``, seconds."""
        place = self._starts.searchsorted(times, side="right") - 1
        late: Array = np.where((place >= 0) & (times < self._ends[place]), self._extra[place], 0.0)
        return late


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
        # Cut each sender's bytes into its bursts; each burst arrives when its last byte was accepted, or later.
        arrivals, lengths = [np.empty(0)], [np.empty(0)]
        for sender, (size, arrived) in enumerate(zip(self._sizes, stretch.arrived, strict=True)):
            first = self._sent[sender]
            count = max(int((float(arrived[-1]) - first) // size), 0)
            self._sent[sender] = first + count * size
            arrivals.append(np.interp(first + size * np.arange(1, count + 1), arrived, stretch.times))
            lengths.append(np.full(count, size))
        late = np.concatenate(arrivals)
        late += self._random.uniform(0, self._jitter, late.size)
        np.minimum(late, stretch.times[-1], out=late)
        order = late.argsort()
        times, sizes = late[order], np.concatenate(lengths)[order]
        service = np.interp(times, stretch.times, stretch.service)
        # Backlog just after arrival k: bytes arrived minus bytes served, plus service unused while the queue was empty.
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


class _Mark(NamedTuple):
    """Counters at the beginning of the second."""

    lost: int
    delivered: float


class SimulatedWorkload:
    """One critical workload: its sender, its probes and their round trips.  Times are seconds, as in the model."""

    def __init__(self, app: CriticalApp, apps: Apps, path: Path, random: Random) -> None:
        """Begin with nothing sent; ``path`` is what a TCP sender meets."""
        self.app = app
        self.load = app.load
        self.sender: UdpSender | TcpSender
        if app.protocol == "udp":
            self.sender = UdpSender(app.packet, app.load)
        else:
            self.sender = TcpSender(1, app.load, Limiter(0.0, 0.0, False), path)
        self.probes = UdpSender(apps.probe, apps.probe * 8 * app.probe_hz / 1000)
        self._phase = random.uniform(0, 1 / app.probe_hz)
        self._counts = np.zeros(len(BUCKETS) + 1, dtype=np.int64)
        self._sum = 0.0
        self._probes_lost = 0
        self._returning: list[tuple[Array, Array]] = []
        self._trips: list[Array] = []
        self._mark = _Mark(0, 0.0)
        self._wanted = 0.0

    @property
    def waiting(self) -> int:
        """Probes that are under way."""
        return sum(trips.size for _, trips in self._returning)

    def _lost(self) -> int:
        own = int(self.sender.dropped / self.sender.wire) if isinstance(self.sender, UdpSender) else 0
        return own + self._probes_lost

    def sent_between(self, begin: float, end: float) -> Array:
        """When its probes were sent."""
        hz = self.app.probe_hz
        first, last = np.ceil((begin - self._phase) * hz), np.ceil((end - self._phase) * hz)
        times: Array = np.arange(first, last) / hz + self._phase
        return times

    def take(self, sent: Array, trips: Array, arrived: NDArray[np.bool_]) -> None:
        """Record the probes sent at ``sent``: their round trips, and whether they came back."""
        came = trips[arrived]
        self._probes_lost += sent.size - came.size
        self._trips.append(came)
        if came.size:
            self._returning.append((sent[arrived] + came, came))

    def advance(self, now: float, seconds: float) -> None:
        """Count the round trips that ended by ``now``; ``seconds`` have passed since the last call."""
        self._wanted += self.load * seconds
        later = []
        for back, trips in self._returning:
            over = trips if back[-1] <= now else trips[back <= now]
            self._sum += float(over.sum())
            self._counts += np.bincount(_BOUNDS.searchsorted(over), minlength=self._counts.size)
            if over.size < trips.size:
                still = back > now
                later.append((back[still], trips[still]))
        self._returning = later

    def histogram(self) -> Histogram:
        """What an exporter would publish."""
        return Histogram(tuple(int(n) for n in np.cumsum(self._counts)), self._sum, self._lost())

    def close_second(self) -> CriticalSecond:
        """Return the ground truth of the second that ends now, and begin the next one."""
        trips = np.sort(np.concatenate(self._trips)) if self._trips else np.empty(0)
        lost, delivered = self._lost(), self.sender.delivered
        second = CriticalSecond(
            p50=_quantile(trips, 0.5) if trips.size else None,
            p95=_quantile(trips, 0.95) if trips.size else None,
            jitter=_quantile(trips, 0.75) - _quantile(trips, 0.25) if trips.size else None,
            observations=trips.size,
            lost=lost - self._mark.lost,
            load=round(self._wanted),
            throughput=round((delivered - self._mark.delivered) * self.sender.payload / 125),
        )
        self._mark, self._wanted, self._trips = _Mark(lost, delivered), 0.0, []
        return second


def _quantile(ascending: Array, share: float) -> float:
    at = share * (ascending.size - 1)
    low = int(at)
    high = min(low + 1, ascending.size - 1)
    return float(ascending[low] + (at - low) * (ascending[high] - ascending[low]))
