"""``/metrics``, ``/healthz`` and ``/readyz`` of one service.

Ready: every condition that the service named holds.  Healthy: the event loop runs.  Both answers contain
the reasons, so that ``kubectl describe pod`` and a browser show what is wrong.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from socketserver import TCPServer
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import REGISTRY, disable_created_metrics, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from services.common.listening import EVERYWHERE, resolve_host
from services.common.redaction import hide_passwords

_STUCK_S = 10.0
_SILENT_S = 5.0
"""A connection on which nothing moves for this long is closed."""
_MOST_CONNECTIONS = 16
"""Each costs a thread and a descriptor, of which the service's own work must not run out."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # each counter would get a series with nothing but its start time

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class CannotListen(OSError):
    """A health page's address cannot be listened on; the text names it and the cause."""


class Health:
    """The state of a service; written by the event loop, read by the health server's threads."""

    def __init__(self, *conditions: str) -> None:
        """Name the conditions that must hold before the service is ready."""
        self._problems: dict[str, str] = dict.fromkeys(conditions, "not yet")
        self._notes: dict[str, str] = {}
        self._beat = time.monotonic()

    def set_note(self, about: str, text: str | None) -> None:
        """Show a text that does not affect readiness, by what it is about; None removes it."""
        if text is None:
            self._notes.pop(about, None)
        else:
            self._notes[about] = hide_passwords(text)

    def set_ok(self, condition: str) -> None:
        """The condition holds."""
        self._problems.pop(condition, None)

    def set_failed(self, condition: str, reason: str) -> None:
        """The condition does not hold; ``/readyz`` shows the reason, but for passwords in it."""
        self._problems[condition] = hide_passwords(reason)

    def set_condition(self, condition: str, reason: str | None) -> None:
        """The condition holds if ``reason`` is None."""
        if reason is None:
            self._problems.pop(condition, None)
        else:
            self.set_failed(condition, reason)

    @property
    def problems(self) -> dict[str, str]:
        """Why the service is not ready, by condition."""
        return dict(self._problems)

    @property
    def notes(self) -> dict[str, str]:
        """The current notes, by what they are about."""
        return dict(self._notes)

    async def beat(self) -> None:
        """Record every second that the event loop runs, until cancelled."""
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(1)

    @property
    def is_stuck(self) -> bool:
        """Whether the event loop has not run for ten seconds."""
        return time.monotonic() - self._beat > _STUCK_S


def _build_application(health: Health) -> Callable[[dict[str, Any], StartResponse], Iterable[bytes]]:
    metrics: Any = make_wsgi_app(REGISTRY)

    def answer(environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            page: Iterable[bytes] = metrics(environ, start)
            return page
        if path == "/readyz":
            problems = health.problems
            ok, body = not problems, {"ready": not problems, "wrong": problems}
            if notes := health.notes:
                body["notes"] = notes
        elif path == "/healthz":
            ok, body = not health.is_stuck, {"healthy": not health.is_stuck}
        else:
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"there are /metrics, /healthz and /readyz\n"]
        start("200 OK" if ok else "503 Service Unavailable", [("Content-Type", "application/json")])
        return [json.dumps(body).encode() + b"\n"]

    return answer


class _Server(ThreadingWSGIServer):
    """Serves a bounded number of connections; a new one displaces the oldest, so that nobody can hold all of them."""

    request_queue_size = 128

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._open: dict[socket.socket, None] = {}
        super().__init__((host, port), _QuietHandler)

    def server_bind(self) -> None:
        if self.server_address[0] == EVERYWHERE:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # HTTPServer would look its own name up, which takes as long as DNS takes.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        while not self._free.acquire(blocking=False):
            with suppress(OSError, StopIteration, RuntimeError):
                next(iter(self._open)).shutdown(socket.SHUT_RDWR)
            if self._free.acquire(timeout=0.1):
                break
        self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        try:
            super().shutdown_request(request)
        finally:
            if self._open.pop(request, self) is None:
                self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing where a client is gone or silent."""


class _QuietHandler(WSGIRequestHandler):
    timeout = _SILENT_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Log no probes and scrapes."""


@asynccontextmanager
async def serve(health: Health, host: str, port: int) -> AsyncIterator[int]:
    """Serve on ``host:port`` (0: a free port) while the context lasts; gives the port.

    ``::`` is every address of both families, or of IPv4 alone where the kernel has no other.

    Raises:
        CannotListen: the port is taken, or the address does not belong to this machine.
    """
    try:
        server = _Server(resolve_host(host), port)
        server.set_app(_build_application(health))
    except OSError as error:
        raise CannotListen(f"listen: {host}:{port}: {error.strerror}") from error
    loop = asyncio.get_running_loop()
    serving = loop.run_in_executor(None, server.serve_forever, 0.1)
    beating = asyncio.create_task(health.beat())
    try:
        yield int(server.server_port)
    finally:
        beating.cancel()
        server.shutdown()
        await serving
        server.server_close()
