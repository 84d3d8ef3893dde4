"""A metrics backend for tests: a program that scrapes exporters, and answers queries on a port of its own."""

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.support.nats_server import Server
from tests.support.waiting import PATIENCE_S


def write_scrape_config(scrape: Sequence[str], interval: str) -> str:
    """A configuration that scrapes these exporters (``host:port``), as a YAML text that further jobs may follow."""
    targets = ", ".join(f'"{address}"' for address in scrape)
    return (
        f"global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}\n"
        f"scrape_configs:\n- {{job_name: exporter, static_configs: [{{targets: [{targets}]}}]}}\n"
    )


class Backend(Server):
    """A program on ``port`` of this machine; its log is in ``_home``."""

    port: int
    _home: Path

    @property
    def url(self) -> str:
        """Address for queries."""
        return f"http://127.0.0.1:{self.port}"

    def _start(self, command: Sequence[str], path: str) -> None:
        """Start it, and wait until it answers a request of this path."""
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                urllib.request.urlopen(f"{self.url}{path}").close()
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError((self._home / "log").read_text()) from None
                time.sleep(0.05)
            else:
                return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
