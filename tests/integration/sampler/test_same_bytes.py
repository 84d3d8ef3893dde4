"""A real Prometheus scrapes the same bytes, and reads the same as our parser or refuses them too."""

import json
import os
import re
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import pytest

from schemas.config import Signal
from services.sampler.scrape.parser import MalformedPage, PageReader, ScrapedPage
from services.sampler.workloads import Workloads, metric_names
from tests.support.metric_pages import Samples, flatten, name_sample, write_page
from tests.support.prometheus_server import PrometheusServer
from tests.support.waiting import PATIENCE_S

PAGES = int(os.environ.get("SLUICE_FUZZ_EXAMPLES", "400"))
WORKLOADS = Workloads(metric_names(Signal()), ("factory/robot",), ())
OURS_ALONE = re.compile(
    r"cut off|expected a counter|bucket with the bound|# HELP|# TYPE"
    # A line feed or a quotation mark too many inside a value, a comma too few.
    r"|^[^\"]*(?:\"[^\"]*\"[^\"]*)*\"[^\"]*$"
    r"|\"[ \t]*[a-zA-Z_]+[ \t]*="
)
"""What is refused though Prometheus reads it: it could be mistaken."""


@contextmanager
def pages_served(pages: list[bytes]) -> Iterator[int]:
    """Serve each page below its number; gives the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages[int(self.path.rpartition("/")[2])]
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
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


def read_by_prometheus(pages: list[bytes], home: Path) -> list[Samples | None]:
    """The samples that Prometheus stored of each page; None if it refused the page."""
    with pages_served(pages) as port:
        targets = "".join(
            f'    - {{targets: ["127.0.0.1:{port}"], labels: {{__metrics_path__: /{number}, page: "{number}"}}}}\n'
            for number in range(len(pages))
        )
        job = f"- job_name: pages\n  honor_timestamps: false\n  static_configs:\n{targets}"
        with PrometheusServer(home, interval="10s", jobs=job) as server:
            deadline = time.monotonic() + PATIENCE_S
            while len(scraped := ask(server, 'up{page!=""}')) < len(pages):
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


def read_by_us(text: bytes) -> ScrapedPage | MalformedPage:
    """The page, or the reason for its refusal."""
    try:
        return PageReader(WORKLOADS).read(text)
    except MalformedPage as error:
        return error


@pytest.mark.prometheus
def test_prometheus_reads_the_same_or_refuses_too(tmp_path: Path) -> None:
    """Half of the pages are well formed; no page is read differently from Prometheus."""
    chance = Random(11)
    pages = [write_page(chance, faults=2 * (number % 2)).encode() for number in range(PAGES)]
    tally: Counter[str] = Counter()
    for text, stored in zip(pages, read_by_prometheus(pages, tmp_path), strict=True):
        page = read_by_us(text)
        if isinstance(page, MalformedPage):
            alone = OURS_ALONE.search(str(page).replace(r"\"", ""))
            assert stored is None or alone, (text, page, stored)
            tally["refused by both" if stored is None else "refused by us alone"] += 1
            continue
        assert stored is not None, text
        if page.faults:
            tally["fault of the workload"] += 1
            continue
        assert flatten(page) == stored, text
        tally["read the same"] += 1
    print(dict(tally))
    assert tally["read the same"] > PAGES / 3
    assert tally["refused by both"] > PAGES / 10
