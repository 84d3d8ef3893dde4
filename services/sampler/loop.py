"""The sampler's loop: wait for the end of a window, measure it, say what was found."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from schemas.config import Config
from schemas.domain import Domain
from schemas.messages import Sample
from services.common import failpoints
from services.runtime.health import Health
from services.sampler import metrics
from services.sampler.pace import next_end, skipped
from services.sampler.sample_builder import blind, empty_sample, sample_of, tells
from services.sampler.source import NoData, Source

_log = structlog.get_logger()


def condition(domain: str) -> str:
    """The health condition that speaks of a domain."""
    return f"domain {domain}"


class Clock(Protocol):
    """What the sampler needs of time."""

    def now(self) -> int:
        """UTC ns; may jump either way."""

    async def sleep(self, duration: int) -> None:
        """Wait for that many ns."""


class WallClock:
    """The machine's clock."""

    def now(self) -> int:
        """UTC ns."""
        return time.time_ns()

    async def sleep(self, duration: int) -> None:
        """Wait for that many ns."""
        await asyncio.sleep(duration / 1e9)


class Sampler:
    """Measures every window once, and hands one sample per domain to ``put``."""

    def __init__(
        self,
        config: Config,
        source: Source,
        put: Callable[[Sample], None],
        health: Health,
        clock: Clock,
    ) -> None:
        """Prepare the loop.

        Args:
            config: domains and signal.
            source: what measures.
            put: takes each sample, and never blocks.
            health: is told of the conditions ``clock``, ``source`` and one per domain.
            clock: the time.
        """
        for domain in config.domains:
            health.set_failed(condition(domain.name), "not yet")
            for outcome in ("data", "blind"):
                metrics.samples.labels(domain.name, outcome)
        self._domains = config.domains
        self._signal = config.signal
        self._source = source
        self._put = put
        self._health = health
        self._clock = clock
        self._last = 0
        self._wrong: dict[str, bool] = {}

    async def run(self) -> None:
        """Sample for ever.

        What the first window says is dropped: a source that has just begun may know less about it
        than another sampler does, and the bus keeps whichever comes first.
        """
        self._last = await self._window()
        await self._sampled(self._last)
        while True:
            end = await self._window()
            left_out = skipped(self._last, end, self._signal.period)
            if left_out:
                metrics.skipped.inc(left_out)
                _log.warning("windows left out", windows=left_out)
            self._last = end
            await self._offer(await self._sampled(end), end)

    async def _offer(self, samples: list[Sample], end: int) -> None:
        """Hand samples over; those that tell nothing once half of the period is over.

        The bus keeps the first sample of a window, and to fail is quicker than to measure: otherwise the
        blind one of two samplers would speak for both.
        """
        empty = []
        for domain, sample in zip(self._domains, samples, strict=True):
            if tells(domain, sample):
                self._put(sample)
            else:
                empty.append(sample)
        if empty:
            half = self._signal.period // 2
            await self._clock.sleep(min(max(end + half - self._clock.now(), 0), half))
        for sample in empty:
            self._put(sample)

    async def _window(self) -> int:
        """Wait for the end of the next window; gives it."""
        period = self._signal.period
        while True:
            end = next_end(self._clock.now(), self._last, period)
            while (left := end - self._clock.now()) > 0:
                self._look_at_clock(left - period)
                await self._clock.sleep(min(left, period))
            if -left <= period // 2:  # later, the measurement would belong to the next window
                return end

    def _look_at_clock(self, behind: int) -> None:
        if behind > self._signal.period:
            self._tell("clock", f"set back: {behind / 1e9:.1f} s behind the last window")
        else:
            self._tell("clock", None)

    async def _sampled(self, end: int) -> list[Sample]:
        signal = self._signal
        try:
            with metrics.measuring.time():
                measured = await self._source.measure(end)
        except NoData as reason:
            self._tell("source", str(reason))
            samples = [
                empty_sample(domain, end - signal.window, end, signal.period, signal.source, str(reason))
                for domain in self._domains
            ]
        else:
            self._tell("source", None)
            samples = [sample_of(domain, end, signal.period, signal.source, measured) for domain in self._domains]
        failpoints.point("sampler.measured")
        for domain, sample in zip(self._domains, samples, strict=True):
            self._report(domain, sample)
        return samples

    def _report(self, domain: Domain, sample: Sample) -> None:
        reason = blind(domain, sample)
        metrics.samples.labels(domain.name, "data" if reason is None else "blind").inc()
        found = {measure.workload: measure for measure in sample.critical}
        for critical in domain.critical:
            measure = found.get(critical.key)
            metrics.observations.labels(critical.key).set(measure.observations if measure else 0)
            for figure in ("jitter", "p95"):
                value = getattr(measure, figure, None)
                metrics.latency.labels(critical.key, figure).set(float("nan") if value is None else value)
        self._tell(condition(domain.name), reason)

    def _tell(self, what: str, reason: str | None) -> None:
        """Show a condition; log it when it changes, for a reason may hold a number that changes every time."""
        self._health.set_condition(what, reason)
        if self._wrong.get(what) != (reason is not None):
            self._wrong[what] = reason is not None
            if reason is None:
                _log.info("good", condition=what)
            else:
                _log.warning("not good", condition=what, reason=reason)
