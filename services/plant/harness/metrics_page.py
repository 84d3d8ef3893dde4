"""The plants' ``/metrics``: what Hubble's exporter and cAdvisor would publish of these pods.

Second station after the plant: the sampler, or a Prometheus, scrapes it.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from services.plant.interface import BUCKETS, CounterSource, Pod

_LE = (*(repr(bound) for bound in BUCKETS), "+Inf")


class Plant(CounterSource, Protocol):
    """What the page needs of a plant."""

    @property
    def pods(self) -> Sequence[Pod]:
        """The best-effort pods there are."""


class _Counters(Collector):
    """Reads the plants whenever a page is asked for."""

    def __init__(self, plants: Sequence[Plant]) -> None:
        self._plants = plants

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: a plant that is not there yet has no counters."""
        return ()

    def collect(self) -> Iterable[Metric]:
        labels = ["namespace", "workload"]
        latency = HistogramMetricFamily("hubble_flow_latency_seconds", "Round trips at L4.", labels=labels)
        lost = CounterMetricFamily("hubble_flow_lost", "Packets and probes that never arrived.", labels=labels)
        sent = CounterMetricFamily("container_network_transmit_bytes", "Bytes sent.", labels=["namespace", "pod"])
        for plant in self._plants:
            counters = plant.read_counters()
            for workload, histogram in counters.latency.items():
                name = _split(workload)
                latency.add_metric(name, list(zip(_LE, histogram.counts, strict=True)), histogram.sum)
                lost.add_metric(name, histogram.lost)
            namespaces = {pod.name: _split(pod.target)[0] for pod in plant.pods}
            for sender, total in counters.sent.items():
                # A critical workload has one pod here, and is named in full.
                name = [namespaces[sender], sender] if sender in namespaces else _only_pod(sender)
                sent.add_metric(name, total)
        return latency, lost, sent


def _split(workload: str) -> list[str]:
    namespace, _, name = workload.partition("/")
    return [namespace, name]


def _only_pod(workload: str) -> list[str]:
    namespace, name = _split(workload)
    return [namespace, f"{name}-0"]


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Scrapes are no news."""


class MetricsPage:
    """Serves the counters of plants while the context lasts."""

    def __init__(self, plants: Sequence[Plant], host: str = "127.0.0.1", port: int = 0) -> None:
        """Take the plants; their counters are read from other threads.  Port 0 is a free one."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Counters(plants))
        self._page: Any = make_wsgi_app(registry)
        self._host = host
        self._server = make_server(host, port, self._answer, ThreadingWSGIServer, _Silent)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="metrics", daemon=True)
        self.blind = ""
        """Why nothing can be measured; the page then answers with 503 and this text."""

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{self._host}:{self._server.server_port}/metrics"

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if self.blind:
            start("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [self.blind.encode() + b"\n"]
        page: Iterable[bytes] = self._page(environ, start)
        return page

    def __enter__(self) -> "MetricsPage":
        """Serve."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
