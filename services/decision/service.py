"""Samples in, decisions out: hands every sample to its domain's follower.

One domain's samples wait for each other; domains do not.  A sample is acknowledged when there is
nothing more to do for it, so that after a crash it comes again.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

import structlog

from schemas.config import Config
from schemas.messages import Decision, Sample
from services.bus.bus import Bus, Denied, Received
from services.bus.session import ApiError, BackOff
from services.common import failpoints
from services.decision import metrics
from services.decision.domain_log import NAME, BusDecisions, BusSamples
from services.decision.domain_worker import Follower
from services.runtime.health import Health

_IN_HAND = 512
"""Samples taken from the bus and not dealt with: what a crash makes the bus deliver again."""
_ACK_WAIT_S = 10.0
_SILENT_PERIODS = 6
_NAMED = 3

_log = structlog.get_logger()


@dataclass
class Line:
    """A domain's samples that wait, and how it stands."""

    name: str
    follower: Follower
    waiting: deque[Received[Sample]] = field(default_factory=deque)
    busy: bool = False
    seen: float = field(default_factory=time.monotonic)
    """When a sample came last, by this process's clock."""


class DecisionService:
    """Decides for all configured domains."""

    def __init__(self, config: Config, bus: Bus, health: Health) -> None:
        """Prepare; ``run`` does the work."""
        self._bus = bus
        self._health = health
        self._silent_s = _SILENT_PERIODS * config.signal.period.seconds
        self._slots = asyncio.Semaphore(_IN_HAND)
        self._lines = {
            domain.name: Line(
                domain.name, Follower(domain, BusDecisions(bus, domain.name), BusSamples(bus, domain.name))
            )
            for domain in config.domains
        }

    def last(self) -> Iterator[Decision]:
        """The last decision of every domain that has one."""
        return (line.follower.last for line in self._lines.values() if line.follower.last is not None)

    async def run(self) -> None:
        """Decide, for ever."""
        messages = self._bus.consume(Sample, NAME, NAME, start=self._resumed, batch=_IN_HAND, ack_wait=_ACK_WAIT_S)
        async with asyncio.TaskGroup() as group, aclosing(messages):
            group.create_task(self._watch())
            async for received in messages:
                failpoints.point("decision.received")
                await self._slots.acquire()
                line = self._lines.get(received.message.domain)
                if line is None or self._bus.subjects.sample(line.name) != received.subject:
                    await self._refuse(received, line)
                    continue
                line.waiting.append(received)
                if not line.busy:
                    line.busy = True
                    group.create_task(self._work(line))

    async def _resumed(self) -> int:
        """Where a new consumer begins: after the samples that all domains are done with."""
        positions = []
        for line in self._lines.values():
            position = (await BusDecisions(self._bus, line.name).head()).position
            if position or await BusSamples(self._bus, line.name).after(0) is not None:
                positions.append(position)
        return min(positions, default=0)

    async def _refuse(self, received: Received[Sample], line: Line | None) -> None:
        if line is None:
            metrics.unknown.inc()
        else:
            await self._bus.bury(NAME, received, f"a sample of domain {line.name!r} on another's subject")
        await received.ack()
        self._slots.release()

    async def _work(self, line: Line) -> None:
        while line.waiting:
            received = line.waiting.popleft()
            await self._taken(line, received)
            failpoints.point("decision.taken")
            await received.ack()
            failpoints.point("decision.acknowledged")
            self._slots.release()
            line.seen = time.monotonic()
            metrics.lag.observe(max(time.time() - received.message.end / 1e9, 0.0))
        line.busy = False

    async def _taken(self, line: Line, received: Received[Sample]) -> None:
        back_off = BackOff()
        while True:
            try:
                await line.follower.take(received)
            except (ApiError, Denied) as error:
                # The bus answers, but not with what is asked: the next sample would fare no better.
                _log.error("cannot decide", domain=line.name, error=str(error))
                self._health.bad("samples", f"{line.name}: {error}")
                await back_off.wait()
            else:
                return

    async def _watch(self) -> None:
        while True:
            self._health.state("samples", self._complaint())
            await asyncio.sleep(1)

    def _complaint(self) -> str | None:
        now = time.monotonic()
        complaints = []
        for line in self._lines.values():
            silent = now - line.seen
            last = line.follower.last
            if silent > self._silent_s:
                complaints.append(f"{line.name}: no sample for {silent:.0f} s")
            elif last is None:
                complaints.append(f"{line.name}: no sample yet")
            elif last.stress is None:
                complaints.append(f"{line.name}: {last.reason}")
        more = f"; and {len(complaints) - _NAMED} more" if len(complaints) > _NAMED else ""
        return "; ".join(complaints[:_NAMED]) + more if complaints else None
