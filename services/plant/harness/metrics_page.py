"""Serves the plants' ``/metrics``: what Hubble's exporter and cAdvisor would publish of these pods.

The sampler, or a Prometheus, scrapes it.
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
from services.plant.scenario import Event

_LE = (*(repr(bound) for bound in BUCKETS), "+Inf")


class MeasuredPlant(CounterSource, Protocol):
    """A plant whose counters can be published."""

    @property
    def pods(self) -> Sequence[Pod]:
        """The best-effort pods there are."""


class _PlantCollector(Collector):
    """Reads the plants at each scrape."""

    def __init__(self, plants: Sequence[MeasuredPlant], nodes: Sequence[str]) -> None:
        self._plants = plants
        self._nodes = nodes

    def describe(self) -> Iterable[Metric]:
        """Return nothing: a plant's workloads are known at a scrape only."""
        return ()

    def collect(self) -> Iterable[Metric]:
        more = ["node"] if self._nodes else []
        labels = ["namespace", "workload", *more]
        latency = HistogramMetricFamily("hubble_flow_latency_seconds", "Round trips at L4.", labels=labels)
        lost = CounterMetricFamily("hubble_flow_lost", "Packets and probes that never arrived.", labels=labels)
        sent = CounterMetricFamily(
            "container_network_transmit_bytes", "Bytes sent.", labels=["namespace", "pod", *more]
        )
        for number, plant in enumerate(self._plants):
            node = [self._nodes[number]] if self._nodes else []
            counters = plant.read_counters()
            for workload, histogram in counters.latency.items():
                key = [*workload.split("/", 1), *node]
                latency.add_metric(key, list(zip(_LE, histogram.counts, strict=True)), histogram.sum)
                lost.add_metric(key, histogram.lost)
            namespaces = {pod.name: pod.target.partition("/")[0] for pod in plant.pods}
            for sender, total in counters.sent.items():
                # A critical workload has one pod here, and its key is the workload's: namespace/name.
                namespace, _, name = sender.rpartition("/")
                pod = [namespaces[sender], sender] if sender in namespaces else [namespace, f"{name}-0"]
                sent.add_metric([*pod, *node], total)
        return latency, lost, sent


class _UnloggedRequest(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Log nothing: scrapes are frequent."""


class MetricsPage:
    """Serves the plants' counters while the context lasts."""

    def __init__(
        self, plants: Sequence[MeasuredPlant], host: str = "127.0.0.1", port: int = 0, nodes: Sequence[str] = ()
    ) -> None:
        """Prepare; the plants' counters are read from other threads.  Port 0 picks a free one.

        With ``nodes``, each plant is one node of its own, and its series name it.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_PlantCollector(plants, nodes))
        self._page: Any = make_wsgi_app(registry)
        self._host = host
        self._server = make_server(host, port, self, ThreadingWSGIServer, _UnloggedRequest)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="metrics", daemon=True)
        self.blind = ""
        """If not empty, the page answers with status 503 and this reason."""

    async def disturb(self, event: Event) -> None:
        """Fail from now on, or work again, if a scenario's event says so."""
        if event.blind is not None:
            self.blind = event.blind

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://{self._host}:{self._server.server_port}/metrics"

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request, as a WSGI application."""
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
