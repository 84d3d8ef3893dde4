"""``/metrics``, ``/healthz`` and ``/readyz`` of one service.

Ready means: every condition that the service named holds.  Healthy means: the event loop turns.
Both answer with the reasons, so that ``kubectl describe pod`` and a browser show what is wrong.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import REGISTRY, disable_created_metrics, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

_STUCK_S = 10.0

disable_created_metrics()  # type: ignore[no-untyped-call]  # a row for each counter that tells only when this process began

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class CannotListen(OSError):
    """The address cannot be listened on; says which, and why."""


class Health:
    """What a service says of itself; written by the event loop, read by the server's threads."""

    def __init__(self, *conditions: str) -> None:
        """Name the conditions that must hold before the service is ready."""
        self._wrong: dict[str, str] = dict.fromkeys(conditions, "not yet")
        self._notes: dict[str, str] = {}
        self._turned = time.monotonic()

    def note(self, about: str, text: str | None) -> None:
        """Something that people should know, and that does not keep the service from being ready; None: no more."""
        if text is None:
            self._notes.pop(about, None)
        else:
            self._notes[about] = text

    @property
    def notes(self) -> dict[str, str]:
        """What people should know, by what it is about."""
        return dict(self._notes)

    def good(self, condition: str) -> None:
        """The condition holds."""
        self._wrong.pop(condition, None)

    def bad(self, condition: str, reason: str) -> None:
        """The condition does not hold; ``reason`` is shown to people."""
        self._wrong[condition] = reason

    def state(self, condition: str, reason: str | None) -> None:
        """The condition holds when there is no reason why not."""
        if reason is None:
            self.good(condition)
        else:
            self.bad(condition, reason)

    @property
    def wrong(self) -> dict[str, str]:
        """What keeps the service from being ready, by condition."""
        return dict(self._wrong)

    def beat(self) -> None:
        """The event loop turned."""
        self._turned = time.monotonic()

    @property
    def stuck(self) -> bool:
        """Whether the event loop has not turned for ten seconds."""
        return time.monotonic() - self._turned > _STUCK_S


def _application(health: Health) -> Callable[[dict[str, Any], StartResponse], Iterable[bytes]]:
    metrics: Any = make_wsgi_app(REGISTRY)

    def answer(environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            page: Iterable[bytes] = metrics(environ, start)
            return page
        if path == "/readyz":
            wrong = health.wrong
            ok, body = not wrong, {"ready": not wrong, "wrong": wrong}
            if health.notes:
                body["notes"] = health.notes
        elif path == "/healthz":
            ok, body = not health.stuck, {"healthy": not health.stuck}
        else:
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"there are /metrics, /healthz and /readyz\n"]
        start("200 OK" if ok else "503 Service Unavailable", [("Content-Type", "application/json")])
        return [json.dumps(body).encode() + b"\n"]

    return answer


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Probes and scrapes are no news."""


@asynccontextmanager
async def serve(health: Health, host: str, port: int) -> AsyncIterator[int]:
    """Answer on ``host:port`` (0: a free port) while the context lasts; gives the port.

    Raises:
        CannotListen: the port is taken, or the address is not this machine's.
    """
    try:
        server = make_server(host, port, _application(health), ThreadingWSGIServer, _Silent)
    except OSError as error:
        raise CannotListen(f"listen: {host}:{port}: {error.strerror}") from error
    loop = asyncio.get_running_loop()
    serving = loop.run_in_executor(None, server.serve_forever, 0.1)
    beating = asyncio.create_task(_beat(health))
    try:
        yield int(server.server_port)
    finally:
        beating.cancel()
        server.shutdown()
        await serving
        server.server_close()


async def _beat(health: Health) -> None:
    while True:
        health.beat()
        await asyncio.sleep(1)
