"""``/metrics``, ``/healthz`` and ``/readyz`` of the meter, over connections that stay open.

The other services' health pages use an event loop and a metrics library, which together would take a third of the
meter's memory, and close each connection after one answer.
"""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

_MOST_CONNECTIONS = 32
"""Each costs a thread; a new one displaces the oldest, so that nobody can hold all of them."""
_SILENT_S = 90.0
"""A connection without a request for so long is closed: longer than Prometheus's scrape interval."""


class PageAnswer(NamedTuple):
    """What is sent."""

    status: int
    content_type: str
    body: bytes


def answer_json(status: int, tree: dict[str, Any]) -> PageAnswer:
    """An answer in JSON."""
    return PageAnswer(status, "application/json", json.dumps(tree).encode() + b"\n")


class PageServer(ThreadingMixIn, HTTPServer):
    """Answers GET requests, each connection in a thread of its own."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, answer: Callable[[str, dict[str, list[str]]], PageAnswer]) -> None:
        """Listen.

        Args:
            host: address; ``::`` is every address of both families.
            port: 0 picks a free one.
            answer: gives the answer to a path and its parameters; called by several threads.

        Raises:
            OSError: the port is taken, or the address does not belong to this machine.
        """
        self.answer = answer
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._open: dict[Any, None] = {}
        self._lock = threading.Lock()
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind, for both families where the address is every one; look no name up, as the base class would."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin with a connection; end the oldest one if there are too many."""
        with self._lock:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > _MOST_CONNECTIONS else None
            if oldest is not None:
                del self._open[oldest]
        if oldest is not None:
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing where a client is gone or silent."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SILENT_S
    disable_nagle_algorithm = True
    wbufsize = -1
    """One packet for head and body."""
    server: PageServer

    def do_GET(self) -> None:
        """Answer, and keep the connection."""
        parts = urlsplit(self.path)
        answer = self.server.answer(parts.path, parse_qs(parts.query))
        self.send_response_only(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Log no probes and scrapes."""
