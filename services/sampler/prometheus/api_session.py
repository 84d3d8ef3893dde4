"""What an HTTP API of Prometheus's kind answers: errors in its own words, and never a part for the whole.

``prometheus_api_client`` sends its requests through a session like ``requests.Session``, and looks at the result
of a query alone.  This session looks at the rest first.
"""

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote_plus

from schemas.config import Signal
from services.sampler.http_client import Answer, HttpClient, RequestFailed

_LONGEST_TARGET = 4096
"""Bytes of a request's path and query string that most gateways take; nginx refuses more than 8 kB of request line."""
_SHORTEST_TARGET = 512
_TOO_LONG = (414, 431, 494)
"""Statuses of a request whose address is too long; the last one is nginx's."""
_NO_POST = (400, 403, 404, 405, 406, 411, 413, 415, 501)
"""Statuses of gateways that pass on GET alone."""
_RANGE = 64
"""How many times larger than an instant's the answer over a range may be."""
_SMALL = 128 * 1024
"""Bytes of an answer that are read at once; larger ones wait for each other, so that memory stays bounded."""
_BYTES_AN_ITEM = 64
"""Of JSON, at least: an answer with more items than that would take many times its size in memory."""
_large = threading.Lock()
_SHOWN = 300
_LIMITED = "M3-Results-Limited"
"""By this header M3 says that a limit cut its answer off, or that a remote store did not answer."""
_JSON = ("application/json", "text/plain", "application/octet-stream", "")
"""Content types that may hold JSON; some gateways name no better one."""


_TEXTS = ("error", "message", "Message")
"""Where an error's text may be; the last one is Amazon's."""


class QueryTooLong(RequestFailed):
    """The server does not take the query as it was sent: it may take it in parts."""


class ApiResponse:
    """A complete and successful answer, as ``prometheus_api_client`` wants it."""

    status_code = 200

    def __init__(self, result: list[Any]) -> None:
        """Hold the result of a query."""
        self._result = result

    def json(self) -> dict[str, Any]:
        """The answer's envelope."""
        return {"data": {"result": self._result}}


class ApiSession:
    """The session of one ``PrometheusConnect``."""

    verify: Any = None
    cert: Any = None
    keeps: Callable[[Any], bool] = staticmethod(lambda _: True)
    """Whether to keep a series of a result; others are dropped before the next answer is read."""
    no_post = ""
    """Why the server does not take long queries by POST; empty while it does."""

    def __init__(self, signal: Signal) -> None:
        """Prepare; nothing is requested yet."""
        settings = signal.prometheus
        headers = {"Accept": "application/json", **settings.headers}
        self._http = HttpClient(settings.url, signal.http, signal.timeout.seconds, headers)
        self._max_bytes = settings.max_bytes
        self._longest = _LONGEST_TARGET
        self.url = self._http.base.rstrip("/")

    def mount(self, prefix: str, adapter: object) -> None:
        """Ignore the client's own adapter: it follows redirects and tries again."""

    def fits(self, query: str) -> bool:
        """Whether a query is short enough for GET."""
        others = f"{self.url}/api/v1/query_range?start=1700000000.000&end=1700000000.000&step=1.000"
        return len(others) + len(quote_plus(query)) <= self._longest

    def request(self, method: str, url: str, params: Mapping[str, Any], **options: object) -> ApiResponse:
        """Send a query, by POST where it is long.

        Raises:
            QueryTooLong: the server takes no long queries.
            RequestFailed: no answer, an error, or an incomplete answer; in the server's own words.
            OSError, HTTPError: the connection failed.
        """
        posts = not self.fits(str(params["query"]))
        if posts and self.no_post:
            raise QueryTooLong(self.no_post)
        limit = self._max_bytes * (_RANGE if "step" in params else 1)
        with (
            self._http.request("POST", url, data=params) if posts else self._http.request("GET", url, params=params)
        ) as answer:
            if answer.status == 200:
                return ApiResponse(_read_result(answer, limit, self.keeps))
            status, reason = answer.status, _explain_status(answer)
        if not posts and status in _TOO_LONG and self._longest > _SHORTEST_TARGET:
            self._longest //= 2
            return self.request(method, url, params, **options)
        if posts and status in (*_TOO_LONG, *_NO_POST):
            self.no_post = f"{reason}; the query is too long for GET"
            raise QueryTooLong(self.no_post)
        raise RequestFailed(reason)

    def hide(self, text: str) -> str:
        """A text without the credentials that it may repeat."""
        return self._http.hide(text)

    def close(self) -> None:
        """Release the connection."""
        self._http.close()


def _read_result(answer: Answer, limit: int, keeps: Callable[[Any], bool]) -> list[Any]:
    """The series of a successful query that are wanted; nothing in it is the empty result.

    Raises:
        RequestFailed: it is an error, incomplete, not of this API, or too large.
    """
    foreign = f"not a Prometheus answer: {answer.content_type or 'no content type'}"
    if answer.content_type not in _JSON:
        raise RequestFailed(foreign)
    if (limited := answer.headers.get(_LIMITED, "false")) not in ("false", ""):
        raise RequestFailed(f"incomplete answer: {_LIMITED}: {limited}"[:_SHOWN])
    with ExitStack() as stack:
        text = bytearray()
        for chunk in answer.chunks(limit):
            if len(text) <= _SMALL < len(text) + len(chunk):
                stack.enter_context(_large)
            text += chunk
        if text.count(b",") + text.count(b":") > max(limit // _BYTES_AN_ITEM, _SMALL // 4):
            raise RequestFailed(f"the answer has too many items for signal.prometheus.max_bytes: {limit}")
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            raise RequestFailed(foreign) from None
        del text
        result = find_result(body, foreign)
        return [series for series in result if keeps(series)]


def find_result(body: Any, foreign: str) -> list[Any]:
    """All series of an answer.

    Raises:
        RequestFailed: it is an error, incomplete, or not of this API, with the text ``foreign``.
    """
    if not isinstance(body, dict):
        raise RequestFailed(foreign)
    if body.get("status") == "error" or (body.get("error") and not body.get("data")):
        raise RequestFailed(_explain_error(body))
    data = body.get("data", ...)
    if body.get("status") not in ("success", None) or (data is not None and not isinstance(data, dict)):
        raise RequestFailed(foreign)
    incomplete = find_incompleteness(body)
    if incomplete is not None:
        raise RequestFailed(f"incomplete answer: {incomplete}")
    result = data.get("result", ...) if data is not None else None
    if result is not None and not isinstance(result, list):
        raise RequestFailed(foreign)
    return result or []


def find_incompleteness(body: Mapping[str, Any]) -> str | None:
    """Why an answer does not cover all series; None where it does.

    Thanos, Prometheus and promxy warn where a store did not answer, VictoriaMetrics says ``isPartial``.  Notes on
    the query, which Prometheus before 3.0 puts among its warnings, are harmless.
    """
    warnings = body.get("warnings") or []
    if not isinstance(warnings, list):
        warnings = [warnings]
    warnings_shown = [str(warning) for warning in warnings if not str(warning).startswith("PromQL info:")]
    if warnings_shown:
        return "; ".join(warnings_shown)[:_SHOWN]
    partial = next((name for name in ("isPartial", "partial") if body.get(name) not in (None, False, "false")), None)
    return None if partial is None else f"{partial}: some of the storage did not answer"


def _explain_status(answer: Answer) -> str:
    """An error status, with the server's own text where it has one."""
    text = answer.text()
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if isinstance(body, dict) and any(name in body for name in _TEXTS):
        text = _explain_error(body)
    return f"HTTP status {answer.status}" + (f": {text[:_SHOWN]}" if text else "")


def _explain_error(body: Mapping[str, Any]) -> str:
    """The server's own words."""
    kind, text = body.get("errorType"), next((body[name] for name in _TEXTS if body.get(name)), None)
    if isinstance(text, dict):  # as Google writes it
        kind, text = kind or text.get("status"), text.get("message") or text
    text = text or "an error without a text"
    return (f"{kind}: {text}" if kind else str(text))[:_SHOWN]
