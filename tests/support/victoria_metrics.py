"""A real VictoriaMetrics for tests, which scrapes exporters."""

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.support.nats_server import Server
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S


class VictoriaMetrics(Server):
    """Debian's victoria-metrics on a free port, as a context."""

    def __init__(self, home: Path, scrape: Sequence[str], interval: str = "1s", arguments: Sequence[str] = ()) -> None:
        """Keep its files below ``home``.

        Args:
            home: a directory of its own.
            scrape: ``host:port`` of exporters.
            interval: between two scrapes.
            arguments: added to its command.
        """
        self.port = free_port()
        self._home, self._arguments = home, arguments
        home.mkdir(parents=True, exist_ok=True)
        targets = ", ".join(f'"{address}"' for address in scrape)
        (home / "scrape.yml").write_text(
            f"global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}\n"
            f"scrape_configs:\n- {{job_name: exporter, static_configs: [{{targets: [{targets}]}}]}}\n"
        )

    @property
    def url(self) -> str:
        """Address for queries."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "VictoriaMetrics":
        """Start it, and wait until it answers."""
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "victoria-metrics",
                    f"-storageDataPath={self._home / 'data'}",
                    f"-promscrape.config={self._home / 'scrape.yml'}",
                    f"-httpListenAddr=127.0.0.1:{self.port}",
                    "-memory.allowedBytes=64MB",
                    *self._arguments,
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health").close()
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError((self._home / "log").read_text()) from None
                time.sleep(0.05)
            else:
                return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
