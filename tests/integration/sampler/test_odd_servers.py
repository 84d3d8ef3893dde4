"""What servers and gateways send beside the body: codings, redirects, statuses; and files that hold no credential."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from schemas.http import Http
from services.runtime.health import Health, serve
from services.sampler.source import NoData
from tests.integration.sampler.test_answer_fuzz import FIGURES, MARKS, Reply, backend
from tests.integration.sampler.test_answers import EMPTY, JSON, with_http
from tests.integration.sampler.test_sources import Name, now, robot, settings, source_for
from tests.support.broken_server import BrokenServer

BOTH = pytest.mark.parametrize("name", ["scrape", "prometheus"])
TEXT = "Content-Type: text/plain\r\n"
PAGE = b'up{namespace="factory"} 1\n' * 200
ANSWER = json.dumps(EMPTY).encode()
ROBOT = {"namespace": "factory", "workload": "robot-control"}


async def reason_of(server: BrokenServer, name: Name, http: Http | None = None, path: str = "") -> str:
    """Why a server gives no data; empty where it gives some."""
    with source_for(with_http(settings(name, server.url + path), http or Http())) as source:
        try:
            await source.measure(now())
        except NoData as error:
            return str(error)
    return ""


def two_members(body: bytes) -> bytes:
    """A gzip file in two parts, as some proxies put it together."""
    return gzip.compress(body[:50]) + gzip.compress(body[50:])


@BOTH
@pytest.mark.parametrize(
    ("coding", "pack", "why"),
    [
        ("gzip", gzip.compress, ""),
        ("GZIP", gzip.compress, ""),
        ("x-gzip", two_members, ""),
        ("deflate", zlib.compress, ""),
        ("identity", bytes, ""),
        ("gzip", lambda body: gzip.compress(body)[:-9], "cut off"),
        ("gzip", lambda body: gzip.compress(body)[:40], "cut off"),
        ("gzip", lambda body: two_members(body)[:-9], "cut off"),
        ("deflate", lambda body: zlib.compress(body)[:-3], "cut off"),
        ("gzip", bytes, "the body is not in it"),
        ("br", bytes, "content encoding br, which was not asked for"),
        ("gzip, gzip", lambda body: gzip.compress(gzip.compress(body)), "not asked for"),
    ],
)
async def test_a_compressed_body_is_read_whole_or_refused(name: Name, coding: str, pack: Any, why: str) -> None:
    """It was not asked for.  A part of it would look like a page with fewer series."""
    body, kind = (PAGE, TEXT) if name == "scrape" else (ANSWER, JSON)
    with BrokenServer("body", pack(body), headers=f"{kind}Content-Encoding: {coding}\r\n") as server:
        found = await reason_of(server, name)
    assert why in found
    assert bool(found) is bool(why), found


@BOTH
async def test_a_body_that_unpacks_to_much_is_refused_in_time(name: Name) -> None:
    """128 MiB in 128 kB: read in bounded pieces, up to the limit."""
    packed = gzip.compress((b"# " + b"x" * 1021 + b"\n" if name == "scrape" else b" " * 1024) * 2**17)
    with BrokenServer("body", packed, headers="Content-Encoding: gzip\r\n") as server:
        assert "the answer is larger than " in await reason_of(server, name)


@BOTH
@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("http://[::1", "no valid address"),
        ("//[", "no valid address"),
        ("javascript:alert(1)", "no host"),
        ("http://user:s3cret@evil.example/", "evil.example"),
        ("//evil.example/x", "evil.example"),
        ("/login", "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
async def test_a_redirect_to_anywhere_is_named(name: Name, location: str, host: str) -> None:
    """Also where it leads to no address."""
    with BrokenServer("body", status="302 Found", headers=f"Location: {location}\r\n") as server:
        found = await reason_of(server, name)
    assert f"HTTP status 302 to {host}" in found
    assert "s3cret" not in found


@BOTH
async def test_the_body_of_a_redirect_is_not_read(name: Name) -> None:
    """However large it is: this one has no end."""
    with BrokenServer("endless", b"x" * 65536, status="302 Found", headers="Location: /login\r\n") as server:
        assert "HTTP status 302 to 127.0.0.1" in await reason_of(server, name)


@BOTH
@pytest.mark.parametrize(
    "status", ["203 Other", "204 No Content", "206 Partial Content", "304 Not Modified", "511 Login"]
)
async def test_a_status_that_is_no_success_is_named(name: Name, status: str) -> None:
    """A part, something kept, nothing, another's answer."""
    with BrokenServer("body", b"", status) as server:
        assert f"HTTP status {status[:3]}" in await reason_of(server, name)


@BOTH
@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("t→ken-abcdef".encode(), "letters that no token has"),
        ("tökén".encode(), "letters that no token has"),
        (b"a\x00b", "letters that no token has"),
        (b"\xff\xfet\x00o\x00", "not text"),
        (b"one\r\ntwo\r\n", "more than one line"),
        (b"\xef\xbb\xbf \r\n", "empty"),
        (None, "is a directory"),
    ],
)
async def test_a_file_that_holds_no_token_is_named(name: Name, content: bytes | None, why: str, tmp_path: Path) -> None:
    """Nothing is sent."""
    path = tmp_path
    if content is not None:
        path /= "token"
        path.write_bytes(content)
    with BrokenServer("body", b"up 1\n") as server:
        found = await reason_of(server, name, Http(token_file=str(path)))
        assert server.requests == []
    assert f"token_file: {path}: " in found
    assert why in found


@BOTH
async def test_a_token_that_windows_wrote_is_a_token(name: Name, tmp_path: Path) -> None:
    """With a byte order mark, and two letters at the line's end."""
    (tmp_path / "token").write_bytes(b"\xef\xbb\xbfabc-def\r\n")
    with BrokenServer("body", b"", "401 No") as server:
        await reason_of(server, name, Http(token_file=str(tmp_path / "token")))
    assert b"Authorization: Bearer abc-def\r\n" in server.requests[0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("you sent Basic YWRtaW46cEBzcy93MHJk", "you sent Basic ***"),
        ("password p@ss/w0rd is wrong", "password *** is wrong"),
        ("?password=p%40ss%2Fw0rd", "?password=***"),
        ("key a-b-c is wrong, abacus is not", "key *** is wrong, abacus is not"),
        ("token s%20p%2Fa%2Bc-long is wrong", "token *** is wrong"),
        ("token s+p%2Fa%2Bc-long is wrong", "token *** is wrong"),
        ("token s p/a+c-long is wrong", "token *** is wrong"),
    ],
)
async def test_no_form_of_a_credential_is_shown(text: str, shown: str, tmp_path: Path) -> None:
    """Encoded, in an address, short: a server may repeat what it was sent."""
    (tmp_path / "password").write_text("p@ss/w0rd")
    password = str(tmp_path / "password")
    http = Http(username="admin", password_file=password, headers={"X-Api-Key": "a-b-c"})
    with BrokenServer("body", text.encode(), "401 No") as server:
        found = await reason_of(server, "prometheus", http, "/?token=s%20p%2Fa%2Bc-long")
    assert found.endswith(f"HTTP status 401: {shown}")


@pytest.mark.parametrize(
    ("figure", "change", "why"),
    [
        ("0.95", {"twice": True}, "several series of it in one answer (p95)"),
        ("0.75", {"twice": True}, "several series of it in one answer (jitter)"),
        ("timestamp(", {"twice": True}, "later than the time that was asked about"),
        ("timestamp(", {"value": 9e9}, "later than the time that was asked about"),
        ("timestamp(", {"value": 1e9}, "stale: last scraped"),
        ("0.95", {"value": -0.1}, "below zero"),
        ("0.75", {"value": "-1e-9"}, "below zero"),
        ("0.95", {"value": "NaN"}, "no quantile"),
        ("increase(hubble_flow_latency", {"value": "-5"}, "no observations"),
        ("increase(hubble_flow_latency", {"value": "+Inf"}, "no observations"),
        ("lost", {"value": "-0.5"}, None),
    ],
)
async def test_figures_that_cannot_be_are_no_data(figure: str, change: dict[str, Any], why: str | None) -> None:
    """Of two servers' answers put together, of another time, below zero: the others are as they should be."""
    end = now()
    values = {"p95": 0.002, "jitter": 0.001, "observations": 500, "scraped": end / 1e9, "lost": 0, "throughput": 1e6}
    replies: dict[str, Reply] = {}
    for name, mark in zip(FIGURES, MARKS, strict=True):
        found = change if mark == figure else {}
        item = {"metric": ROBOT, "value": [end / 1e9, str(found.get("value", values.get(name, 0)))]}
        items = [item] * (2 if found.get("twice") else 1) if name in values else []
        body = {"status": "success", "data": {"resultType": "vector", "result": items}}
        replies[name] = Reply(json.dumps(body).encode())
    with backend(replies) as url, source_for(settings("prometheus", url)) as source:
        stats = await robot(source, end)
    if why is None:
        assert (stats.missing, stats.lost, stats.p95) == (None, None, 0.002)
    else:
        assert stats.missing is not None
        assert why in stats.missing


@BOTH
@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/?latency_offset=1s&nocache=1", "latency_offset=1s&nocache=1"),
        ("/prometheus?partial_response=false", "partial_response=false"),
        ("/a/b/?extra_label=tenant%3Dx%26y", "extra_label=tenant%3Dx%26y"),
        ("?empty=&flag", "empty=&flag"),
        ("/?match[]=up&match[]=x", "match[]=up&match[]=x"),
        ("/?a=1;b=2", "a=1;b=2"),
        ("/?q=a+b%20c", "q=a+b%20c"),
    ],
)
async def test_a_query_string_of_any_kind_is_kept_and_not_shown(name: Name, path: str, query: str) -> None:
    """Before what the source adds, as its owner wrote it."""
    body, kind = (PAGE, TEXT) if name == "scrape" else (ANSWER, JSON)
    with BrokenServer("body", body, headers=kind) as server:
        assert await reason_of(server, name, path=path) == ""
        asked = server.requests[0].split(b" ")[1].decode()
        server.status = "500 No"
        assert query not in await reason_of(server, name, path=path)
    more = "&query=" if name == "prometheus" else ""
    assert unquote(f"?{query}{more}") in unquote(asked)


@BOTH
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]"])
async def test_an_address_of_either_family_is_reached(name: Name, host: str) -> None:
    """One server listens for both."""
    async with serve(Health(), "::", 0) as port:
        with source_for(settings(name, f"http://{host}:{port}/metrics")) as source:
            if name == "scrape":
                await source.measure(now())
                return
            with pytest.raises(NoData, match="HTTP status 404"):  # it is no Prometheus
                await source.measure(now())
