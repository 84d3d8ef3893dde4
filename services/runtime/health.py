"""``/metrics``, ``/healthz`` and ``/readyz`` of one service.

Ready: every condition that the service named holds.  Healthy: the event loop runs.  Both answers contain
the reasons, so that ``kubectl describe pod`` and a browser show what is wrong.
"""

import asyncio
import errno
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import REGISTRY, disable_created_metrics, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

_STUCK_S = 10.0

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
            self._notes[about] = text

    def set_ok(self, condition: str) -> None:
        """The condition holds."""
        self._problems.pop(condition, None)

    def set_failed(self, condition: str, reason: str) -> None:
        """The condition does not hold; ``/readyz`` shows the reason."""
        self._problems[condition] = reason

    def set_condition(self, condition: str, reason: str | None) -> None:
        """The condition holds if ``reason`` is None."""
        if reason is None:
            self._problems.pop(condition, None)
        else:
            self._problems[condition] = reason

    @property
    def problems(self) -> dict[str, str]:
        """Why the service is not ready, by condition."""
        return dict(self._problems)

    @property
    def notes(self) -> dict[str, str]:
        """The current notes, by what they are about."""
        return dict(self._notes)

    def beat(self) -> None:
        """Record that the event loop runs."""
        self._beat = time.monotonic()

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


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Log no probes and scrapes."""


class _DualStackServer(ThreadingWSGIServer):
    """Listens on IPv6, and on IPv4 too where it listens on all addresses."""

    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def _listen(host: str, port: int, app: Callable[..., Any]) -> WSGIServer:
    """Listen; without a host on all addresses, of both families where there are both."""
    if host and ":" not in host:
        return make_server(host, port, app, ThreadingWSGIServer, _QuietHandler)
    try:
        return make_server(host or "::", port, app, _DualStackServer, _QuietHandler)
    except OSError as error:
        if host not in ("", "::") or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        # A kernel without IPv6.
        return make_server("0.0.0.0", port, app, ThreadingWSGIServer, _QuietHandler)  # noqa: S104 - see Listen.host


@asynccontextmanager
async def serve(health: Health, host: str, port: int) -> AsyncIterator[int]:
    """Serve on ``host:port`` (0: a free port; no host: all addresses) while the context lasts; gives the port.

    Raises:
        CannotListen: the port is taken, or the address does not belong to this machine.
    """
    try:
        server = _listen(host, port, _build_application(health))
    except OSError as error:
        raise CannotListen(f"listen: {host}:{port}: {error.strerror}") from error
    loop = asyncio.get_running_loop()
    serving = loop.run_in_executor(None, server.serve_forever, 0.1)
    beating = asyncio.create_task(_beat_every_second(health))
    try:
        yield int(server.server_port)
    finally:
        beating.cancel()
        server.shutdown()
        await serving
        server.server_close()


async def _beat_every_second(health: Health) -> None:
    while True:
        health.beat()
        await asyncio.sleep(1)
