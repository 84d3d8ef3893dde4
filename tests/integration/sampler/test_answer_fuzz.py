"""Answers of Prometheus-compatible backends, whole and damaged, against a slow and obvious reader of the same bytes."""

import gzip
import json
import os
import resource
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from math import isfinite
from random import Random
from typing import Any

from msgspec import Struct

from services.sampler.source import LatencyStats, NoData
from tests.integration.sampler.test_sources import ROBOT, now, settings, source_for
from tests.support.http_server import serve_requests

EXAMPLES = int(os.environ.get("SLUICE_FUZZ_EXAMPLES", "250"))
FIGURES = ("resets", "returns", "appeared", "p95", "jitter", "observations", "scraped", "buckets", "lost", "throughput")
DOUBTS = ("resets", "returns", "appeared")
MARKS = (
    *(
        "resets(hubble_flow_latency_seconds_bucket",
        "max_over_time(",
        "min_over_time(",
        "0.95",
        "0.75",
        "increase(hubble_flow_latency",
        "timestamp(",
        "count by",
        "lost",
    ),
    "container",
)
"""What tells each figure's query, in that order."""
GROWTH_KIB = 64 * 1024
NOTES = ("PromQL info: metric might not be a counter",)


class Reply(Struct):
    """An HTTP answer."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    encoding: str = ""


def write_reply(chance: Random, figure: str, at: float) -> Reply:
    """A complete answer of some backend, in one of the layouts that they have."""
    robot = {"namespace": "factory", "workload": "robot-control"}
    value = {
        "p95": chance.uniform(1e-4, 0.01),
        "jitter": chance.uniform(1e-5, 0.005),
        "observations": chance.uniform(50, 5000),
        "scraped": at - chance.random(),
        "lost": float(chance.randint(0, 5)),
    }.get(figure, chance.uniform(1e3, 1e7))
    bounds = (*(f"{bound:g}" for bound in (0.0005, 0.001, 0.0015, 0.002, 0.0025)), "+Inf")
    labels: list[dict[str, str]] = [robot]
    if figure in DOUBTS:
        labels = [robot] if chance.random() < 0.05 else []
    elif figure == "buckets":
        labels = [{**robot, "le": bound} for bound in bounds]
    elif figure == "throughput":
        labels = [{"namespace": "factory", "pod": "telemetry-upload-5d5x2-abcde"}]
    if chance.random() < 0.3:
        labels.append({"namespace": "factory", "workload": "another", "pod": "another-0"})
    series = [{"metric": one, "value": [chance.choice((at, int(at))), repr(value)]} for one in labels]
    data: dict[str, Any] = {"resultType": "vector", "result": series}
    body: dict[str, Any] = {"status": "success", "data": data}
    extra: list[dict[str, Any]] = [
        {"infos": list(NOTES)},  # Prometheus 3
        {"warnings": list(NOTES)},  # Prometheus before 3
        {"warnings": []},
        {"isPartial": False},  # VictoriaMetrics
        {"stats": {"seriesFetched": "9", "executionTimeMsec": 3}},
        {"errorType": "", "error": "", "warnings": None},  # Cortex, Mimir
    ]
    for one in chance.sample(extra, chance.randint(0, 2)):
        body.update(one)
    if chance.random() < 0.2:
        data["analysis"] = {}  # Thanos
    layout = chance.choice(({}, {"indent": 1}, {"separators": (",", ":")}))
    return Reply(json.dumps(body, **layout).encode(), content_type=chance.choice(("application/json", "text/plain")))


def damage(chance: Random, reply: Reply) -> None:
    """Damage an answer in one of the ways of backends, gateways and networks."""
    body = reply.body
    kind = chance.randrange(13)
    if kind == 0:
        reply.body = body[: chance.randrange(len(body))]
    elif kind == 1:
        at = chance.randrange(len(body))
        junk = bytes(chance.randrange(256) for _ in range(chance.randrange(4)))
        reply.body = body[:at] + junk + body[at + chance.randrange(4) :]
    elif kind == 2:
        reply.status = chance.choice((204, 400, 401, 403, 404, 413, 422, 429, 500, 502, 503, 504))
    elif kind == 3:
        reply.content_type = chance.choice(("text/html", "application/xml", "application/x-protobuf"))
    elif kind == 4:
        reply.body = chance.choice(
            (b"", b"null", b"[]", b"{}", b"0", b'"x"', b"\xff\xfe", b"[" * 5000, b'{"a":' * 5000)
        )
    elif kind == 5:
        reply.encoding, reply.body = "gzip", gzip.compress(body)
    else:
        _damage_json(chance, reply, json.loads(body), kind)


def _damage_json(chance: Random, reply: Reply, body: Any, kind: int) -> None:
    result = body["data"]["result"]
    strange: Any = chance.choice(
        (
            None,
            0,
            -1.0,
            "-2",
            "",
            "x",
            [],
            {},
            True,
            "NaN",
            "+Inf",
            "-Inf",
            "1e999",
            "0x1",
            "1_0",
            [1, "2"],
            [[]],
            {"a": 1},
        )
    )
    if kind == 6:
        body |= {chance.choice(("warnings", "isPartial", "partial", "status", "error", "data")): strange}
    elif kind == 7:
        body |= {"warnings": [chance.choice(("store gone", "PromQL warning: x", "", *NOTES))]}
    elif kind == 11 or not result:
        body["data"][chance.choice(("result", "resultType"))] = strange
    elif kind == 8:
        chance.choice(result)["value"] = strange
    elif kind == 9:
        chance.choice(result)["value"][1] = strange
    elif kind == 12:
        result.append(chance.choice(result))
    else:
        chance.choice(result)["metric"] = strange
    reply.body = json.dumps(body).encode()


def is_complete(reply: Reply, body: Any) -> bool:
    """Whether an answer says that it succeeded, and warns of nothing."""
    if not isinstance(body, dict) or body.get("status", "success") not in ("success", None):
        return False
    warnings = body.get("warnings") or []
    warnings = warnings if isinstance(warnings, list) else [warnings]
    if [one for one in warnings if not str(one).startswith("PromQL info:")]:
        return False
    return all(body.get(name) in (None, False, "false") for name in ("isPartial", "partial"))


def read_slowly(reply: Reply) -> dict[str, float] | None:
    """The sums in an answer, and whether the robot comes twice; None where it is no complete answer."""
    if reply.status != 200 or reply.content_type not in ("application/json", "text/plain"):
        return None
    sums: dict[str, float] = {}
    seen: list[str] = []
    try:
        body = json.loads(gzip.decompress(reply.body) if reply.encoding else reply.body)
        if not is_complete(reply, body):
            return None
        for series in (body.get("data") or {}).get("result") or []:
            labels = {str(name): str(value) for name, value in series["metric"].items()}
            key = f"{labels.get('namespace', '')}/{labels.get('workload', labels.get('pod', '?'))}"
            value = series["value"][1]
            if isinstance(value, bool) or "_" in str(value):
                return None
            seen.append(key)
            sums[key] = sums.get(key, 0.0) + float(value)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError):
        return None
    return sums | {"repeated": float(seen.count(ROBOT) > 1)}


@contextmanager
def backend(replies: dict[str, Reply]) -> Iterator[str]:
    """Answers each figure's query with its reply; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            # Not the time, which may end like a quantile.
            (query,) = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)["query"]
            reply = replies[next(figure for figure, mark in zip(FIGURES, MARKS, strict=True) if mark in query)]
            head = f"HTTP/1.1 {reply.status} X\r\nContent-Type: {reply.content_type}\r\n"
            head += f"Content-Encoding: {reply.encoding}\r\n" if reply.encoding else ""
            body = b"" if reply.status == 204 else reply.body
            self.wfile.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    with serve_requests(Handler) as url:
        yield url


def judge(found: LatencyStats | None, replies: dict[str, Reply]) -> str:
    """Compare what was measured with what the answers say, slowly read."""
    expected = {figure: read_slowly(replies[figure]) for figure in FIGURES}
    needed = [figure for figure in FIGURES if figure not in ("throughput", "buckets")]
    values = {figure: (expected[figure] or {}).get(ROBOT) for figure in needed}
    uncounted = 0.01 * ((values["observations"] or 0.0) + (values["appeared"] or 0.0))
    most = {"resets": 0.0, "returns": 1.0, "appeared": uncounted}
    doubts = [expected[figure] is None or not (values.pop(figure) or 0.0) <= most[figure] for figure in DOUBTS]
    usable = all(value is not None and isfinite(value) for figure, value in values.items() if figure != "lost")
    usable = usable and not any(doubts) and min(values[figure] or 0.0 for figure in ("p95", "jitter")) >= 0
    usable = usable and not any((expected[figure] or {}).get("repeated") for figure in ("p95", "jitter", "scraped"))
    if found is None or found.missing is not None:
        return "no data" if not usable or found is None else "stale or empty"
    assert usable, replies
    assert found.p95 == values["p95"], replies
    assert found.jitter == values["jitter"], replies
    assert found.observations == round(values["observations"] or 0), replies
    return "right"


async def test_no_answer_gives_a_wrong_value() -> None:
    """Each of the ten answers of a window may be damaged: the figures are right, or there is no data."""
    chance, tally, answers = Random(23), Counter[str](), 0
    replies: dict[str, Reply] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with backend(replies) as url, source_for(settings("prometheus", url)) as source:
        while answers < EXAMPLES:
            end = now()
            replies |= {figure: write_reply(chance, figure, end / 1e9) for figure in FIGURES}
            for figure in chance.sample(FIGURES, chance.choice((0, 1, 1, 1, 2))):
                damage(chance, replies[figure])
            answers += len(FIGURES)
            source._layout_due = 0.0  # type: ignore[attr-defined]  # otherwise it asks for buckets once a minute
            try:
                found = (await source.measure(end)).latency[ROBOT]
            except NoData:
                found = None
            tally[judge(found, replies)] += 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{answers} answers in {sum(tally.values())} windows: {dict(tally)}, wrong 0, memory grew by {grown} KiB")
    # Both happen; how often, chance decides.
    assert tally["right"] > sum(tally.values()) / 20
    assert tally["no data"] > sum(tally.values()) / 20
    assert grown < GROWTH_KIB
