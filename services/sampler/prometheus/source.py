"""The source that asks a Prometheus; the one module that imports prometheus_api_client.

Every figure is one query for all workloads, evaluated at the window's end.  Each has a connection
and a thread of its own, so that they go out together and none holds up the event loop.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import inf, isfinite, nan
from typing import Any

import requests
import structlog
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from urllib3.util.retry import Retry

from schemas.config import Figure, Signal
from services.sampler.connection_errors import in_words
from services.sampler.prometheus.queries import queries_of
from services.sampler.source import Latencies, Measurements, NoData, pods_of
from services.sampler.worker_thread import Busy, Lane
from services.sampler.workloads import Workloads

_log = structlog.get_logger()

_NO_RETRIES = Retry(total=0, redirect=0, raise_on_status=False)
_LAYOUT_S = 60.0
"""How often bucket bounds, which hardly ever change, are asked for."""
_LATE = 2.5
"""Scrape intervals without a scrape after which a series is stale."""

Vector = list[tuple[dict[str, str], float]]
"""An instant vector: the labels and the value of each series."""


class QueryFailed(Exception):
    """Prometheus gave no answer that can be used; the text says why."""


class Query:
    """One query text, asked again and again."""

    def __init__(self, figure: Figure, text: str, signal: Signal) -> None:
        """Prepare to ask for ``figure`` by ``text``."""
        self.figure, self.text = figure, text
        self._timeout = signal.timeout.seconds
        settings = signal.prometheus
        self._client = PrometheusConnect(
            url=settings.url.rstrip("/"), headers=dict(settings.headers), retry=_NO_RETRIES, timeout=self._timeout
        )
        self._lane = Lane(f"query {figure}")

    async def ask(self, end: int) -> Vector:
        """Evaluate the query at ``end``, UTC ns.

        Raises:
            QueryFailed: no answer, an error, or one that is not an instant vector.
        """
        return _vector(self.figure, await self._answer(self._client.custom_query, params={"time": _seconds(end)}))

    async def ask_range(self, ends: range) -> dict[int, Vector]:
        """Evaluate the query at every one of ``ends``, UTC ns; by end.

        Raises:
            QueryFailed: no answer, an error, or one that is not a range vector.
        """
        # The client rounds its own start and end to seconds.
        exact = {"start": _seconds(ends[0]), "end": _seconds(ends[-1])}
        now, step = datetime.now(UTC), f"{ends.step / 1e9:.3f}"
        answer = await self._answer(self._client.custom_query_range, now, now, step, params=exact)
        return _matrix(self.figure, answer, ends)

    async def _answer(self, ask: Callable[..., Any], *args: Any, **params: Any) -> Any:
        try:
            return await self._lane.run(lambda: self._ask(ask, *args, **params), self._timeout)
        except TimeoutError:
            raise QueryFailed(f"{self.figure}: no answer within {self._timeout:g} s") from None
        except Busy as error:
            raise QueryFailed(f"{self.figure}: {error}") from None

    def _ask(self, ask: Callable[..., Any], *args: Any, **params: Any) -> Any:
        try:
            return ask(self.text, *args, **params)
        except PrometheusApiClientException as error:
            raise QueryFailed(f"{self.figure}: {str(error)[:300]}") from error
        except (requests.JSONDecodeError, KeyError, TypeError) as error:
            raise QueryFailed(f"{self.figure}: the answer is not Prometheus's ({type(error).__name__})") from error
        except (requests.RequestException, OSError) as error:
            raise QueryFailed(f"{self.figure}: {in_words(error)}") from error

    def close(self) -> None:
        """Give the connection and the thread back."""
        self._lane.close()
        self._client.close()


def _labels(series: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in series["metric"].items()}


def _vector(figure: Figure, answer: Any) -> Vector:
    """Check the shape.

    Raises:
        QueryFailed: it is not an instant vector.
    """
    try:
        return [(_labels(series), float(series["value"][1])) for series in answer]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise QueryFailed(f"{figure}: the answer is no instant vector ({type(error).__name__})") from None


def _matrix(figure: Figure, answer: Any, ends: range) -> dict[int, Vector]:
    """Turn a range vector into an instant vector for each end.

    Raises:
        QueryFailed: it is not a range vector.
    """
    vectors: dict[int, Vector] = {end: [] for end in ends}
    try:
        for series in answer:
            labels = _labels(series)
            for at, value in series["values"]:
                # A float of seconds is exact to well below a millisecond.
                vectors[round(float(at) * 1000) * 1_000_000].append((labels, float(value)))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise QueryFailed(f"{figure}: the answer is no range vector ({type(error).__name__})") from None
    return vectors


def _seconds(ns: int) -> str:
    """As Prometheus takes a time, which it keeps in milliseconds."""
    return f"{ns // 10**9}.{ns % 10**9 // 10**6:03d}"


class PrometheusSource:
    """Measures by PromQL."""

    def __init__(self, signal: Signal, workloads: Workloads) -> None:
        """Prepare one query per figure.

        Raises:
            ValueError: a query text has an unknown placeholder.
        """
        self._signal = signal
        self._workloads = workloads
        self._queries = {figure: Query(figure, text, signal) for figure, text in queries_of(signal, workloads).items()}
        self._bounds: dict[str, tuple[float, ...]] = {}
        self._layout_due = 0.0
        self._throughput_trouble: str | None = None

    async def measure(self, end: int) -> Measurements:
        """Ask for the window that ends at ``end``, UTC ns.

        Raises:
            NoData: one of the figures could not be had; without loss, say, nobody can vouch for the rest.
        """
        asked = [figure for figure in self._queries if figure != "buckets" or time.monotonic() >= self._layout_due]
        answers = await asyncio.gather(*(self._queries[figure].ask(end) for figure in asked), return_exceptions=True)
        vectors: dict[str, Vector] = {}
        for figure, answer in zip(asked, answers, strict=True):
            if isinstance(answer, QueryFailed):
                if figure != "throughput":
                    raise NoData(f"{self._signal.prometheus.url}: {answer}")
                self._log_throughput(str(answer))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                vectors[figure] = answer
        if "throughput" in vectors:
            self._log_throughput(None)
        if "buckets" in vectors:
            self._bounds = _layout(vectors["buckets"], self._workloads)
            self._layout_due = time.monotonic() + _LAYOUT_S
        return self._measured(end, vectors)

    def _log_throughput(self, trouble: str | None) -> None:
        """Policies can do without throughput, so it costs no sample; but it is said, once each way."""
        if (trouble is None) == (self._throughput_trouble is None):
            return
        self._throughput_trouble = trouble
        if trouble is None:
            _log.info("throughput is measured again")
        else:
            _log.warning("throughput is not measured", reason=trouble)

    async def history(self, ends: range) -> dict[int, Measurements]:
        """Measure windows of the past, by their ends, UTC ns; the bucket layout is that of the last end.

        Raises:
            QueryFailed: one of the figures could not be had.
        """
        figures = [figure for figure in self._queries if figure != "buckets"]
        answers = await asyncio.gather(*(self._queries[figure].ask_range(ends) for figure in figures))
        if "buckets" in self._queries:
            self._bounds = _layout(await self._queries["buckets"].ask(ends[-1]), self._workloads)
        by_figure = dict(zip(figures, answers, strict=True))
        return {end: self._measured(end, {figure: by_figure[figure][end] for figure in figures}) for end in ends}

    def _measured(self, end: int, vectors: Mapping[str, Vector]) -> Measurements:
        rates = self._sent(vectors)
        senders = [(self._workloads.sender_of(labels) or "", labels) for labels, _ in vectors.get("throughput", [])]
        return Measurements(
            end - self._signal.window, self._latencies(end, vectors), rates, pods=pods_of(senders, rates)
        )

    def _latencies(self, end: int, vectors: Mapping[str, Vector]) -> dict[str, Latencies]:
        by_key = {figure: _keyed(vectors.get(figure, []), self._workloads.critical_of) for figure in vectors}
        measured = {}
        for key in self._workloads.critical:
            figures = {figure: values[key] for figure, values in by_key.items() if key in values}
            missing = self._stale(end, figures) or _unmeasured(figures)
            measured[key] = Latencies(
                jitter=None if missing else figures["jitter"],
                p95=None if missing else figures["p95"],
                observations=round(_finite(figures.get("observations")) or 0),
                lost=_finite(figures.get("lost")),
                bounds=self._bounds.get(key),
                missing=missing,
            )
        return measured

    def _stale(self, end: int, figures: Mapping[str, float]) -> str | None:
        """Why a workload's series may be of another time, when its exporter still lived; None when they are not."""
        if "scraped" not in self._queries:
            return None
        scraped = figures.get("scraped")
        if scraped is None:
            return "not measured: no series for it is being scraped"
        late, interval = end / 1e9 - scraped, self._signal.prometheus.scrape_interval.seconds
        if late > _LATE * interval:
            return f"stale: last scraped {late:.1f} s before the window's end, with an interval of {interval:g} s"
        return None

    def _sent(self, vectors: Mapping[str, Vector]) -> dict[str, int]:
        rates = _keyed(vectors.get("throughput", []), self._workloads.sender_of)
        return {key: round(rate * 8 / 1000) for key, rate in rates.items() if isfinite(rate)}

    def close(self) -> None:
        """Give connections and threads back."""
        for query in self._queries.values():
            query.close()


def _keyed(vector: Vector, key_of: Callable[[Mapping[str, str]], str | None]) -> dict[str, float]:
    """The values by workload; where several series speak of one, they are added up."""
    values: dict[str, float] = {}
    for labels, value in vector:
        key = key_of(labels)
        if key is not None:
            values[key] = values.get(key, 0.0) + value
    return values


def _unmeasured(figures: Mapping[str, float]) -> str | None:
    """Why the figures of one workload say nothing; None when they do."""
    observations = figures.get("observations")
    if observations is None:
        return "no rate: scraped less than twice within the window"
    if not observations > 0:
        return "no observations in the window"
    if not all(isfinite(figures.get(figure, inf)) for figure in ("jitter", "p95")):
        return f"{observations:.0f} observations but no quantile: buckets, or the +Inf bucket, are missing"
    return None


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _layout(vector: Vector, workloads: Workloads) -> dict[str, tuple[float, ...]]:
    """Finite bucket bounds by workload."""
    bounds: dict[str, set[float]] = {}
    for labels, _ in vector:
        key = workloads.critical_of(labels)
        if key is not None:
            bounds.setdefault(key, set()).add(_bound(labels.get("le", "")))
    return {key: tuple(sorted(bound for bound in values if isfinite(bound))) for key, values in bounds.items()}


def _bound(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return nan
