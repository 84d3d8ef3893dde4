"""``sluice decision``: consumes samples and gives each to the worker of its domain.

What the actuator reports to be in force is an input of every decision (``domain_log.py``), and so is the domain's
definition, which holds from one sample to the next.

One domain's samples wait for each other; domains do not.  A sample is acknowledged when there is
nothing more to do for it, so that it is delivered again after a crash.  Which replica gets which samples is in
``intake.py``; whoever gets one, it is answered once, by the compare-and-set of ``domain_worker.py``.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

import structlog
from prometheus_client import REGISTRY

from schemas.config import Config
from schemas.messages import Decision, Sample
from services.bus.bus import Bus, Denied, Received
from services.bus.connection import ApiError
from services.common import failpoints
from services.common.backoff import BackOff
from services.decision import metrics
from services.decision.domain_log import BusDecisionLog, BusSampleLog, Enforcement
from services.decision.domain_worker import DomainWorker
from services.decision.intake import NAME, Intake, Intakes
from services.decision.siblings import Siblings
from services.definitions.follower import Defined, Follower
from services.runtime.health import Health
from services.runtime.service import service_command

_MAX_PENDING = 512
"""Samples delivered and not acknowledged: the most that the bus delivers again after a crash."""
_SHARED_BATCH = 128
_ACK_WAIT_S = 10.0
_SILENT_PERIODS = 6
_GONE_S = 20.0
"""A domain whose samples went elsewhere for so long is forgotten; its state is on the bus."""
_MAX_NAMED = 3
"""Number of domains whose problems /readyz lists."""

_log = structlog.get_logger()


@dataclass
class DomainQueue:
    """A domain's worker, and the samples that wait for it."""

    name: str
    subject: str
    """Where its samples are published."""
    worker: DomainWorker
    waiting: deque[Received[Sample]] = field(default_factory=deque)
    busy: bool = False
    answered_at: float = field(default_factory=time.monotonic)
    """When a sample was last dealt with, monotonic seconds."""


class DecisionService:
    """Decides for all configured domains."""

    def __init__(self, config: Config, bus: Bus, health: Health) -> None:
        """Make a queue and a worker for each domain; ``run`` does the work."""
        self._bus = bus
        self._health = health
        self._silent_s = _SILENT_PERIODS * config.signal.period.seconds
        self._slots = asyncio.Semaphore(_MAX_PENDING)
        self._newest = 0, time.monotonic()
        """The last sample's sequence in the stream, and since when it is the last."""
        self._enforcement = Enforcement(config.domains)
        self._definitions = Follower(config.domains, health.set_note)
        defined = self._definitions.defined
        self._intakes = Intakes(config.sharding, bus.subjects.sample, defined)
        # Where domains are shared, a queue is made with the first sample that comes here.
        made = {} if self._intakes.are_shared else defined
        self._queues = {name: self._build_queue(one) for name, one in made.items()}
        self._definitions.on_change(self._define)

    def _build_queue(self, defined: Defined) -> DomainQueue:
        bus, name = self._bus, defined.domain.name
        decisions, samples = BusDecisionLog(bus, name, self._intakes.find(name).consumer), BusSampleLog(bus, name)
        worker = DomainWorker(
            defined.domain,
            decisions,
            samples,
            self._enforcement,
            defined.revision,
            Siblings(bus, self._definitions.defined).find_inherited,
        )
        return DomainQueue(name, bus.subjects.sample(name), worker)

    def _define(self, before: Defined | None, after: Defined | None) -> None:
        """Take a domain's definition up: it holds from the next sample on."""
        if after is None:
            if before is not None:
                self._intakes.remove(before.domain.name)
                self._forget(before.domain.name)
            return
        self._intakes.add(after.domain.name)
        self._enforcement.define(after.domain)
        queue = self._queues.get(after.domain.name)
        if queue is not None:
            queue.worker.define(after.domain, after.revision)
        elif not self._intakes.are_shared:
            self._queues[after.domain.name] = self._build_queue(after)

    def _forget(self, domain: str) -> None:
        if (queue := self._queues.pop(domain, None)) is not None:
            queue.worker.retire()

    def _find_queue(self, domain: str) -> DomainQueue | None:
        """A domain's queue; None where it is not defined."""
        queue = self._queues.get(domain)
        if queue is None and (defined := self._definitions.defined.get(domain)) is not None:
            queue = self._queues[domain] = self._build_queue(defined)
        return queue

    def last(self) -> Iterator[Decision]:
        """The last decision of every domain that has one."""
        # Called by the health server's threads: domains may come and go meanwhile.
        return (queue.worker.last for queue in list(self._queues.values()) if queue.worker.last is not None)

    async def run(self) -> None:
        """Answer samples until cancelled."""
        await self._definitions.load(self._bus)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._enforcement.follow(self._bus))
            group.create_task(self._definitions.follow(self._bus))
            for intake in self._intakes.all:
                group.create_task(self._take_samples(intake, group))

    async def _take_samples(self, intake: Intake, group: asyncio.TaskGroup) -> None:
        """Give each sample of a consumer to its domain's queue, for ever."""
        messages = self._bus.consume(
            Sample,
            intake.consumer,
            NAME,
            start=partial(self._find_start, intake),
            batch=_MAX_PENDING if intake.share is None else _SHARED_BATCH,
            ack_wait=_ACK_WAIT_S,
            once=True,
            share=intake.share,
        )
        async with aclosing(messages):
            async for received in messages:
                failpoints.point("decision.received")
                await self._slots.acquire()
                intake.note_delivery(self._silent_s)
                queue = self._find_queue(received.message.domain)
                if queue is None:
                    metrics.unknown.inc()
                elif queue.subject != received.subject:
                    reason = f"a sample of domain {queue.name!r} on another's subject"
                    await self._bus.dead_letter(NAME, received, reason)
                else:
                    queue.waiting.append(received)
                    if not queue.busy:
                        queue.busy = True
                        group.create_task(self._drain(queue))
                    continue
                await received.ack()
                self._slots.release()

    async def _find_start(self, intake: Intake) -> int:
        """The sequence after which a new consumer begins: all its domains have dealt with the samples up to there."""
        positions = []
        for name in list(intake.domains):
            seq = (await BusDecisionLog(self._bus, name, intake.consumer).find_position()).sample_seq
            if seq or await BusSampleLog(self._bus, name).get_next(0) is not None:
                positions.append(seq)
        if intake.domains:
            return min(positions, default=0)
        stream = await self._bus.stream_info(Sample)
        return 0 if stream is None else stream.last

    async def _drain(self, queue: DomainQueue) -> None:
        """Answer a domain's samples one after the other until none waits."""
        while queue.waiting:
            received = queue.waiting.popleft()
            back_off = BackOff()
            while True:
                try:
                    await queue.worker.answer_up_to(received)
                    break
                except (ApiError, Denied) as error:
                    # The bus answers with an error: it would be the same for the next sample.
                    _log.error("cannot decide", domain=queue.name, error=str(error))
                    self._health.set_failed("samples", f"{queue.name}: {error}")
                    await back_off.wait()
                except Exception as error:  # noqa: BLE001 - whatever one sample raises, the next is answered
                    await self._bus.dead_letter(NAME, received, f"{type(error).__name__}: {error}")
                    break
            failpoints.point("decision.answered")
            await received.ack()
            failpoints.point("decision.acknowledged")
            self._slots.release()
            queue.answered_at = time.monotonic()
            metrics.lag.observe(max(time.time() - received.message.end / 1e9, 0.0))
        queue.busy = False

    async def _watch(self) -> None:
        """Show on /readyz which domains get no samples or no data; forget those whose samples go elsewhere."""
        while True:
            now = time.monotonic()
            problems = []
            for intake in self._intakes.all:
                if not intake.is_mine(now, self._silent_s):
                    for name in [one for one in intake.domains if self._is_gone(one, now)]:
                        self._forget(name)
                    continue
                problems += [why for name in intake.domains if (why := self._why_unwell(name, intake, now))]
            if self._intakes.are_shared and not problems:
                problems = await self._find_silence(now)
            more = [f"and {len(problems) - _MAX_NAMED} more"] if len(problems) > _MAX_NAMED else []
            self._health.set_condition("samples", "; ".join([*problems[:_MAX_NAMED], *more]) or None)
            await asyncio.sleep(1)

    def _is_gone(self, domain: str, now: float) -> bool:
        queue = self._queues.get(domain)
        return queue is not None and not queue.busy and now - queue.answered_at > max(_GONE_S, self._silent_s)

    def _why_unwell(self, domain: str, intake: Intake, now: float) -> str | None:
        """What is wrong with a domain's samples; None: nothing."""
        queue = self._queues.get(domain)
        silent = now - max(intake.taken_at if intake.share is not None else 0, queue.answered_at if queue else 0)
        if silent > self._silent_s:
            return f"{domain}: no sample for {silent:.0f} s"
        if queue is None or queue.worker.last is None:
            return None if intake.share is not None else f"{domain}: no sample yet"
        last = queue.worker.last
        return f"{domain}: {last.reason}" if last.stress is None else None

    async def _find_silence(self, now: float) -> list[str]:
        """Why nobody can get samples, where none comes to this replica either."""
        try:
            stream = await self._bus.stream_info(Sample)
        except (ApiError, Denied) as error:
            return [f"the stream of samples cannot be looked up: {error}"]
        newest = 0 if stream is None else stream.last
        if newest != self._newest[0]:
            self._newest = newest, now
        silent = now - self._newest[1]
        return [f"no sample of any domain for {silent:.0f} s"] if silent > self._silent_s else []


@service_command(NAME, "samples")
async def command(config: Config, bus: Bus, health: Health) -> None:
    """Decide: answer each sample with limits."""
    service = DecisionService(config, bus, health)
    gauges = metrics.LastDecisions(service.last)
    REGISTRY.register(gauges)
    try:
        await service.run()
    finally:
        REGISTRY.unregister(gauges)
