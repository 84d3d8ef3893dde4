"""The simulated plant: a bottleneck's queue and its senders, in plain steps of time.

It replaces the real packets: the agent sets its limits, the exporter reads its latencies, and the score
reads the ground truth of each second.  It has a FIFO of fixed size in front of a fixed
rate, best-effort pods whose CUBIC streams fill their limits, a paced critical TCP stream that a full FIFO
crushes, and datagrams that a full FIFO drops.  ``senders.py`` moves bytes tick by tick, and ``probes.py``
turns them into round trips and counts those.

The caller drives time: nothing happens outside ``advance``.  The same parameters, seed and calls give the
same numbers.  ``commands/compare_plants.py`` compares it with the real plant.
"""

from collections.abc import Iterator, Mapping, Sequence
from random import Random

import msgspec
import numpy as np
from msgspec import Struct

from services.plant.interface import Counters, Pod, Second
from services.plant.simulated.probes import Bursts, Noise, SimulatedWorkload, TickSeries
from services.plant.simulated.senders import Limiter, Path, TcpSender, UdpMix, UdpSender
from services.plant.workloads import UDP_HEADERS, Apps

_NS = 10**9
_SHORTEST_TICK = 1e-9
"""Seconds; anything shorter is a rounding error."""


class Parameters(Struct, frozen=True):
    """The plant's size; the defaults are the bed's, and those of bursts and noise were fitted to it."""

    apps: Apps = Apps()
    fifo: int = 1_250_000
    """The bottleneck's queue, bytes: 100 ms of 100 Mbit/s."""
    limiter_queue: int = 200_000
    """Of each pod's limiter, bytes."""
    limiter_burst: int = 4_000
    """Bytes that a limiter lets pass at once after a pause."""
    bucket: int = 4_000
    """Bytes that the bottleneck, a token bucket too, lets pass at once after a pause."""
    pod_burst: int = 1514
    """Bytes that leave a busy pod at once: a packet."""
    critical_burst: int = 4542
    """Bytes that a paced critical stream sends at once."""
    exposure: float = 2.3
    """How much likelier than a best-effort packet one of a critical stream is dropped by a full queue."""
    forgiving: bool = False
    """Whether queued bytes keep their old times when a limit changes, as with Cilium, or not, as with TBF."""
    jitter: float = 0.0001
    """How late a burst may be, seconds, because the hosts' timers are inexact."""
    noise: Noise = Noise()
    tick: float = 0.005
    """Length of a step while there is a queue, seconds."""
    calm_tick: float = 0.02
    """Length of a step while there is none, seconds."""
    watch: float = 0.002
    """Queueing delay whose crossings are reported, seconds: the usual SLO."""
    bin_offset: float = 0.37
    """When the first second of the ground truth begins, seconds after the start; no sample ends then."""


class ByteCount(Struct, frozen=True):
    """A sender's bytes on the wire; ``offered`` is the sum of the other three."""

    offered: float
    delivered: float
    dropped: float
    queued: float


class SimulatedPlant:
    """The model of one bottleneck.  Implements ``Plant``."""

    def __init__(self, parameters: Parameters = Parameters(), seed: int = 0, start: int = 0) -> None:  # noqa: B008 - frozen
        """Begin with empty queues.

        Args:
            parameters: sizes, loads and noise.
            seed: of everything random.
            start: the clock's first time, UTC ns.
        """
        self._parameters = parameters
        self._start = start
        self._time = 0.0
        self._random = np.random.default_rng(seed)
        self._rate = parameters.apps.capacity * 125.0
        self._queue = 0.0
        draws = Random(seed)  # noqa: S311 - losses, not secrets
        apps, base = parameters.apps, parameters.noise.base
        critical_path = Path(base, parameters.exposure, draws)
        self._probed = [SimulatedWorkload(app, apps, critical_path, draws) for app in apps.critical]
        self._pods = dict(_pods(parameters, Path(base, 1.0, draws)))
        critical = [one.sender for one in self._probed if isinstance(one.sender, TcpSender)]
        self._streams = [*critical, *(stream for _, stream in self._pods.values())]
        sizes = [parameters.critical_burst] * len(critical) + [parameters.pod_burst] * len(self._pods)
        datagrams = [one.sender for one in self._probed if isinstance(one.sender, UdpSender)]
        self._datagrams = UdpMix([*datagrams, *(one.probes for one in self._probed)])
        self._bursts = Bursts(sizes, parameters.jitter, self._random)
        self._pauses = [parameters.noise.pauses_of(app.workload) for app in apps.critical]
        self._bin_end = parameters.bin_offset
        self._marks = dict.fromkeys(self._pods, 0.0)
        self._seconds: list[Second] = []
        self._above = False
        self._crossed: list[int] = []
        self._open()

    @classmethod
    def for_apps(
        cls, apps: Apps, parameters: Parameters | None = None, seed: int = 0, start: int = 0
    ) -> "SimulatedPlant":
        """A plant with these apps, its FIFO as deep in time as the parameters' is."""
        parameters = parameters or Parameters()
        fifo = parameters.fifo * apps.capacity // parameters.apps.capacity
        return cls(msgspec.structs.replace(parameters, apps=apps, fifo=fifo), seed, start)

    def take_crossings(self) -> Sequence[int]:
        """When, since the last call, the queue's delay rose above ``watch``: UTC ns, to a tick."""
        crossed, self._crossed = self._crossed, []
        return crossed

    # -- the plant's interface

    @property
    def now(self) -> int:
        """The clock, UTC ns."""
        return self._start + round(self._time * _NS)

    @property
    def pods(self) -> Sequence[Pod]:
        """The best-effort pods there are."""
        return [pod for pod, _ in self._pods.values()]

    @property
    def limits(self) -> Mapping[str, int | None]:
        """In force now, by pod name, kbit/s."""
        rates = {name: stream.limiter.rate for name, (_, stream) in self._pods.items()}
        return {name: None if rate is None else round(rate / 125) for name, rate in rates.items()}

    def set_limit(self, pod: str, kbit: int | None) -> None:
        """Put a limit in force on a pod's egress, or lift it with None.

        Raises:
            KeyError: no such pod.
        """
        self._pods[pod][1].limiter.set_rate(None if kbit is None else kbit * 125.0)

    def set_load(self, workload: str, kbit: int | None) -> None:
        """Change what a workload, or each replica of a target, wants to send; see ``LoadControl``.

        Raises:
            KeyError: no such workload or target.
        """
        self._measure()
        found = False
        for one in self._probed:
            if one.app.workload == workload:
                one.load = kbit or 0
                one.sender.set_rate(one.load)
                found = True
        for pod, stream in self._pods.values():
            if pod.target == workload:
                stream.set_rate(kbit)
                found = True
        if not found:
            raise KeyError(workload)
        self._datagrams.open()

    def set_capacity(self, kbit: int) -> None:
        """Change the bottleneck's rate."""
        self._measure()
        self._rate = kbit * 125.0

    def read_counters(self) -> Counters:
        """The counters now."""
        self._measure()
        sent = {one.app.workload: int(one.sender.offered) for one in self._probed}
        sent |= {name: int(stream.sent) for name, (_, stream) in self._pods.items()}
        return Counters({one.app.workload: one.histogram() for one in self._probed}, sent)

    def take_seconds(self) -> Sequence[Second]:
        """The seconds that were completed since the last call, oldest first."""
        done, self._seconds = self._seconds, []
        return done

    def ledger(self) -> dict[str, ByteCount]:
        """Account for every sender's bytes; all datagrams together are under ``udp``."""
        self._measure()
        names = [one.app.workload for one in self._probed if isinstance(one.sender, TcpSender)] + list(self._pods)
        books = {
            name: ByteCount(
                one.offered, one.delivered, one.dropped + one.limiter.dropped, one.in_fifo + one.limiter.queued
            )
            for name, one in zip(names, self._streams, strict=True)
        }
        mix = self._datagrams
        flows = mix.flows
        books["udp"] = ByteCount(
            sum(flow.offered for flow in flows),
            sum(flow.delivered for flow in flows),
            sum(flow.dropped for flow in flows),
            mix.in_fifo,
        )
        return books

    # -- time

    def advance(self, ns: int) -> None:
        """Let time pass.

        Args:
            ns: how long; limits and loads stay as they are meanwhile.
        """
        until = self._time + ns / _NS
        calm, tick = self._parameters.calm_tick, self._parameters.tick
        while until - self._time > _SHORTEST_TICK:
            stop = min(until, self._bin_end)
            while stop - self._time > _SHORTEST_TICK:
                self._tick(min(tick if self._queue else calm, stop - self._time))
            if stop == self._bin_end:
                self._measure()
                goodput: dict[str, float] = {}
                for name, (pod, stream) in self._pods.items():
                    got = (stream.delivered - self._marks[name]) * stream.payload
                    self._marks[name] = stream.delivered
                    goodput[pod.target] = goodput.get(pod.target, 0.0) + got
                second = Second(
                    start=self.now - _NS,
                    critical={one.app.workload: one.close_second() for one in self._probed},
                    goodput={target: round(got / 125) for target, got in goodput.items()},
                    limits=dict(self.limits),
                    capacity=round(self._rate / 125),
                )
                # The stretch before the first whole second is left out.
                if self._bin_end > 1:
                    self._seconds.append(second)
                self._bin_end += 1.0

    def _open(self) -> None:
        """Begin a stretch."""
        self._datagrams.open()
        self._times = [self._time]
        self._service = [0.0]
        self._accepted = [[stream.sent - stream.dropped] for stream in self._streams]
        self._losing = [0.0]

    def _tick(self, dt: float) -> None:
        now, mix, capacity = self._time, self._datagrams, self._rate * dt
        delay = self._queue / self._rate
        if delay > self._parameters.watch and not self._above:
            self._crossed.append(self.now)
        self._above = delay > self._parameters.watch
        datagrams, exposed = mix.emit(dt)
        outs = [stream.emit(dt, now, delay) for stream in self._streams]
        total = self._queue + datagrams + sum(outs)
        served = min(total, capacity)
        over = total - served - self._parameters.fifo
        losing = udp_dropped = 0.0
        if over > 0:
            losing = self._drop_chance(over, outs, exposed)
            udp_dropped = losing * exposed
            total -= over
        # Each sender's share of what leaves is its share of the queue.
        share = served / total if total else 0.0
        held = mix.in_fifo + datagrams - udp_dropped
        mix.in_fifo = held - held * share
        mix.settle(udp_dropped, held * share, losing, dt)
        service = self._service[-1] + max(capacity - datagrams + udp_dropped, 0.0)
        for stream, out, accepted in zip(self._streams, outs, self._accepted, strict=True):
            dropped = out * min(losing * stream.exposure, 1.0)
            held = stream.in_fifo + out - dropped
            stream.in_fifo = held - held * share
            stream.settle(dropped, held * share, now, dt)
            accepted.append(stream.sent - stream.dropped)
        self._queue = total - served
        self._time = now + dt
        self._times.append(self._time)
        self._service.append(service)
        self._losing.append(losing)

    def _drop_chance(self, over: float, outs: list[float], exposed: float) -> float:
        """The chance of a full-size packet to be dropped, so that ``over`` bytes are dropped in all.

        Streams that are so exposed that their chance would exceed 1 lose everything first.
        """
        by_exposure = sorted(zip(self._streams, outs, strict=True), key=lambda pair: -pair[0].exposure)
        weight = exposed + sum(stream.exposure * out for stream, out in by_exposure)
        for stream, out in by_exposure:
            if over * stream.exposure <= weight:
                break
            over -= out
            weight -= out * stream.exposure
        return over / weight if weight > 0 else 1.0

    # -- measurements

    def _measure(self) -> None:
        """End a stretch of time: let its probes wait behind its bursts, and record their round trips.

        Limits may change within a stretch; loads and the capacity may not.
        """
        if len(self._times) < 2:
            return
        self._datagrams.close()
        stretch = TickSeries(np.array(self._times), np.array(self._service), [np.array(a) for a in self._accepted])
        begin, end = self._times[0], self._times[-1]
        sent = [one.sent_between(begin, end) for one in self._probed]
        probes = np.concatenate(sent)
        rate = max(float(stretch.service[-1]) / (end - begin), 1.0)
        backlog = np.maximum(self._bursts.backlog_at(probes, stretch) - self._parameters.bucket, 0.0)
        queued = np.minimum(backlog / rate, self._parameters.fifo / self._rate)
        own = (self._parameters.apps.probe + UDP_HEADERS) / self._rate
        trips = queued + own + self._parameters.noise.draw(probes.size, self._random)
        losing = np.array(self._losing)[stretch.times.searchsorted(probes)]
        arrived = self._random.random(probes.size) >= losing * self._probed[0].probes.exposure
        place = 0
        for one, times, pauses in zip(self._probed, sent, self._pauses, strict=True):
            mine = slice(place, place + times.size)
            place += times.size
            if pauses:
                trips[mine] += pauses.extra_at(times)
            one.take(times, trips[mine], arrived[mine])
            one.advance(end, end - begin)
        self._open()


def _pods(parameters: Parameters, path: Path) -> Iterator[tuple[str, tuple[Pod, TcpSender]]]:
    """Every replica of every target, with the limit it has at the start, by name."""
    for app in parameters.apps.targets:
        for replica in range(app.replicas):
            limiter = Limiter(parameters.limiter_queue, parameters.limiter_burst, parameters.forgiving)
            limiter.set_rate(None if app.limit is None else app.limit * 125.0)
            pod = Pod(f"{app.target.partition('/')[2]}-{replica}", app.target)
            yield pod.name, (pod, TcpSender(app.flows, app.load, limiter, path))
