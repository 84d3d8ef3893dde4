"""Publishes samples without holding up measuring.

Each domain's samples go out in order, and each is offered until the bus has acknowledged it.  While the bus
is away only the newest are kept, about one window of them, because control cannot use old ones.  Dropped
samples are counted.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

import structlog

from schemas.messages import Sample
from services.common import failpoints
from services.sampler import metrics

_log = structlog.get_logger()

Publish = Callable[[Sample], Awaitable[object]]
"""Publishes a sample; returns once the bus has acknowledged it, and retries without limit."""


class Outbox:
    """The samples that the bus has not acknowledged yet."""

    def __init__(self, domains: Iterable[str], publish: Publish, keep: int, timeout: float) -> None:
        """Prepare one queue per domain.

        Args:
            domains: names.
            publish: see above.
            keep: samples to hold per domain.
            timeout: seconds for which one sample is offered.
        """
        self._publish = publish
        self._timeout = timeout
        self._queues: dict[str, asyncio.Queue[Sample]] = {domain: asyncio.Queue(keep) for domain in domains}
        for domain in self._queues:
            metrics.dropped.labels(domain)

    def put(self, sample: Sample) -> None:
        """Queue a sample; never blocks.  A full queue drops its oldest."""
        queue = self._queues[sample.domain]
        if queue.full():
            queue.get_nowait()
            metrics.dropped.labels(sample.domain).inc()
        queue.put_nowait(sample)

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as group:
            for queue in self._queues.values():
                group.create_task(self._drain(queue))

    async def _drain(self, queue: asyncio.Queue[Sample]) -> None:
        while True:
            sample = await queue.get()
            failpoints.point("sampler.publishing")
            try:
                async with asyncio.timeout(self._timeout):
                    await self._publish(sample)
            except TimeoutError:
                metrics.dropped.labels(sample.domain).inc()
                _log.warning("sample not acknowledged in time", sample=sample.id, seconds=self._timeout)
                continue
            failpoints.point("sampler.acknowledged")
            metrics.acknowledged.labels(sample.domain).set(sample.end / 1e9)
            metrics.delay.observe(max(time.time() - sample.end / 1e9, 0.0))
