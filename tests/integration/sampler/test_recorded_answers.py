"""Answers in the formats that backends document, one after another: what each means for the robot.

Thanos, Mimir, Cortex, VictoriaMetrics, Grafana Cloud and the managed services of Amazon and Google, and what stands
before them.
"""

import json
from typing import Any

import pytest
from msgspec import Struct

from services.sampler.source import NoData
from tests.integration.sampler.test_sources import Name, now, robot, settings, source_for
from tests.support.broken_server import BrokenServer

JSON = "Content-Type: application/json\r\n"
HTML = "Content-Type: text/html; charset=utf-8\r\n"
TEXT = "Content-Type: text/plain; charset=utf-8\r\n"
NOBODY = "not measured: no series for it is being scraped"


class Recorded(Struct, frozen=True):
    """One answer."""

    body: str
    means: str
    """What the reason says."""
    status: str = "200 OK"
    headers: str = JSON
    is_empty: bool = False
    """Whether it is complete, and has no series."""


def vector(*series: Any, **more: Any) -> str:
    """A successful answer."""
    data = {"resultType": "vector", "result": list(series)}
    return json.dumps({"status": "success", "data": data, **more})


def error(kind: str, text: str, **more: Any) -> str:
    """An answer about an error."""
    return json.dumps({"status": "error", "errorType": kind, "error": text, **more})


GONE = 'receive series from Addr: 10.0.0.7:10901 LabelSets: {replica=\\"a\\"}: rpc error: code = Unavailable'
ANSWERS = {
    # Thanos: partial responses are warnings beside a success; with partial_response=false an error.
    "thanos: a store is away": Recorded(vector(warnings=[GONE.replace("\\", "")]), "incomplete answer: receive series"),
    "thanos: no store": Recorded(vector(warnings=["No StoreAPIs matched for this query"]), "No StoreAPIs matched"),
    "thanos: refuses parts": Recorded(error("execution", f"expanding series: {GONE}"), "execution: expanding series"),
    "thanos: empty, with its analysis": Recorded(
        json.dumps({"status": "success", "data": {"resultType": "vector", "result": [], "analysis": {}}}),
        NOBODY,
        is_empty=True,
    ),
    "thanos: busy": Recorded(
        error("timeout", "query timed out in expression evaluation"), "timed out", "503 Service Unavailable"
    ),
    "thanos: a part that succeeded": Recorded(
        vector(warnings=['fetch series for {cluster="b"} : context deadline exceeded']), "deadline exceeded"
    ),
    # Cortex and Mimir.
    "mimir: no tenant": Recorded("no org id\n", "HTTP status 401: no org id", "401 Unauthorized", TEXT),
    "mimir: too many requests": Recorded(
        error("too_many_requests", "too many outstanding requests"),
        "HTTP status 429: too_many_requests: too many outstanding requests",
        "429 Too Many Requests",
        JSON + "Retry-After: 5\r\n",
    ),
    "mimir: too many chunks": Recorded(
        error(
            "execution",
            "the query exceeded the maximum number of chunks (limit: 2000000 chunks) (err-mimir-max-chunks-per-query)",
        ),
        "HTTP status 422: execution: the query exceeded",
        "422 Unprocessable Entity",
    ),
    "mimir: an ingester is away": Recorded(
        error("internal", "rpc error: code = Code(500) desc = at least 2 live replicas required, could only find 1"),
        "HTTP status 500: internal: rpc error",
        "500 Internal Server Error",
    ),
    "mimir: notes of the engine": Recorded(
        vector(infos=["PromQL info: metric might not be a counter"]), NOBODY, is_empty=True
    ),
    "mimir: a warning of the engine": Recorded(
        vector(warnings=['PromQL warning: bucket label "le" is missing or has a malformed value']), "bucket label"
    ),
    "mimir: empty as protobuf": Recorded(
        "\x0a\x02", "not a Prometheus answer", headers="Content-Type: application/x-protobuf\r\n"
    ),
    "cortex: null": Recorded(
        '{"status":"success","data":{"resultType":"","result":null},"errorType":"","error":"","warnings":null}',
        NOBODY,
        is_empty=True,
    ),
    "cortex: an error with 200": Recorded(
        '{"status":"error","data":null,"errorType":"execution","error":"expanding series: context canceled"}',
        "execution: expanding series: context canceled",
    ),
    "cortex: too many samples": Recorded(
        error("execution", "query processing would load too many samples into memory in query execution"),
        "HTTP status 422: execution: query processing would load too many samples",
        "422 Unprocessable Entity",
    ),
    # VictoriaMetrics, single and cluster.
    "victoriametrics: empty": Recorded(
        vector(isPartial=False, stats={"seriesFetched": "0", "executionTimeMsec": 2}), NOBODY, is_empty=True
    ),
    "victoriametrics: a storage node is away": Recorded(vector(isPartial=True), "incomplete answer: isPartial"),
    "victoriametrics: a part with a trace": Recorded(vector(isPartial=True, trace={"message": "x"}), "isPartial"),
    "victoriametrics: its own kind of error": Recorded(
        error("422", 'error when executing query="x": cannot select more than -search.maxSamplesPerQuery samples'),
        "HTTP status 422: 422: error when executing",
        "422 Unprocessable Entity",
    ),
    "victoriametrics: too many at once": Recorded(
        error("503", "couldn't start executing the request in 10 seconds, since -search.maxConcurrentRequests=8"),
        "HTTP status 503: 503: couldn't start",
        "503 Service Unavailable",
        JSON + "Retry-After: 10\r\n",
    ),
    "vmauth: no route": Recorded(
        "missing route for http://x/y\n", "HTTP status 400: missing route", "400 Bad Request", TEXT
    ),
    # Grafana Cloud.
    "grafana cloud: a wrong key": Recorded(
        '{"status":"error","error":"authentication error: invalid token"}',
        "HTTP status 401: authentication error: invalid token",
        "401 Unauthorized",
    ),
    "grafana cloud: too fast": Recorded(
        "the request has been rejected because the tenant exceeded the request rate limit",
        "HTTP status 429: the request has been rejected",
        "429 Too Many Requests",
        TEXT + "Retry-After: 30\r\n",
    ),
    # Amazon Managed Service for Prometheus.
    "amazon: no signature": Recorded(
        '{"message":"Missing Authentication Token"}', "HTTP status 403: Missing Authentication Token", "403 Forbidden"
    ),
    "amazon: a wrong signature": Recorded(
        '{"Message":"The security token included in the request is invalid."}',
        "HTTP status 403: The security token included",
        "403 Forbidden",
    ),
    "amazon: throttled": Recorded(
        '{"message":"Too Many Requests","retryAfterSeconds":1}', "HTTP status 429: Too Many Requests", "429 X"
    ),
    "amazon: no such workspace": Recorded(
        '{"__type":"ResourceNotFoundException","message":"Workspace not found"}', "404: Workspace not found", "404 X"
    ),
    # Google Cloud Managed Service for Prometheus.
    "google: no permission": Recorded(
        '{"status":"error","errorType":"forbidden","error":"Permission monitoring.timeSeries.list denied"}',
        "HTTP status 403: forbidden: Permission",
        "403 Forbidden",
    ),
    "google: an error of the API itself": Recorded(
        '{"error":{"code":401,"message":"Request had invalid authentication credentials.","status":"UNAUTHENTICATED"}}',
        "HTTP status 401: UNAUTHENTICATED: Request had invalid authentication credentials",
        "401 Unauthorized",
    ),
    "google: quota": Recorded(
        '{"error":{"code":429,"message":"Quota exceeded for quota metric","status":"RESOURCE_EXHAUSTED"}}',
        "HTTP status 429: RESOURCE_EXHAUSTED: Quota exceeded",
        "429 Too Many Requests",
    ),
    "google: the API's error with 200": Recorded(
        '{"error":{"code":500,"message":"Internal error encountered.","status":"INTERNAL"}}',
        "Internal error encountered",
    ),
    # Prometheus itself, and what may stand before any of them.
    "prometheus: a bad query": Recorded(
        error("bad_data", 'invalid parameter "query": 1:5: parse error'), "HTTP status 400: bad_data", "400 Bad Request"
    ),
    "prometheus: replays its log": Recorded("Service Unavailable", "503: Service Unavailable", "503 X", TEXT),
    "prometheus: a remote store is away": Recorded(
        vector(warnings=["remote_read: remote server http://b/api/v1/read returned http status 503"]), "remote_read"
    ),
    "promxy: a server group is away": Recorded(
        vector(warnings=['Get "http://b:9090/api/v1/query": dial tcp: connect: connection refused']),
        "connection refused",
    ),
    "m3: a remote store did not answer": Recorded(
        vector(),
        "incomplete answer: M3-Results-Limited: remote_store_fetch_data_error",
        headers=JSON + "M3-Results-Limited: remote_store_fetch_data_error\r\n",
    ),
    "m3: complete": Recorded(vector(), NOBODY, headers=JSON + "M3-Results-Limited: false\r\n", is_empty=True),
    "a login page": Recorded("<html><form>Sign in</form></html>", "not a Prometheus answer: text/html", headers=HTML),
    "a gateway's error page": Recorded("<html>502 Bad Gateway</html>", "HTTP status 502", "502 Bad Gateway", HTML),
    "a gateway's time-out page": Recorded("<html>504</html>", "HTTP status 504", "504 Gateway Time-out", HTML),
    "html that says that it is json": Recorded("<html>Sign in</html>", "not a Prometheus answer: application/json"),
    "nothing": Recorded("", "not a Prometheus answer: application/json"),
    "no content": Recorded("", "HTTP status 204", "204 No Content", ""),
    "null": Recorded("null", "not a Prometheus answer"),
    "a matrix": Recorded(
        '{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"namespace":"factory","workload":'
        '"robot-control"},"values":[[1,"2"]]}]}}',
        "not an instant vector",
    ),
    "a scalar": Recorded(
        '{"status":"success","data":{"resultType":"scalar","result":[1,"2"]}}', "not an instant vector"
    ),
    "a string": Recorded('{"status":"success","data":{"resultType":"string","result":"x"}}', "not a Prometheus answer"),
    "cut off": Recorded('{"status":"success","data":{"resu', "not a Prometheus answer"),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_recorded_answer(name: str) -> None:
    """No data or no series, in the backend's own words."""
    one = ANSWERS[name]
    body = b"" if one.status.startswith("204") else one.body.encode()
    with (
        BrokenServer("body", body, one.status, headers=one.headers) as server,
        source_for(settings("prometheus", server.url)) as source,
    ):
        if one.is_empty:
            assert (await robot(source, now())).missing == one.means
            return
        with pytest.raises(NoData) as reason:
            await source.measure(now())
        assert one.means in str(reason.value)


@pytest.mark.parametrize("name", ["scrape", "prometheus"])
async def test_a_busy_server_is_left_alone_as_long_as_it_asks(name: Name) -> None:
    """With Retry-After no window asks it again until then, and the reason says so."""
    with BrokenServer("body", b"slow down", "429 Too Many Requests", headers=TEXT + "Retry-After: 30\r\n") as server:
        with source_for(settings(name, server.url)) as source:
            with pytest.raises(NoData, match="HTTP status 429"):
                await source.measure(now())
            asked = len(server.requests)
            for _ in range(3):
                with pytest.raises(NoData, match=r"HTTP status 429: the server asks for no request for (29|30) s more"):
                    await source.measure(now())
        assert len(server.requests) == asked
