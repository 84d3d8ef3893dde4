"""A real echo sidecar inside a test."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from services.exporter.echo_server import EchoServer


@contextmanager
def serving(host: str = "127.0.0.1", node: str = "") -> Iterator[dict[str, int]]:
    """A sidecar in a thread, on an address or, if it is empty, on all; yields its ports."""
    echo, stop = EchoServer(host, 0, 0, node), threading.Event()

    def serve() -> None:
        while not stop.is_set():
            echo.serve_once(0.02)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield echo.ports
    finally:
        stop.set()
        thread.join()
        echo.close()
