"""A real exporter for tests: prometheus_client's metrics behind prometheus_client's server."""

import random
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

from services.common.histogram import BOUNDS
from tests.support.ports import free_port

ROBOT = ("factory", "robot-control")
POD = ("factory", "telemetry-upload-7d9f8c6b5-x2x4z")


class LiveExporter:
    """Serves a latency histogram, a loss counter and a byte counter while the context lasts."""

    def __init__(self, bounds: Sequence[float] = BOUNDS, port: int | None = None, host: str = "127.0.0.1") -> None:
        """Serve buckets with these bounds, on this port or a free one."""
        self.port = port or free_port()
        self._host = host
        self._registry = CollectorRegistry()
        flow = ["namespace", "workload"]
        self._latency = Histogram("hubble_flow_latency_seconds", "RTT.", flow, buckets=bounds, registry=self._registry)
        self._lost = Counter("hubble_flow_lost", "Lost.", flow, registry=self._registry)
        self._sent = Counter("container_network_transmit_bytes", "Sent.", ["namespace", "pod"], registry=self._registry)
        self._server: tuple[Any, threading.Thread] | None = None
        self._over = threading.Event()
        self._traffic: threading.Thread | None = None
        self.mean = 0.0005
        """Mean latency of the traffic, seconds."""

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{self.address}/metrics"

    def observe(self, *latencies: float) -> None:
        """Observe round trips of the robot."""
        for latency in latencies:
            self._latency.labels(*ROBOT).observe(latency)

    def lose(self, packets: int) -> None:
        """Count lost packets of the robot."""
        self._lost.labels(*ROBOT).inc(packets)

    def send(self, size: int) -> None:
        """Count bytes sent by the pod."""
        self._sent.labels(*POD).inc(size)

    def traffic(self, hertz: float) -> None:
        """Observe exponentially distributed round trips at a steady rate until the context ends."""

        def run() -> None:
            chance = random.Random(7)
            while not self._over.wait(1 / hertz):
                self.observe(chance.expovariate(1 / self.mean))
                self.send(1000)

        self.lose(0)
        self._traffic = threading.Thread(target=run, daemon=True)
        self._traffic.start()

    def start(self) -> None:
        """Listen; the counters keep their values."""
        self._server = start_http_server(self.port, self._host, registry=self._registry)

    def stop(self) -> None:
        """Close the port; the counters keep their values."""
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
            self._server = None

    def __enter__(self) -> "LiveExporter":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._traffic is not None:
            self._traffic.join()
        self.stop()
