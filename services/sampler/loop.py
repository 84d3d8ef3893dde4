"""The sampler's loop: wait for the end of a window, measure it, build and publish one sample per domain.

Window ends are whole multiples of the period on UTC, so two samplers measure the same windows and give
their samples the same ids.  They never repeat, unless a clock that had leapt ahead is put right: the samples
from the future were refused, and waiting for the clock to get there would silence the sampler.

A sample leaves nothing out silently: a figure that is not known is None, with its reason.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable

import structlog

from schemas.config import Config, Signal
from schemas.domain import Domain, without_templates
from schemas.messages import CriticalMeasure, Sample, TargetMeasure
from services.common import failpoints
from services.common.histogram import explain_coarseness
from services.common.redaction import hide_passwords
from services.runtime.health import Health
from services.sampler import metrics
from services.sampler.source import LatencyStats, Measurements, NoData

_MOST_BEHIND = 10 * 10**9
"""A clock that was set back by more, ns, was wrong before: sampling starts over."""
WIDEST_BUCKET = 0.5
"""A histogram cannot judge an SLO that lies inside a bucket wider than this share of it."""
_LONGEST_S = 50.0
"""No histogram of network latency in seconds has a bound like that."""
Publish = Callable[[Sample], Awaitable[object]]
"""Publishes a sample; returns once the bus has acknowledged it, and retries without limit."""

_log = structlog.get_logger()


class Sampler:
    """Measures every window once, and passes one sample per domain to ``put``."""

    def __init__(
        self,
        config: Config,
        measure: Callable[[int], Awaitable[Measurements]],
        put: Callable[[Sample], None],
        health: Health,
        now: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        define_source: Callable[[tuple[Domain, ...]], None] = lambda _: None,
    ) -> None:
        """Prepare the loop.

        Args:
            config: domains and signal.
            measure: measures the window that ends at a time, UTC ns; raises NoData.
            put: takes each sample, and never blocks.
            health: has the conditions ``clock``, ``source`` and one per domain.
            now: the time, UTC ns; may jump either way.
            sleep: waits for that many seconds.
            define_source: tells the source whose workloads to measure from the next window on.
        """
        self.is_mine: Callable[[str], bool] = lambda _: True
        """Whether this sampler publishes samples of a domain, by its name; several share them by ``Shifts``."""
        self.without_critical = set[str]()
        """Domains that look where no critical Pod is: that they are blind is no fault."""
        self._domains: tuple[Domain, ...] = ()
        self._signal = config.signal
        self._measure = measure
        self._put = put
        self._health = health
        self._now = now
        self._sleep = sleep
        self._failed: dict[str, bool] = {}
        self._noted: set[str] = set()
        self._define_source = define_source
        self._defined: tuple[Domain, ...] | None = None
        """The domains from the next window on, where they are others."""
        self._take_up(without_templates(config.domains))

    def define(self, domains: tuple[Domain, ...]) -> None:
        """Sample these domains from the next window on; a window is never measured under two definitions."""
        self._defined = domains

    def _take_up(self, domains: tuple[Domain, ...]) -> None:
        before, names = self._domains, {domain.name for domain in domains}
        known = {domain.name for domain in before}
        self._domains = domains
        for domain in domains:
            if domain.name not in known:
                self._health.set_failed(f"domain {domain.name}", "not yet")
                for outcome in ("data", "blind"):
                    metrics.samples.labels(domain.name, outcome)
        for gone in before:
            if gone.name not in names:
                self._health.set_ok(f"domain {gone.name}")
                self._failed.pop(f"domain {gone.name}", None)
        critical = {domain.name_part(one.key) for domain in domains for one in domain.critical}
        known_critical = {domain.name_part(one.key) for domain in before for one in domain.critical}
        metrics.forget_workloads(known_critical - critical)

    async def run(self) -> None:
        """Sample until cancelled.

        The first window is not published: a source that has just started may know less about it than
        another sampler does, and the bus keeps whichever sample comes first.
        """
        period = self._signal.period
        last = await self._wait_for_window(0)
        await self._sample(last)
        settled = last
        while True:
            end = await self._wait_for_window(last)
            skipped = (end - last) // period - 1
            if end < last:
                _log.warning("clock set back: sampling starts over", seconds=(last - end) / 1e9)
                # A source keeps pages for a window and a quarter; until then it has some from the future.
                settled = end + 3 * self._signal.window // 2
            elif skipped:
                metrics.skipped.inc(skipped)
                _log.warning("windows skipped", windows=skipped)
            last = end
            results = await self._sample(end)
            if end < settled:
                continue
            uninformative = []
            for sample, informative in results:
                if informative:
                    self._put(sample)
                else:
                    uninformative.append(sample)
            # The bus keeps the first sample of a window, and failing is quicker than measuring: published at
            # once, a blind sampler's sample would displace that of one that sees.
            if uninformative:
                await self._sleep(min(max(end + period // 2 - self._now(), 0), period // 2) / 1e9)
            for sample in uninformative:
                self._put(sample)

    async def _wait_for_window(self, last: int) -> int:
        """Wait for the end of the next window after ``last``; return that end, UTC ns.

        Windows that a stall ran over are skipped.  A clock that was set back a little is waited for; one that
        was set back by much gives the end of its own next window.
        """
        period = self._signal.period
        while True:
            end = (max(self._now(), last) // period + 1) * period
            while (remaining := end - self._now()) > 0:
                behind = remaining - period
                if behind > _MOST_BEHIND:
                    last = 0
                    break
                reason = f"set back: {behind / 1e9:.1f} s behind the last window" if behind > period else None
                self._report("clock", reason)
                await self._sleep(min(remaining, period) / 1e9)
            if -period // 2 <= remaining <= 0:  # later, the measurement would belong to the next window
                return end

    async def _sample(self, end: int) -> list[tuple[Sample, bool]]:
        """Measure one window.

        Returns:
            Each domain's sample, and whether it is informative: control can act on it, or it reports a loss.
        """
        signal = self._signal
        if self._defined is not None:
            domains, self._defined = self._defined, None
            self._define_source(domains)
            self._take_up(domains)
        no_data, measured = None, None
        try:
            with metrics.measuring.time():
                measured = await self._measure(end)
        except NoData as error:
            no_data = hide_passwords(str(error))
        self._report("source", no_data)
        for about in {*self._noted, *(notes := measured.notes if measured else {})}:
            self._health.set_note(about, notes.get(about))
        self._noted = set(notes)
        failpoints.point("sampler.measured")
        results = []
        for domain in self._domains:
            if not self.is_mine(domain.name):
                self._report(f"domain {domain.name}", None)
                continue
            if measured is not None:
                sample = build_sample(domain, signal, end, measured)
            else:
                sample = Sample(
                    domain=domain.name,
                    start=end - signal.window,
                    end=end,
                    period=int(signal.period),
                    source=signal.source,
                    no_data=no_data,
                )
            blind = explain_blindness(domain, sample)
            outcome = "uncritical" if domain.name in self.without_critical else "blind"
            metrics.samples.labels(domain.name, "data" if blind is None else outcome).inc()
            measures = {measure.workload: measure for measure in sample.critical}
            for critical in domain.critical:
                measure = measures.get(critical.key)
                name = domain.name_part(critical.key) if domain.on else critical.key
                metrics.observations.labels(name).set(measure.observations if measure else 0)
                for figure in ("jitter", "p95"):
                    value = getattr(measure, figure, None)
                    metrics.latency.labels(name, figure).set(math.nan if value is None else value)
            self._report(f"domain {domain.name}", blind if outcome == "blind" else None)
            results.append((sample, blind is None or any(measure.lost for measure in sample.critical)))
        return results

    def _report(self, condition: str, reason: str | None) -> None:
        """Set a health condition; log only changes, because a reason may hold a number that always differs."""
        self._health.set_condition(condition, reason)
        if self._failed.get(condition) != (reason is not None):
            self._failed[condition] = reason is not None
            if reason is None:
                _log.info("condition recovered", condition=condition)
            else:
                _log.warning("condition failed", condition=condition, reason=reason)


def build_sample(domain: Domain, signal: Signal, end: int, measured: Measurements) -> Sample:
    """The sample of one domain.

    Args:
        domain: whose workloads to include.
        signal: what measured, and how often.
        end: end of the window, UTC ns.
        measured: all domains together.
    """
    why_unknown = {
        key: hide_passwords(why) for key, why in measured.throughput_missing.items() if key not in measured.throughput
    }
    name_of = domain.name_part if domain.on else str
    critical = []
    for one in domain.critical:
        name = name_of(one.key)
        stats = measured.latency.get(name, LatencyStats(missing="not measured"))
        missing = None if stats.missing is None else hide_passwords(stats.missing)
        if missing is None and stats.bounds is not None:
            for figure, slo in (("P95", one.p95), ("jitter", one.jitter)):
                coarse = explain_coarseness(stats.bounds, slo / 1e9, WIDEST_BUCKET)
                if coarse is not None:
                    missing = f"buckets too coarse for {figure}: {coarse}{_suggest_unit(stats.bounds, slo.seconds)}"
                    break
        measure = CriticalMeasure(
            workload=one.key,
            jitter=None if missing else stats.jitter,
            p95=None if missing else stats.p95,
            observations=stats.observations,
            lost=stats.lost,
            throughput=measured.throughput.get(name),
            recent=measured.recent.get(name),
            recent_p50=None if missing else measured.recent_p50.get(name),
            missing=missing,
            throughput_missing=why_unknown.get(name),
        )
        critical.append(measure)
    targets = tuple(
        TargetMeasure(
            target=target.key,
            throughput=measured.throughput.get(name),
            recent=measured.recent.get(name),
            pods=measured.pods.get(name),
            throughput_missing=why_unknown.get(name),
        )
        for target in domain.targets
        for name in (name_of(target.key),)
    )
    return Sample(
        domain=domain.name,
        start=measured.start,
        end=end,
        period=int(signal.period),
        source=signal.source,
        critical=tuple(critical),
        targets=targets,
    )


def _suggest_unit(bounds: tuple[float, ...], slo: float) -> str:
    """The unit in which the buckets would fit the SLO; empty where there is none."""
    if bounds[-1] < _LONGEST_S:
        return ""
    for unit, name, seconds in (
        ("ms", "milliseconds", 1e-3),
        ("us", "microseconds", 1e-6),
        ("ns", "nanoseconds", 1e-9),
    ):
        if explain_coarseness(tuple(bound * seconds for bound in bounds), slo, WIDEST_BUCKET) is None:
            return f"; they look like {name}: set signal.unit: {unit}"
    return ""


def explain_blindness(domain: Domain, sample: Sample) -> str | None:
    """Why control will not act on a sample; None when it will."""
    if sample.no_data is not None:
        return sample.no_data
    for measure in sample.critical:
        why = measure.why_unusable(domain.min_observations)
        if why is not None:
            return f"{measure.workload}: {why}"
    return None


class Outbox:
    """Publishes samples without holding up measuring.

    Each domain's samples go out in order, and each is offered until the bus has acknowledged it.  While the bus
    is away only the newest are kept, about one window of them, because control cannot use old ones.  Dropped
    samples are counted.
    """

    def __init__(self, domains: Iterable[str], publish: Publish, keep: int, timeout: float) -> None:
        """Prepare one queue per domain; a further domain gets one with its first sample.

        Args:
            domains: names.
            publish: see above.
            keep: samples to hold per domain.
            timeout: seconds for which one sample is offered.
        """
        self._publish = publish
        self._timeout = timeout
        self._keep = keep
        self._queues: dict[str, asyncio.Queue[Sample]] = {}
        self._draining: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        for domain in domains:
            self._open(domain)

    def _open(self, domain: str) -> asyncio.Queue[Sample]:
        metrics.dropped.labels(domain)
        queue = self._queues[domain] = asyncio.Queue(self._keep)
        if self._group is not None:
            self._draining[domain] = self._group.create_task(self._drain(queue))
        return queue

    def drop(self, domain: str) -> None:
        """Publish nothing more of a domain."""
        if self._queues.pop(domain, None) is not None and domain in self._draining:
            self._draining.pop(domain).cancel()

    def put(self, sample: Sample) -> None:
        """Queue a sample; never blocks.  A full queue drops its oldest."""
        queue = self._queues.get(sample.domain) or self._open(sample.domain)
        if queue.full():
            queue.get_nowait()
            metrics.dropped.labels(sample.domain).inc()
        queue.put_nowait(sample)

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            for domain, queue in self._queues.items():
                self._draining[domain] = self._group.create_task(self._drain(queue))
            # Domains may come while none is left.
            await asyncio.Event().wait()

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
