"""Samples on their way to the bus: publishing never holds up measuring.

Each domain's samples go out in order, each is offered until the bus has acknowledged it.  While the
bus is away only the newest are kept, about one window of them: an old sample is worth nothing to
control, and what is dropped is counted.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

import structlog

from schemas.messages import Sample
from services.common import failpoints
from services.sampler import metrics

_log = structlog.get_logger()

Publish = Callable[[Sample], Awaitable[object]]
"""Hands a sample to the bus; returns once the bus has it, and tries for ever."""


class Outbox:
    """The samples that the bus has not acknowledged yet."""

    def __init__(self, domains: Iterable[str], publish: Publish, keep: int, patience: float) -> None:
        """Prepare one queue per domain.

        Args:
            domains: names.
            publish: see above.
            keep: samples to hold per domain.
            patience: seconds for which one sample is offered.
        """
        self._publish = publish
        self._patience = patience
        self._waiting: dict[str, deque[Sample]] = {domain: deque(maxlen=keep) for domain in domains}
        for domain in self._waiting:
            metrics.dropped.labels(domain)
        self._more = {domain: asyncio.Event() for domain in self._waiting}

    def put(self, sample: Sample) -> None:
        """Take a sample; never blocks.  The oldest one gives way when there are too many."""
        waiting = self._waiting[sample.domain]
        if len(waiting) == waiting.maxlen:
            metrics.dropped.labels(sample.domain).inc()
        waiting.append(sample)
        self._more[sample.domain].set()

    async def run(self) -> None:
        """Publish whatever is put in, for ever."""
        async with asyncio.TaskGroup() as group:
            for domain in self._waiting:
                group.create_task(self._drain(domain))

    async def _drain(self, domain: str) -> None:
        waiting, more = self._waiting[domain], self._more[domain]
        while True:
            await more.wait()
            more.clear()
            while waiting:
                await self._offer(waiting.popleft())

    async def _offer(self, sample: Sample) -> None:
        failpoints.point("sampler.publishing")
        try:
            async with asyncio.timeout(self._patience):
                await self._publish(sample)
        except TimeoutError:
            metrics.dropped.labels(sample.domain).inc()
            _log.warning("sample not acknowledged in time", sample=sample.id, seconds=self._patience)
            return
        failpoints.point("sampler.acknowledged")
        metrics.acknowledged.labels(sample.domain).set(sample.end / 1e9)
        metrics.delay.observe(max(time.time() - sample.end / 1e9, 0.0))
