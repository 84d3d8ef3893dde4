"""One critical workload of the simulated plant: its sender, its probes, and their round trips.

The plant passes it the round trips of its probes.  It keeps them twice: as an exporter counts them, once
they are over, and as the truth of the second in which they were sent.
"""

from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.plant.interface import BUCKETS, CriticalSecond, Histogram
from services.plant.simulated.bursts import Array
from services.plant.simulated.senders import Limiter, Path, TcpSender, UdpSender
from services.plant.workloads import Apps, CriticalApp

_BOUNDS = np.array(BUCKETS)


class _Mark(NamedTuple):
    """Counters at the beginning of the second."""

    lost: int
    delivered: float


class SimulatedWorkload:
    """See the module's text.  Times are seconds, as in the model."""

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
        """Count the round trips that are over by ``now``, ``seconds`` after the last call."""
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
        """The truth of the second that ends now; the next one begins."""
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
