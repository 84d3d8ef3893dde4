"""The sampler's memory at the largest answers of a Prometheus stays below its Pod's limit."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.support.http_server import serve_requests

ARENAS = {"MALLOC_ARENA_MAX": "2"}
"""As the image sets it."""
LIMIT_KIB = 64 * 1024
"""Of the sampler's Pod in the manifests."""
MEASURE = """
import asyncio, sys, time
import services.sampler.main
from schemas.config import Prometheus, Signal
from schemas.units import Duration
from services.sampler.prometheus.source import PrometheusSource
from services.sampler.source import NoData
from services.sampler.workloads import Workloads, metric_names

async def main():
    prometheus = Prometheus(url=sys.argv[1])
    signal = Signal(
        source="prometheus", window=Duration(4 * 10**9), timeout=Duration(60 * 10**9), prometheus=prometheus
    )
    source = PrometheusSource(signal, Workloads(metric_names(signal), ("factory/robot",), ("factory/up",)))
    for _ in range(12):
        try:
            await source.measure(time.time_ns())
        except NoData as error:
            print(error)

asyncio.run(main())
print(open("/proc/self/status").read())
"""


@contextmanager
def large_answers(series: int, *, tells_length: bool) -> Iterator[str]:
    """A server that answers every query with so many series of other workloads; gives the address."""
    metric: dict[str, str] = {"namespace": "factory", "le": "0.001", "peer": "x" * 20}
    result = [{"metric": metric | {"workload": f"w-{at:06}"}, "value": [time.time(), "12.5"]} for at in range(series)]
    body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            if tells_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # the answer is refused
                self.wfile.write(body)

    with serve_requests(Handler) as url:
        yield url


@pytest.mark.parametrize(("series", "tells_length"), [(14_000, True), (33_000, True), (33_000, False)])
def test_large_answers_stay_within_the_limit(series: int, *, tells_length: bool) -> None:
    """Just below the largest that is read, and far above, with and without a length: refused answers are not kept."""
    with large_answers(series, tells_length=tells_length) as url:
        command = [sys.executable, "-c", MEASURE, url]
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), **ARENAS}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert ("larger than" in done.stdout) is (series > 20_000)
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert peak is not None
    print(f"{series} series, length given: {tells_length}: {int(peak[1]) // 1024} MiB")
    assert int(peak[1]) < LIMIT_KIB
