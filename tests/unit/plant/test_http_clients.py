"""The dashboard's readers continue whatever the server does."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

_ENOUGH = 5


class _Slow(HTTPServer):
    """Serves each page later than the reader's pace requires."""

    def __init__(self) -> None:
        self.fetched = 0
        self.enough = threading.Event()
        super().__init__(("127.0.0.1", 0), _Page)


class _Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert isinstance(self.server, _Slow)
        self.server.fetched += 1
        if self.server.fetched >= _ENOUGH:
            self.server.enough.set()
        self.server.enough.wait(0.03)
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"page")

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""


def test_a_server_slower_than_the_pace_still_gets_requests() -> None:
    """A late page is followed by the next one; the reader does not stop."""
    with _Slow() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host, port = server.server_address[:2]
        command = [sys.executable, "-m", "services.plant.real.http_clients", str(host), str(port), "/page", "0.001"]
        with subprocess.Popen(command) as reader:
            try:
                assert server.enough.wait(60), f"{server.fetched} pages were fetched"
                assert reader.poll() is None
            finally:
                reader.kill()
        server.shutdown()
