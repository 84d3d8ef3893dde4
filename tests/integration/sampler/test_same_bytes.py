"""A real Prometheus scrapes the same bytes, and reads the same as our parser or refuses them too."""

import json
import os
import re
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import pytest

from schemas.config import Signal
from services.sampler.scrape.parser import MalformedPage, PageReader, ScrapedPage
from services.sampler.workloads import Workloads, metric_names
from tests.support.metric_pages import Samples, flatten, name_sample, write_open_page, write_page
from tests.support.prometheus_server import PrometheusServer
from tests.support.waiting import PATIENCE_S

PAGES = int(os.environ.get("SLUICE_FUZZ_EXAMPLES", "400"))
BLOCK = 250
"""Pages that one Prometheus scrapes."""
TYPES = ("text/plain; version=0.0.4", "application/openmetrics-text; version=1.0.0")
WORKLOADS = Workloads(metric_names(Signal()), ("factory/robot",), ())
OURS_ALONE = {
    "a value that is no count": r"expected a counter",
    "a bucket without a bound": r"bucket with the bound",
    "a comment with half a name": r"# HELP|# TYPE",
    "a line feed inside a value": r"^[^\"]*(?:\"[^\"]*\"[^\"]*)*\"[^\"]*$",
    "no comma between labels": r"\"[ \t]*[a-zA-Z_]+[ \t]*=",
}
"""What is refused though Prometheus reads it: no exporter writes it, and it could be mistaken."""
_QUOTED = rb'"(?:[^"\\\n]|\\[^\n])*"'
THEIRS_ALONE = re.compile(
    rb"^[a-zA-Z_:][\w:]*(?<!_bucket)(?<!_total)(?:\{(?:[^{}\"\n]|" + _QUOTED + rb")*\})? [^#\n]* # \{", re.MULTILINE
)
"""Exemplars of other series than buckets and counters: only later versions of Prometheus than 2.42 read them."""


@contextmanager
def pages_served(pages: Sequence[bytes]) -> Iterator[int]:
    """Serve each page below its number, those with odd numbers as OpenMetrics; gives the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = int(self.path.rpartition("/")[2])
            body = pages[number]
            self.send_response(200)
            self.send_header("Content-Type", TYPES[number % 2])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 1024

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(server: PrometheusServer, query: str) -> list[dict[str, Any]]:
    """An instant query over all scraped series."""
    with urllib.request.urlopen(f"{server.url}/api/v1/query?query={urllib.parse.quote(query)}") as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def has_network_errors(server: PrometheusServer) -> bool:
    """Whether a page could not be fetched, because the machine is busy: it will be scraped again."""
    with urllib.request.urlopen(f"{server.url}/api/v1/targets?state=active") as answer:
        targets = json.load(answer)["data"]["activeTargets"]
    busy = ("deadline", "dial tcp", "reset by peer", 'EOF"', "timeout")
    return any(word in target["lastError"] for target in targets for word in busy)


def read_by_prometheus(pages: Sequence[bytes], home: Path) -> list[Samples | None]:
    """The samples that Prometheus stored of each page; None if it refused the page."""
    with pages_served(pages) as port:
        targets = "".join(
            f'    - {{targets: ["127.0.0.1:{port}"], labels: {{__metrics_path__: /{number}, page: "{number}"}}}}\n'
            for number in range(len(pages))
        )
        job = f"- job_name: pages\n  honor_timestamps: false\n  static_configs:\n{targets}"
        with PrometheusServer(home, interval="10s", jobs=job) as server:
            deadline = time.monotonic() + 10 * PATIENCE_S
            while len(scraped := ask(server, 'up{page!=""}')) < len(pages) or has_network_errors(server):
                assert time.monotonic() < deadline
                time.sleep(0.5)
            series = ask(
                server,
                '{__name__=~"hubble_flow_(latency_seconds_bucket|lost_total)",namespace="factory",workload="robot"}',
            )
    stored: dict[str, Samples] = defaultdict(dict)
    for one in series:
        labels = dict(one["metric"])
        number, name = labels.pop("page"), labels.pop("__name__")
        del labels["instance"], labels["job"]
        stored[number][name_sample(name, labels)] = float(one["value"][1])
    up = {one["metric"]["page"] for one in scraped if one["value"][1] == "1"}
    return [stored[str(number)] if str(number) in up else None for number in range(len(pages))]


def explain_alone(error: MalformedPage) -> str | None:
    """Why a page is refused that Prometheus reads; None where that would be wrong."""
    text = re.sub(r"\\.", "", str(error))
    return next((what for what, pattern in OURS_ALONE.items() if re.search(pattern, text)), None)


def read_by_us(number: int, text: bytes) -> ScrapedPage | MalformedPage:
    """The page, or the reason for its refusal."""
    try:
        return PageReader(WORKLOADS).read(text, openmetrics=number % 2 == 1, is_whole=True)
    except MalformedPage as error:
        return error


def judge(number: int, text: bytes, stored: Samples | None) -> str:
    """How a page was read by both."""
    page = read_by_us(number, text)
    if isinstance(page, MalformedPage):
        alone = explain_alone(page)
        assert stored is None or alone is not None, (text, page, stored)
        return "refused by both" if stored is None else f"refused by us alone: {alone}"
    if stored is None:
        assert number % 2, text
        assert THEIRS_ALONE.search(text), text
        return "refused by Prometheus alone: exemplars of other series"
    if page.faults:
        return "unusable histogram"
    assert flatten(page) == stored, text
    return "read the same"


@pytest.mark.prometheus
def test_prometheus_reads_the_same_or_refuses_too(tmp_path: Path) -> None:
    """Half of the pages are OpenMetrics, half of each are well formed; no page is read differently from Prometheus."""
    chance = Random(11)
    writers = (write_page, write_open_page)
    pages = [writers[number % 2](chance, faults=number % 4 // 2 * 2).encode() for number in range(PAGES)]
    tally: Counter[str] = Counter()
    for start in range(0, PAGES, BLOCK):
        block = pages[start : start + BLOCK]
        for number, stored in enumerate(read_by_prometheus(block, tmp_path / str(start))):
            tally[judge(number, block[number], stored)] += 1
    print(f"{PAGES} pages beside Prometheus:", dict(tally.most_common()))
    assert tally["read the same"] > PAGES / 3
    assert tally["refused by both"] > PAGES / 10
