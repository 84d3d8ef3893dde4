"""One figure's query of a Prometheus; the one module that imports prometheus_api_client."""

import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from prometheus_api_client import PrometheusConnect

from schemas.config import Figure, Signal
from services.sampler.http_client import HttpWorker, RequestFailed
from services.sampler.prometheus.api_session import ApiSession, QueryTooLong
from services.sampler.prometheus.queries import QueryPart, split_query
from services.sampler.workloads import Workloads

Vector = list[tuple[dict[str, str], float]]
"""An instant vector: the labels and the value of each series."""


class Query:
    """The query of one figure, sent again and again; in parts where the server takes short ones only."""

    def __init__(self, figure: Figure, text: str, signal: Signal, workloads: Workloads) -> None:
        """Prepare the connection."""
        self._figure = figure
        self._signal = signal
        self._workloads = workloads
        self._parts = [QueryPart(text)]
        self._session = ApiSession(signal)
        self._client = PrometheusConnect(url=self._session.url, session=self._session)
        self._worker = HttpWorker(f"query {figure}", signal.timeout.seconds)

    def define(self, text: str, workloads: Workloads) -> None:
        """Send another text from now on, about these workloads."""
        self._workloads, self._parts = workloads, [QueryPart(text)]

    async def evaluate(self, end: int) -> Vector:
        """Evaluate the query at ``end``, UTC ns.

        Raises:
            RequestFailed: no answer, an error, an incomplete answer, or not an instant vector.
        """
        time_ = {"time": _format_seconds(end)}
        return parse_vector(await self._run(lambda text: self._client.custom_query(text, params=time_)))

    async def evaluate_range(self, ends: range) -> dict[int, Vector]:
        """Evaluate the query at each of ``ends``, UTC ns; the vectors by end.

        Raises:
            RequestFailed: no answer, an error, an incomplete answer, or not a range vector.
        """
        # The client rounds its own start and end to seconds.
        exact = {"start": _format_seconds(ends[0]), "end": _format_seconds(ends[-1])}
        now, step = datetime.now(UTC), f"{ends.step / 1e9:.3f}"
        answer = await self._run(lambda text: self._client.custom_query_range(text, now, now, step, params=exact))
        return parse_matrix(answer, ends)

    async def _run(self, request: Callable[[str], list[Any]]) -> list[Any]:
        try:
            return await self._worker.run(lambda: self.ask(request))
        except RequestFailed as error:
            raise RequestFailed(self._session.hide(str(error))) from error

    def ask(self, request: Callable[[str], list[Any]]) -> list[Any]:
        """The whole result, in the worker's thread.  A server that takes no long query is asked in parts from then on.

        Raises:
            RequestFailed: a request failed.
        """
        parts = self._parts
        while True:
            try:
                result = self._ask_parts(parts, request)
            except QueryTooLong as error:
                finer = split_query(self._figure, self._signal, self._workloads, self._session.fits)
                if len(finer) <= len(parts) or not all(self._session.fits(part.text) for part in finer):
                    self._session.no_post = ""
                    raise RequestFailed(f"{error}: give it fewer workloads, or allow POST") from error
                parts = finer
            except RequestFailed as error:
                if parts is self._parts:
                    raise
                self._session.no_post = ""
                raise RequestFailed(f"{error}; the query is too long for GET, and was sent in parts") from error
            else:
                self._parts = parts
                return result

    def _ask_parts(self, parts: Sequence[QueryPart], request: Callable[[str], list[Any]]) -> list[Any]:
        deadline = time.monotonic() + self._signal.timeout.seconds
        result: list[Any] = []
        for part in parts:
            if time.monotonic() > deadline:
                raise RequestFailed(f"no answer to {len(parts)} short queries within {self._signal.timeout}")
            self._session.keeps = partial(self.is_wanted, part.keys)
            result += request(part.text)
        return result

    def is_wanted(self, keys: Collection[str] | None, series: Any) -> bool:
        """Whether a series is of a configured workload, and of a part's own: matchers let others through."""
        try:
            labels = _parse_labels(series)
            if keys is None:
                parse_vector([series])
        except (RequestFailed, KeyError, TypeError, AttributeError):
            return True  # refused with the whole, or a part of a range
        if self._figure == "throughput":
            key = self._workloads.find_sender(labels)
            return key is not None and (keys is None or labels.get("namespace") in keys)
        key = self._workloads.find_critical(labels)
        return key is not None and (keys is None or key in keys)

    def close(self) -> None:
        """Release the connection and the thread."""
        self._worker.close()
        self._client.close()


def parse_vector(answer: Any) -> Vector:
    """Parse an instant vector.

    Raises:
        RequestFailed: it is not one.
    """
    try:
        return [(_parse_labels(series), _parse_number(series["value"][1])) for series in answer]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise RequestFailed("the answer is not an instant vector") from None


def parse_matrix(answer: Any, ends: range) -> dict[int, Vector]:
    """Parse a range vector into one instant vector for each end.

    Raises:
        RequestFailed: it is not one.
    """
    vectors: dict[int, Vector] = {end: [] for end in ends}
    try:
        for series in answer:
            labels = _parse_labels(series)
            for at, value in series["values"]:
                # A float of seconds is exact to well below a millisecond.
                vectors[round(float(at) * 1000) * 1_000_000].append((labels, _parse_number(value)))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise RequestFailed("the answer is not a range vector") from None
    return vectors


def _parse_labels(series: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in series["metric"].items()}


def _parse_number(value: Any) -> float:
    """A sample's value; Python reads more as a number than Prometheus writes.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or (isinstance(value, str) and not value.isascii()) or "_" in str(value):
        raise ValueError(value)
    return float(value)


def _format_seconds(ns: int) -> str:
    """Prometheus keeps times in milliseconds."""
    return f"{ns // 10**9}.{ns % 10**9 // 10**6:03d}"
