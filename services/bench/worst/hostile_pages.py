"""A server with the largest pages and answers that a sampler reads."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

PAGE_SERIES, OWN_SERIES, ANSWER_SERIES = 58_000, 4_900, 14_000
"""Of other workloads on a metric page, of the configured ones, and in an answer of Prometheus just below 2 MiB."""


@contextmanager
def serve_large() -> Iterator[tuple[str, dict[str, int]]]:
    """Serve ``/metrics`` and Prometheus's queries; gives the address and how often each path was served."""
    page, answer, served = _build_page(), _build_answer(), {"page": 0, "answer": 0}

    class LargeAnswers(BaseHTTPRequestHandler):
        """Writes one of the two bodies, whatever is asked for."""

        def do_GET(self) -> None:
            """Answer."""
            kind, body, content = (
                ("page", page, "text/plain; version=0.0.4")
                if self.path.startswith("/metrics")
                else ("answer", answer, "application/json")
            )
            with suppress(ConnectionError):  # the sampler may refuse the answer
                self.send_response(200)
                self.send_header("Content-Type", content)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            served[kind] += 1

        def do_POST(self) -> None:
            """Answer a long query."""
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), LargeAnswers)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", served
    finally:
        server.shutdown()
        server.server_close()


def _build_page() -> bytes:
    name = "container_network_transmit_bytes_total"
    others = (
        f'{name}{{namespace="other",pod="app-{at}-7d9f8c6b5-x2x4z",interface="eth0"}} {at}' for at in range(PAGE_SERIES)
    )
    own = (
        f'{name}{{namespace="factory",pod="upload-7d9f8c6b5-{at:05}",interface="eth0"}} {at}'
        for at in range(OWN_SERIES)
    )
    return "\n".join((f"# TYPE {name} counter", *others, *own, "")).encode()


def _build_answer() -> bytes:
    metric = {"namespace": "factory", "le": "0.001", "peer": "x" * 20}
    result = [
        {"metric": metric | {"workload": f"w-{at:06}"}, "value": [time.time(), "12.5"]} for at in range(ANSWER_SERIES)
    ]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
