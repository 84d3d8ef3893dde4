"""Senders through the simulated bottleneck: the part of the model that reacts to loss and delay.

At every tick the plant (``plant.py``) asks each sender what reaches the bottleneck, and reports what was
dropped and what arrived.  Senders are fluid: bytes, not packets.  ``probes.py`` cuts them into packets
again for the latencies.  Rates are bytes per second, times seconds, all bytes on the wire (L2).
"""

from collections.abc import Sequence
from math import inf
from random import Random
from typing import NamedTuple

from services.plant.workloads import MTU_WIRE, TCP_SHARE, UDP_HEADERS

_BETA = 0.7
"""CUBIC leaves this of its window after a loss (RFC 9438)."""
_CUBIC = 0.4
"""CUBIC's scaling constant, segments per cubed second."""
_FRIENDLY = 3 * (1 - _BETA) / (1 + _BETA)
"""Growth in segments per round trip that keeps CUBIC as fast as Reno."""
_TOGETHER = 3.0
"""Packets that a full queue drops for each one that the model loses, since packets come in bunches.  Fitted."""
_HYSTART = 0.004
"""Slow start ends when the round trip has grown by this much, seconds."""
_SMALL_QUEUE = 4 * MTU_WIRE
"""Bytes that a connection may have queued at its pod's limit (TCP small queues); measured on the testbed."""
_LEAST = 2 * MTU_WIRE
"""A window never falls below two segments."""


class Limiter:
    """A pod's bandwidth limit: a token bucket with a queue of its own.

    A changed limit starts with full tokens.  With ``forgiving`` it also behaves like Cilium's earliest
    departure times: what had been scheduled keeps its old times, and new packets are scheduled as if
    nothing were ahead of them, so that for a short time both leave.
    """

    __slots__ = (
        "_burst",
        "_forgiven",
        "_forgiven_rate",
        "_forgiving",
        "_room",
        "_tokens",
        "backlog",
        "dropped",
        "rate",
    )

    def __init__(self, room: float, burst: float, forgiving: bool) -> None:
        """Begin without a limit; ``room`` is the queue's size and ``burst`` the bucket's, bytes."""
        self.rate: float | None = None
        self.backlog = 0.0
        self.dropped = 0.0
        self._room = room
        self._burst = burst
        self._tokens = burst
        self._forgiving = forgiving
        self._forgiven = 0.0
        self._forgiven_rate = 0.0

    @property
    def queued(self) -> float:
        """Bytes that wait, on the old and on the new schedule."""
        return self.backlog + self._forgiven

    def set_rate(self, rate: float | None) -> None:
        """Put another rate in force."""
        if self._forgiving and self.rate is not None:
            self._forgiven += self.backlog
            self._forgiven_rate = self.rate
            self.backlog = 0.0
        self.rate = rate
        self._tokens = self._burst

    def delay(self) -> float:
        """How long a byte that arrives now would wait, seconds."""
        return self.backlog / self.rate if self.rate else 0.0

    def pass_bytes(self, arrived: float, dt: float) -> tuple[float, float]:
        """Bytes that leave within ``dt``, and bytes dropped because the queue is full."""
        early = 0.0
        if self._forgiven:
            early = min(self._forgiven, self._forgiven_rate * dt)
            self._forgiven -= early
        self.backlog += arrived
        if self.rate is None:
            out, self.backlog = self.backlog, 0.0
            return out + early, 0.0
        allowed = self.rate * dt + self._tokens
        out = min(self.backlog, allowed)
        self._tokens = min(allowed - out, self._burst)
        self.backlog -= out
        over = self.backlog - self._room
        if over > 0:
            self.backlog = self._room
            self.dropped += over
            return out + early, over
        return out + early, 0.0


class UdpSender:
    """UDP at a constant rate, regardless of losses."""

    __slots__ = ("delivered", "dropped", "exposure", "offered", "pace", "wire")

    def __init__(self, payload: int, kbit: float) -> None:
        """Send packets of ``payload`` bytes at ``kbit`` of payload."""
        self.wire = payload + UDP_HEADERS
        # A full FIFO that counts bytes may still have room for a small packet: the smaller, the likelier.
        self.exposure = min(self.wire / MTU_WIRE, 1.0)
        self.offered = self.delivered = self.dropped = 0.0
        self.pace = 0.0
        self.set_rate(kbit)

    @property
    def payload(self) -> float:
        """Payload as a share of the wire's bytes."""
        return (self.wire - UDP_HEADERS) / self.wire

    def set_rate(self, kbit: float) -> None:
        """Change the payload rate."""
        self.pace = kbit * 125.0 / self.payload


class UdpMix:
    """All UDP senders as one; what each of them lost is computed from its rate and the size of its packets."""

    __slots__ = ("_accepted", "_duration", "_exposure", "_losing", "_pace", "_passed", "flows", "in_fifo")

    def __init__(self, flows: Sequence[UdpSender]) -> None:
        """Take the flows, whose rates may change between ``close`` and ``open``."""
        self.flows = flows
        self.in_fifo = 0.0
        self.open()

    def open(self) -> None:
        """Begin a stretch of time with the rates that the flows have now."""
        self._pace = sum(flow.pace for flow in self.flows)
        self._exposure = sum(flow.pace * flow.exposure for flow in self.flows)
        self._duration = self._losing = self._passed = self._accepted = 0.0

    def emit(self, dt: float) -> tuple[float, float]:
        """Bytes that reach the bottleneck within ``dt``, and how many full-size packets' bytes count as much."""
        return self._pace * dt, self._exposure * dt

    def settle(self, dropped: float, delivered: float, losing: float, dt: float) -> None:
        """Account for the last tick; ``losing`` was the probability that a full-size packet was dropped."""
        self._duration += dt
        self._losing += losing * dt
        self._passed += delivered
        self._accepted += self._pace * dt - dropped

    def close(self) -> None:
        """Divide the totals among the flows at the end of the stretch."""
        arrived = self._passed / self._accepted if self._accepted else 0.0
        for flow in self.flows:
            offered = flow.pace * self._duration
            dropped = flow.pace * flow.exposure * self._losing
            flow.offered += offered
            flow.dropped += dropped
            flow.delivered += (offered - dropped) * arrived


class Path(NamedTuple):
    """The path of a stream."""

    base: float
    """Round trip without queues, seconds."""
    exposure: float
    """How much likelier than a best-effort pod's its packets are dropped by a full queue."""
    random: Random


class TcpSender:
    """TCP with CUBIC: ``flows`` alike connections as one window, paced or greedy, behind a limiter.

    The window counts the bytes in the limiter's queue and in the bottleneck's, so that deliveries clock
    the sender.  It grows only while it limits the sender.  A loss is noticed one round trip later.  Each
    connection that has lost packets by then reduces its share of the window to 0.7, and not again until
    the bytes in flight have arrived.  Which connections lose packets is random.
    """

    __slots__ = (
        *("_acked", "_base", "_below", "_climb", "_flows", "_full", "_hit", "_missing", "_noticed", "_peak", "_random"),
        *("_recovered", "_since", "_slow_start", "_trip", "_window"),
        *("delivered", "dropped", "exposure", "in_fifo", "limiter", "offered", "pace", "payload", "sent"),
    )

    def __init__(self, flows: int, kbit: int | None, limiter: Limiter, path: Path) -> None:
        """Send ``kbit`` of payload, or with None as much as it can."""
        self.payload = TCP_SHARE
        self.exposure = path.exposure
        self._random = path.random
        self.limiter = limiter
        self.offered = self.sent = self.delivered = self.dropped = self.in_fifo = 0.0
        self.pace = inf
        self._base = self._trip = path.base
        self._below = float(_SMALL_QUEUE * flows)
        self._flows = flows
        self._restart()
        self.set_rate(kbit)

    def set_rate(self, kbit: int | None) -> None:
        """Change the payload rate (None: greedy); a sender that was silent begins with slow start."""
        if self.pace == 0:
            self._restart()
        self.pace = inf if kbit is None else kbit * 125.0 / TCP_SHARE

    def _restart(self) -> None:
        self._window = self._peak = float(10 * MTU_WIRE * self._flows)
        self._slow_start = True
        self._full = False
        self._since = self._climb = self._acked = self._missing = 0.0
        self._noticed = self._recovered = 0.0
        self._hit = 0

    def emit(self, dt: float, now: float, fifo_delay: float) -> float:
        """Bytes that reach the bottleneck within ``dt``."""
        limiter = self.limiter
        trip = self._trip = self._base + fifo_delay + limiter.delay()
        self._since += dt
        if self._hit and now >= self._noticed:
            # A loss is noticed: CUBIC shrinks the window, and its curve begins anew.
            self._peak = self._window
            self._window = max(self._window * (1 - (1 - _BETA) * self._hit / self._flows), _LEAST * self._flows)
            self._climb = (max(self._peak - self._window, 0.0) / (self._flows * MTU_WIRE * _CUBIC)) ** (1 / 3)
            self._since = self._missing = 0.0
            self._hit = 0
            self._slow_start = False
            self._recovered = now + self._trip
        if self._full and not self._hit:
            self._grow(dt, trip)
        # If the round trip is shorter than the tick, the window can be sent several times within it.
        free = (
            self._window * dt / trip
            if trip < dt
            else (self._window - self._missing - limiter.queued - self.in_fifo + self._acked * dt)
        )
        free = max(free, 0.0)
        if now < self._recovered:
            # In recovery a sender sends less than what is acknowledged (RFC 6937).
            free = min(free, _BETA * self._acked * dt + _LEAST)
        wanted = self.pace * dt
        if limiter.rate is not None:
            # Behind a limit, TCP small queues hold a connection back, not its window.
            wanted = min(wanted, max(self._below - limiter.backlog, 0.0) + limiter.rate * dt)
        self._full = free < wanted
        arrived = free if self._full else wanted
        self.offered += arrived
        out, over = limiter.pass_bytes(arrived, dt)
        self.sent += out
        if over:
            self._lose(over, now)
        return out

    def settle(self, dropped: float, delivered: float, now: float, dt: float) -> None:
        """Account for the last tick."""
        self.delivered += delivered
        self._acked = delivered / dt
        if dropped:
            self.dropped += dropped
            self._lose(dropped, now)

    def bytes_queued(self) -> float:
        """Bytes between sender and bottleneck."""
        return self.limiter.queued

    def _grow(self, dt: float, trip: float) -> None:
        """Follow CUBIC's curve, whose clock keeps running while something else limits the sender."""
        turns = min(dt / trip, 1.0)
        if self._slow_start:
            if trip < self._base + _HYSTART:
                self._window *= 1 + turns
                return
            self._slow_start, self._peak = False, self._window
        each = self._flows * MTU_WIRE
        rise = self._since - self._climb
        cubic = _CUBIC * rise * rise * rise * each + self._peak
        friendly = self._window + _FRIENDLY * each * dt / trip
        # CUBIC adds at most half of the window in a round trip.
        self._window = max(self._window, min(max(cubic, friendly), self._window * (1 + 0.5 * turns)))

    def _lose(self, lost: float, now: float) -> None:
        if now < self._recovered:
            return
        packets = _TOGETHER * lost / MTU_WIRE
        chance = 1 - (1 - 1 / self._flows) ** packets if self._flows > 1 else packets
        hit = sum(self._random.random() < chance for _ in range(self._flows - self._hit))
        if hit and not self._hit:
            self._noticed = now + self._trip
        self._hit += hit
        if self._hit:
            self._missing += lost
