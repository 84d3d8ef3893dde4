"""Answers of servers that speak Prometheus's API: complete and right, or no data in the server's own words."""

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.config import Prometheus, Scrape, Signal
from schemas.http import Http
from services.sampler.source import NoData
from tests.integration.sampler.test_sources import EPOCH, ROBOT, Name, history, now, robot, settings, source_for
from tests.support.broken_server import BrokenServer
from tests.support.prometheus_server import PrometheusServer

JSON = "Content-Type: application/json\r\n"
EMPTY: dict[str, Any] = {"status": "success", "data": {"resultType": "vector", "result": []}}


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ({"warnings": ["No StoreAPIs matched for this query"]}, "No StoreAPIs matched for this query"),
        ({"warnings": ["PromQL info: be nice", "remote_read: connection refused"]}, "remote_read: connection refused"),
        ({"warnings": "receive store: context deadline exceeded"}, "context deadline exceeded"),
        ({"warnings": {"store": "gone"}}, "gone"),
        ({"warnings": ["PromQL warning: bucket label le is missing"]}, "bucket label le is missing"),
        ({"isPartial": True}, "isPartial"),
        ({"isPartial": "true"}, "isPartial"),
        ({"isPartial": True, "infos": ["a note"]}, "isPartial"),
    ],
)
async def test_a_part_is_never_taken_for_the_whole(extra: dict[str, Any], why: str) -> None:
    """A store that did not answer may be the one with the slow connections."""
    with (
        BrokenServer("body", json.dumps(EMPTY | extra).encode(), headers=JSON) as server,
        source_for(settings("prometheus", server.url)) as source,
        pytest.raises(NoData, match=f"incomplete answer: .*{why}"),
    ):
        await source.measure(now())


@pytest.mark.prometheus
async def test_a_remote_store_that_is_gone_is_no_data(tmp_path: Path) -> None:
    """Prometheus answers with what it has itself, and a warning: the remote store may have the slow half."""
    with PrometheusServer(tmp_path / "b", history=history(60)) as remote:
        read = f'remote_read: [{{url: "{remote.url}/api/v1/read", read_recent: true}}]\n'
        with (
            PrometheusServer(tmp_path / "a", history=history(60), jobs=read) as local,
            source_for(settings("prometheus", local.url)) as source,
        ):
            assert (await robot(source, (EPOCH + 30) * 10**9)).missing is None
            remote.__exit__(None, None, None)
            with pytest.raises(NoData, match=r"incomplete answer: .*remote"):
                await source.measure((EPOCH + 31) * 10**9)


@pytest.mark.parametrize(
    "body",
    [
        EMPTY | {"infos": ["PromQL info: metric might not be a counter"]},
        EMPTY | {"warnings": ["PromQL info: metric might not be a counter, name does not end in _total"]},
        EMPTY | {"warnings": []},
        EMPTY | {"warnings": None, "isPartial": False, "stats": {"seriesFetched": "0"}},
        {"status": "success", "data": {"resultType": "vector", "result": None}},
        {"status": "success", "data": None},
        {"status": "success", "data": {"resultType": "", "result": None}, "isPartial": False},
    ],
)
async def test_what_is_complete_and_empty_is_empty(body: dict[str, Any]) -> None:
    """Notes are harmless, and null is nothing."""
    with (
        BrokenServer("body", json.dumps(body).encode(), headers=JSON) as server,
        source_for(settings("prometheus", server.url)) as source,
    ):
        assert (await robot(source, now())).missing == "not measured: no series for it is being scraped"


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        ('{"status":"error","data":null,"error":"no org id"}', "200 OK", "jitter: no org id"),
        ('{"status":"error","errorType":"execution","error":"too many"}', "200 OK", "jitter: execution: too many"),
        ('{"status":"error"}', "200 OK", "an error without a text"),
        ('{"error":"boom"}', "200 OK", "jitter: boom"),
        ('{"status":"error","errorType":"bad_data","error":"x"}', "422 No", "HTTP status 422: bad_data: x"),
        ('{"message":"unauthenticated"}', "401 No", "HTTP status 401: unauthenticated"),
        ("upstream is away", "503 No", "HTTP status 503: upstream is away"),
        ("[]", "200 OK", "not a Prometheus answer: application/json"),
        ('{"status":"weird","data":{"result":[]}}', "200 OK", "not a Prometheus answer"),
        ('{"status":"success","data":[1]}', "200 OK", "not a Prometheus answer"),
        ("[" * 100_000, "200 OK", "not a Prometheus answer"),
        ('{"status":"success","data":{"result":[' + "1," * 3_000_000, "200 OK", "larger than 2097152 bytes"),
    ],
)
async def test_an_error_is_reported_in_the_servers_own_words(body: str, status: str, why: str) -> None:
    """Whatever the status says."""
    with (
        BrokenServer("body", body.encode(), status, headers=JSON) as server,
        source_for(settings("prometheus", server.url)) as source,
        pytest.raises(NoData, match=why),
    ):
        await source.measure(now())


@pytest.mark.parametrize("name", ["scrape", "prometheus"])
async def test_a_login_page_is_named(name: Name) -> None:
    """With 200, or behind a redirect that is not followed."""
    html = "Content-Type: text/html; charset=utf-8\r\n"
    with (
        BrokenServer("body", b"<html>log in</html>", headers=html) as server,
        source_for(settings(name, server.url)) as source,
    ):
        with pytest.raises(NoData, match=r"not a (Prometheus answer|metrics page): text/html"):
            await source.measure(now())
        for status in ("301 Moved", "302 Found", "303 Other", "307 Temporary", "308 Permanent"):
            server.status = status
            server.headers = "Location: https://user:pw@login.example:8443/sso?token=abc\r\n"
            with pytest.raises(NoData) as reason:
                await source.measure(now())
            assert f"HTTP status {status[:3]} to login.example:8443" in str(reason.value)
            assert "abc" not in str(reason.value)
            assert "pw" not in str(reason.value)


@pytest.mark.parametrize("name", ["scrape", "prometheus"])
async def test_no_header_reaches_another_host(name: Name) -> None:
    """A redirect carries nothing anywhere."""
    with BrokenServer("body") as foreign, BrokenServer("body", status="302 Found") as server:
        server.headers = f"Location: {foreign.url}/\r\n"
        http = Http(headers={"X-Api-Key": "0123456789", "X-Scope-OrgID": "factory"})
        signal = with_http(settings(name, server.url), http)
        with source_for(signal) as source, pytest.raises(NoData, match=r"HTTP status 302 to 127\.0"):
            await source.measure(now())
        assert not foreign.requests
        assert b"X-Api-Key: 0123456789" in server.requests[0]


def with_http(signal: Signal, http: Http) -> Signal:
    """The same signal, asked in another way."""
    return Signal(
        source=signal.source,
        period=signal.period,
        window=signal.window,
        timeout=signal.timeout,
        http=http,
        scrape=signal.scrape,
        prometheus=signal.prometheus,
    )


@pytest.mark.parametrize("name", ["scrape", "prometheus"])
async def test_a_token_that_rotates_is_read_anew(name: Name, tmp_path: Path) -> None:
    """Every request carries what the file holds then; an empty or missing file is no data, and says so."""
    token = tmp_path / "token"
    with (
        BrokenServer("body", b"up 1\n", "401 No", headers="Content-Type: text/plain\r\n") as server,
        source_for(with_http(settings(name, server.url), Http(token_file=str(token)))) as source,
    ):
        with pytest.raises(NoData, match=r"token_file: .*no such file"):
            await source.measure(now())
        for text, why in (("", "empty"), ("a\nb", "more than one line"), ("first-token\n", "401")):
            token.write_text(text)
            with pytest.raises(NoData, match=why):
                await source.measure(now())
        token.write_text("second-token")
        server.body = b"you sent second-token\n"
        with pytest.raises(NoData, match="401") as reason:
            await source.measure(now())
        assert "second-token" not in str(reason.value)
    assert b"Authorization: Bearer first-token\r\n" in server.requests[0]
    assert b"Authorization: Bearer second-token\r\n" in server.requests[-1]


@pytest.mark.parametrize("name", ["scrape", "prometheus"])
async def test_basic_authentication(name: Name, tmp_path: Path) -> None:
    """User and password, the latter from its file."""
    (tmp_path / "password").write_text("s3cret\n")
    http = Http(username="admin", password_file=str(tmp_path / "password"))
    with (
        BrokenServer("body", status="500 No") as server,
        source_for(with_http(settings(name, server.url), http)) as one,
        pytest.raises(NoData),
    ):
        await one.measure(now())
    assert b"Authorization: Basic YWRtaW46czNjcmV0\r\n" in server.requests[0]


@pytest.mark.parametrize(
    "address",
    [
        "http://admin:s3cret@host",
        "https://s3cret@host/x",
        "ftp://admin:s3cret@host",
        "admin:s3cret@host:9090",
        "http:/admin:s3cret@host",
        "http://admin:s3/cret@host",
        "http://admin:s3?cret@host",
        "http://admin:s3#cret@host",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_shown(address: str) -> None:
    """They would be in reasons, samples and logs."""
    for build in (lambda: Scrape(urls=(address,)), lambda: Prometheus(url=address)):
        with pytest.raises(ValueError, match="must not hold credentials") as error:
            build()
        assert "cret" not in str(error.value)


async def test_a_query_string_is_kept_and_not_shown() -> None:
    """As VictoriaMetrics and some gateways want it."""
    body = json.dumps(EMPTY).encode()
    with BrokenServer("body", body, headers=JSON) as server:
        with source_for(settings("prometheus", f"{server.url}/select/0/?latency_offset=1s&nocache=1")) as source:
            await source.measure(now())
            server.body = b"{}"
            with pytest.raises(NoData) as reason:
                await source.measure(now())
        assert "latency_offset" not in str(reason.value)
        assert server.requests[0].startswith(b"GET /select/0/api/v1/query?latency_offset=1s&nocache=1&query=")
    with BrokenServer("body", b"up 1\n") as server:
        with source_for(settings("scrape", f"{server.url}/metrics?target=a%20b")) as source:
            await source.measure(now())
        assert server.requests[0].startswith((b"GET /metrics?target=a+b ", b"GET /metrics?target=a%20b "))


async def test_long_queries_are_posted() -> None:
    """A hundred workloads do not fit into an address that every gateway takes; short queries go by GET."""
    names = [f"factory/robot-control-with-a-rather-long-name-{number:03}" for number in range(100)]
    with BrokenServer("body", json.dumps(EMPTY).encode(), headers=JSON) as server:
        signal = settings("prometheus", server.url)
        with source_for(signal, ROBOT) as source:
            await source.measure(now())
        assert all(request.startswith(b"GET ") for request in server.requests)
        server.requests.clear()
        with source_for(signal, *names) as source:
            await source.measure(now())
        heads = [request for request in server.requests if request.startswith((b"GET ", b"POST "))]
        assert any(head.startswith(b"POST /api/v1/query ") for head in heads)
        assert all(len(head.partition(b"\r\n")[0]) < 8000 for head in heads)
        server.status = "405 Method Not Allowed"
        with source_for(signal, *names) as source, pytest.raises(NoData, match=r"405.*too long for GET"):
            await source.measure(now())


async def test_a_proxy_is_asked_where_the_environment_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the usual variables."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with BrokenServer("body", b"up 1\n") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        with source_for(settings("scrape", "http://exporter.example:9965/metrics")) as source:
            await source.measure(now())
    assert proxy.requests[0].startswith(b"GET http://exporter.example:9965/metrics ")


def test_settings_of_http_that_do_not_go_together_are_refused() -> None:
    """And values are not shown."""
    for wrong in (
        {"certificate": "a"},
        {"key": "a"},
        {"username": "a"},
        {"password_file": "a"},
        {"username": "a", "password_file": "b", "token_file": "c"},
    ):
        with pytest.raises(ValueError, match=r"needed|only one"):
            Http(**wrong)  # type: ignore[arg-type]
    for headers in ({"X Y": "1"}, {"X": "s3cret\r\nY: 1"}, {"X": " s3cret"}):
        with pytest.raises(ValueError, match="headers") as error:
            Http(headers=headers)
        assert "s3cret" not in str(error.value)
