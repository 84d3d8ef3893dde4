"""The source that queries a Prometheus.

Every figure is one query for all workloads, evaluated at the window's end.  Each query has a connection and
a thread of its own, so that all are sent together.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf, isfinite, nan

import structlog
from msgspec.structs import replace

from schemas.config import Signal
from services.sampler.http_client import RequestFailed, show_url
from services.sampler.prometheus.counter_doubts import explain_fall, explain_jump, explain_uncounted, is_many
from services.sampler.prometheus.queries import build_queries
from services.sampler.prometheus.query import Query, Vector
from services.sampler.source import LatencyStats, Measurements, NoData, Source
from services.sampler.workloads import Workloads

_log = structlog.get_logger()

_LAYOUT_S = 60.0
"""How often bucket bounds are requested; they hardly ever change."""
_STALE_INTERVALS = 2.5
"""Scrape intervals without a scrape after which a series is stale."""
_HELD_BACK_S = 5.0
"""A backend that never shows anything newer holds it back."""
_HINT_S = 20.0
_MOST_COUNTED = 4096
"""Windows whose observations are remembered; of more, they are asked for again."""
_SLOW_INTERVAL_S = 5.0
_AHEAD_S = 1.0
"""No scrape is later than the time that was asked about, but for rounding."""
_SINGLE = ("jitter", "p95", "scraped")
"""Figures of which a workload has one series; sums of them say nothing."""


class PrometheusSource(Source):
    """Measures by PromQL."""

    def __init__(self, signal: Signal, workloads: Workloads) -> None:
        """Prepare one query per figure.

        Raises:
            ValueError: a query text has an unknown placeholder.
        """
        self._signal = signal
        self._workloads = workloads
        texts = build_queries(signal, workloads)
        self._queries: dict[str, Query] = {
            figure: Query(figure, text, signal, workloads) for figure, text in texts.items()
        }
        self._bounds: dict[str, tuple[float, ...]] = {}
        self._layout_due = 0.0
        self._offset = signal.prometheus.latency_offset or 0
        self._throughput_failed = False
        self._counted: dict[int, dict[str, float]] = {}
        """Observations by the end of their window and by workload."""
        self._ages: dict[str, deque[tuple[int, float]]] = {}

    def define(self, workloads: Workloads) -> None:
        """Ask for these workloads from the next window on."""
        texts = build_queries(self._signal, workloads)
        self._workloads = workloads
        for figure, query in self._queries.items():
            query.define(texts[figure], workloads)  # type: ignore[index]
        self._layout_due = 0.0
        self._counted.clear()

    @classmethod
    def addresses(cls, signal: Signal) -> tuple[str, ...]:
        """The one server."""
        return (signal.prometheus.url,)

    @classmethod
    def with_addresses(cls, signal: Signal, urls: Iterable[str]) -> Signal:
        """Query another server."""
        (url,) = urls
        return replace(signal, prometheus=replace(signal.prometheus, url=url))

    @classmethod
    def prerequisites(cls, signal: Signal) -> dict[str, str]:
        """The server is the cluster's, not Sluice's."""
        return {"signal.prometheus.url": signal.prometheus.url}

    @classmethod
    def delay(cls, signal: Signal) -> float:
        """The newest scrape is up to one interval old, and held back by as much as the settings say."""
        return signal.prometheus.scrape_interval.seconds + (signal.prometheus.latency_offset or 0) / 1e9

    @classmethod
    def warnings(cls, signal: Signal) -> Iterator[tuple[str, str]]:
        """Rare scrapes; figures without a metric may have a query of their own."""
        offset = signal.prometheus.latency_offset
        if offset is not None and offset.seconds > _SLOW_INTERVAL_S:
            text = f"at {offset} a violation can go unseen for {cls.lag(signal).appears:.1f} s: lower it at the server"
            yield "signal.prometheus.latency_offset", text
        elif cls.delay(signal) > _SLOW_INTERVAL_S:
            text = (
                f"at {signal.prometheus.scrape_interval} a violation can go unseen for {cls.lag(signal).appears:.1f} "
                "s: scrape the exporter every second, or let the sampler do it (signal.source: scrape)"
            )
            yield "signal.prometheus.scrape_interval", text
        for key, text in super().warnings(signal):
            if key.removeprefix("signal.") not in signal.prometheus.queries:
                yield key, text

    async def measure(self, end: int) -> Measurements:
        """Query the window that ends at ``end``, UTC ns, less the server's latency offset.

        Raises:
            NoData: a figure other than throughput failed; without the loss, say, the rest cannot be trusted.
        """
        figures = [figure for figure in self._queries if figure != "buckets" or time.monotonic() >= self._layout_due]
        answers = await asyncio.gather(
            *(self._queries[figure].evaluate(end - self._offset) for figure in figures), return_exceptions=True
        )
        vectors: dict[str, Vector] = {}
        for figure, answer in zip(figures, answers, strict=True):
            if isinstance(answer, RequestFailed):
                if figure != "throughput":
                    raise NoData(f"{show_url(self._signal.prometheus.url)}: {figure}: {answer}")
                if not self._throughput_failed:
                    _log.warning("throughput is not measured", reason=str(answer))
                self._throughput_failed = True
            elif isinstance(answer, BaseException):
                raise answer
            else:
                vectors[figure] = answer
        if self._throughput_failed and "throughput" in vectors:
            self._throughput_failed = False
            _log.info("throughput is measured again")
        if "buckets" in vectors:
            self._bounds = collect_bounds(vectors["buckets"], self._workloads)
            self._layout_due = time.monotonic() + _LAYOUT_S
        return self._build(end, vectors, await self._find_usual(end, vectors["observations"]))

    async def _find_usual(self, end: int, observations: Vector) -> dict[str, float]:
        """The fewer observations of the two windows before, by workload; asks for them where they matter.

        Raises:
            NoData: the server does not answer.
        """
        window, find = self._signal.window, self._workloads.find_critical_part
        counted = self._counted[end] = sum_by_workload(observations, find)
        for old in [one for one in self._counted if not end - 2 * window <= one <= end]:
            del self._counted[old]
        if len(self._counted) > _MOST_COUNTED:
            del self._counted[end]
        if not any(is_many(count) for count in counted.values()):
            return {}
        before = []
        for at in (end - window, end - 2 * window):
            if at not in self._counted:
                try:
                    vector = await self._queries["observations"].evaluate(at - self._offset)
                except RequestFailed as error:
                    raise NoData(f"{show_url(self._signal.prometheus.url)}: observations: {error}") from error
                self._counted[at] = sum_by_workload(vector, find)
            before.append(self._counted[at])
        return take_fewer(*before)

    async def measure_past(self, ends: range) -> dict[int, Measurements]:
        """Query windows of the past by their ends, UTC ns; the bucket layout is that of the last end.

        Raises:
            NoData: a figure failed.
        """
        figures = [figure for figure in self._queries if figure != "buckets"]
        shown = range(ends.start - self._offset, ends.stop - self._offset, ends.step)
        try:
            answers = await asyncio.gather(*(self._queries[figure].evaluate_range(shown) for figure in figures))
            window = self._signal.window
            earlier = range(shown.start - 2 * window, shown.stop - window, shown.step)
            history = await self._queries["observations"].evaluate_range(earlier)
            if "buckets" in self._queries:
                self._bounds = collect_bounds(await self._queries["buckets"].evaluate(shown[-1]), self._workloads)
        except RequestFailed as error:
            raise NoData(str(error)) from error
        by_figure = dict(zip(figures, answers, strict=True))
        counted = {at: sum_by_workload(vector, self._workloads.find_critical_part) for at, vector in history.items()}
        measured = {}
        for end in ends:
            at = end - self._offset
            usual = take_fewer(counted[at - window], counted[at - 2 * window])
            measured[end] = self._build(end, {figure: by_figure[figure][at] for figure in figures}, usual)
        return measured

    def _build(self, end: int, vectors: Mapping[str, Vector], usual: Mapping[str, float]) -> Measurements:
        workloads = self._workloads
        sums = {figure: sum_by_workload(vector, workloads.find_critical_part) for figure, vector in vectors.items()}
        twice = {key: figure for figure in _SINGLE for key in find_repeated(vectors.get(figure, []), workloads)}
        latency = {}
        for key in workloads.measured_critical:
            figures = {figure: values[key] for figure, values in sums.items() if key in values}
            observations, lost = figures.get("observations", 0.0), figures.get("lost")
            doubt = explain_fall(figures.get("resets", 0.0), figures.get("returns", 0.0))
            doubt = doubt or explain_jump(observations, usual.get(key, 0.0))
            missing = self._explain_missing(key, end, figures) or doubt
            if missing is None and min(figures["jitter"], figures["p95"]) < 0:
                missing = "a latency below zero"
            if missing is None and key in twice:
                missing = f"several series of it in one answer ({twice[key]}): two servers' answers put together?"
            if doubt is not None:
                lost = None  # whoever counted it
            latency[key] = LatencyStats(
                jitter=None if missing else figures["jitter"] * workloads.names.unit,
                p95=None if missing else figures["p95"] * workloads.names.unit,
                observations=round(observations) if isfinite(observations) else 0,
                lost=lost if lost is not None and 0 <= lost < inf else None,
                bounds=self._bounds.get(key),
                missing=missing,
            )
        sent = drop_second_counts(vectors.get("throughput", []))
        rates = sum_by_workload(sent, workloads.find_sender_part)
        throughput = {key: round(rate * 8 / 1000) for key, rate in rates.items() if 0 <= rate < inf}
        pods: dict[str, set[str]] = {}
        for labels, _ in sent:
            sender = workloads.find_sender_part(labels)
            if sender in throughput and "pod" in labels:
                pods.setdefault(sender, set()).add(labels["pod"])
        return Measurements(
            start=end - self._signal.window,
            latency=latency,
            throughput=throughput,
            pods={key: len(names) for key, names in pods.items()},
        )

    def _explain_missing(self, key: str, end: int, figures: Mapping[str, float]) -> str | None:
        """Why the figures of one workload cannot be used; None when they can."""
        if "scraped" in self._queries:
            scraped = figures.get("scraped")
            if scraped is None:
                return "not measured: no series for it is being scraped"
            stale = self._explain_age(key, end, (end - self._offset) / 1e9 - scraped)
            if stale is not None:
                return stale
        observations = figures.get("observations")
        if observations is None:
            return "no rate: scraped less than twice within the window"
        if not 0 < observations < inf:
            return "no observations in the window"
        if not all(isfinite(figures.get(figure, inf)) for figure in ("jitter", "p95")):
            return f"{observations:.0f} observations but no quantile: buckets, or the +Inf bucket, are missing"
        return explain_uncounted(observations, figures.get("appeared", 0.0))

    def _explain_age(self, key: str, end: int, age: float) -> str | None:
        """Why the newest scrape of a workload, ``age`` seconds old, is too old; None where it is not.

        Its exporter may have died: then the range still holds rates from before.  Or the backend holds back what is
        new, and with rare scrapes its age comes and goes: so the least of some intervals counts.
        """
        interval, period = self._signal.prometheus.scrape_interval.seconds, self._signal.period.seconds
        if not isfinite(age):
            return f"not measured: its last scrape was {age} s ago"
        if age < -_AHEAD_S:
            return (
                f"its last scrape is {-age:.1f} s later than the time that was asked about: an answer of another time"
            )
        ages = self._ages.setdefault(key, deque())
        if ages and end <= ages[-1][0]:
            ages.clear()
        ages.append((end, age))
        while ages[0][0] < end - _STALE_INTERVALS * interval * 1e9 - self._signal.period:
            ages.popleft()
        known = end - ages[0][0] >= interval * 1e9
        least = min(one for _, one in ages) if known else age - interval
        if age <= _STALE_INTERVALS * interval and least <= period + _HELD_BACK_S:
            return None
        hint = (
            "; VictoriaMetrics holds back the newest 30 s: set its -search.latencyOffset to the scrape interval, "
            "or signal.prometheus.latency_offset to what it holds back"
        )
        hint = hint if age > _HINT_S else ""
        return f"stale: last scraped {age:.1f} s before the window's end, with an interval of {interval:g} s{hint}"

    def close(self) -> None:
        """Release connections and threads."""
        for query in self._queries.values():
            query.close()


def take_fewer(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """The smaller value by workload, where both are known."""
    return {key: min(value, other[key]) for key, value in one.items() if key in other}


def sum_by_workload(vector: Vector, find: Callable[[Mapping[str, str]], str | None]) -> dict[str, float]:
    """The values by workload; several series of one workload are added up."""
    values: dict[str, float] = {}
    for labels, value in vector:
        key = find(labels)
        if key is not None:
            values[key] = values.get(key, 0.0) + value
    return values


def drop_second_counts(sent: Vector) -> Vector:
    """Throughput without the kubelet's count of Pods that a meter counts, too.

    The meter's series name the workload, the kubelet's the Pod alone.
    """
    named = {(labels.get("namespace"), labels["pod"]) for labels, _ in sent if "workload" in labels and "pod" in labels}
    return [
        (labels, rate)
        for labels, rate in sent
        if "workload" in labels or (labels.get("namespace"), labels.get("pod")) not in named
    ]


def find_repeated(vector: Vector, workloads: Workloads) -> set[str]:
    """Critical workloads with more than one series in an answer."""
    count = Counter(workloads.find_critical_part(labels) for labels, _ in vector)
    return {key for key, number in count.items() if key is not None and number > 1}


def collect_bounds(vector: Vector, workloads: Workloads) -> dict[str, tuple[float, ...]]:
    """Finite bucket bounds by workload."""
    bounds: dict[str, set[float]] = {}
    for labels, _ in vector:
        key = workloads.find_critical_part(labels)
        if key is not None:
            try:
                bound = float(labels.get("le", "")) * workloads.names.unit
            except ValueError:
                bound = nan
            bounds.setdefault(key, set()).add(bound)
    return {key: tuple(sorted(bound for bound in values if isfinite(bound))) for key, values in bounds.items()}
