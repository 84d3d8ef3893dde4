"""Many workloads behind gateways that take short addresses only, or no POST: the same figures as from the server."""

import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote_plus

import pytest

from services.sampler.prometheus.source import PrometheusSource
from services.sampler.source import Measurements, NoData
from services.sampler.workloads import Workloads, metric_names
from tests.integration.sampler.test_sources import settings
from tests.support.broken_server import BrokenServer
from tests.support.http_server import serve_requests
from tests.support.prometheus_server import PrometheusServer

EPOCH = 1_795_000_000
NAMES = [f"{'robot-control-of-the-long-line' if n % 3 else 'a.b-c'}-{n // 2:03}" for n in range(120)]
CRITICAL = [f"{'factory' if n % 2 else 'factory-two'}/{name}" for n, name in enumerate(NAMES)]
"""Two namespaces that have some names in common."""
METRIC = "hubble_flow_latency_seconds"


def history() -> str:
    """Every workload's latencies, each at a pace of its own, in OpenMetrics."""
    lines: dict[str, list[str]] = {f"{METRIC}_bucket": [], f"{METRIC}_count": [], f"{METRIC}_sum": []}
    for number, key in enumerate(CRITICAL):
        namespace, _, name = key.partition("/")
        labels = f'namespace="{namespace}",workload="{name}"'
        for second in range(20):
            at, fast, slow = EPOCH + second, (number + 10) * second, (2 * number + 30) * second
            for le, count in (("0.001", fast), ("0.002", slow), ("+Inf", slow)):
                lines[f"{METRIC}_bucket"].append(f'{METRIC}_bucket{{{labels},le="{le}"}} {count} {at}')
            lines[f"{METRIC}_count"].append(f"{METRIC}_count{{{labels}}} {slow} {at}")
            lines[f"{METRIC}_sum"].append(f"{METRIC}_sum{{{labels}}} 1 {at}")
    text = "\n".join(line for kind in lines.values() for line in kind)
    return f"# TYPE {METRIC} histogram\n{text}\n# EOF\n"


class Gateway:
    """A gateway in front of a server, which refuses requests."""

    def __init__(self, behind: str) -> None:
        """Pass everything on."""
        self.behind = behind
        self.longest = 8192
        """Bytes of the longest address that it takes."""
        self.no_post = 0
        """The status of a POST; 0: passed on."""
        self.requests: list[str] = []


@contextmanager
def open_gateway(behind: str) -> Iterator[tuple[Gateway, str]]:
    """A gateway and its address."""
    gateway = Gateway(behind)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            gateway.requests.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = 414, b"too long"
            if self.command == "POST" and gateway.no_post:
                status, answer = gateway.no_post, b"no"
            elif len(self.path) <= gateway.longest:
                url = gateway.behind + self.path
                kind = {"Content-Type": self.headers.get("Content-Type") or ""}
                there = urllib.request.Request(url, body or None, kind, method=self.command)
                with urllib.request.urlopen(there) as passed:
                    status, answer = passed.status, passed.read()
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if status == 200 else "text/plain")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET  # noqa: N815 - the library calls it by this name

    with serve_requests(Handler) as url:
        yield gateway, url


async def measure(url: str, windows: int = 1) -> Measurements:
    """The last of some windows."""
    signal = settings("prometheus", url, timeout_s=120)
    with closing(PrometheusSource(signal, Workloads(metric_names(signal), CRITICAL, ("factory/upload",)))) as source:
        for window in range(windows):
            found = await source.measure((EPOCH + 10 + window) * 10**9)
    return found


@pytest.mark.prometheus
async def test_figures_are_the_same_by_post_and_in_parts(tmp_path: Path) -> None:
    """A hundred and twenty workloads: nothing is counted twice or left out, however a gateway forces to ask."""
    with PrometheusServer(tmp_path, history=history()) as server, open_gateway(server.url) as (gateway, url):
        right = await measure(server.url, 2)
        assert not [key for key, stats in right.latency.items() if stats.missing]
        assert len({stats.observations for stats in right.latency.values()}) == len(CRITICAL)
        for longest, no_post in ((8192, 0), (8192, 403), (8192, 405), (2048, 0), (2048, 403), (1100, 501)):
            gateway.longest, gateway.no_post = longest, no_post
            gateway.requests.clear()
            assert await measure(url, 2) == right, (longest, no_post)
            parts = [one for one in gateway.requests if one.startswith("GET")]
            assert (len(parts) > 20) is bool(no_post)
            # Once it is known that POST is refused, it is not tried again.
            assert sum(one.startswith("POST") for one in gateway.requests) <= (9 if no_post else 24)
        gateway.longest, gateway.no_post = 300, 403
        with pytest.raises(NoData, match=r"403.*too long for GET"):
            await measure(url)


@pytest.mark.parametrize(
    ("longest", "no_post"),
    [(8192, 400), (8192, 404), (4096, 411), (8192, 413), (4096, 415), (2048, 0)],
)
async def test_a_gateway_that_refuses_post_is_asked_in_parts(longest: int, no_post: int) -> None:
    """Whatever its status for POST, and however short its addresses: every workload is asked about."""
    empty = b'{"status":"success","data":{"resultType":"vector","result":[]}}'
    with (
        BrokenServer("body", empty, headers="Content-Type: application/json\r\n") as server,
        open_gateway(server.url) as (gateway, url),
    ):
        gateway.longest, gateway.no_post = longest, no_post
        found = await measure(url)
        assert {stats.missing for stats in found.latency.values()} == {
            "not measured: no series for it is being scraped"
        }
        assert any(one.startswith(b"POST ") for one in server.requests) is (not no_post)
        if no_post:
            asked = unquote_plus(" ".join(gateway.requests)).replace("\\", "")
            assert [name for name in NAMES if name not in asked] == []
