"""A real Prometheus for tests, on prepared history or on live scrapes."""

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.support.nats_server import Server
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S


class PrometheusServer(Server):
    """Debian's prometheus on a free port, as a context."""

    def __init__(
        self,
        home: Path,
        history: str = "",
        scrape: tuple[str, ...] = (),
        interval: str = "1s",
        host: str = "127.0.0.1",
        jobs: str = "",
    ) -> None:
        """Keep its files below ``home``.

        Args:
            home: a directory of its own.
            history: samples in the OpenMetrics format, with timestamps.
            scrape: ``host:port`` of exporters.
            interval: between two scrapes.
            host: address to listen on.
            jobs: further scrape configurations, a YAML list.
        """
        self.port = free_port()
        self._host = host
        self._home = home
        home.mkdir(parents=True, exist_ok=True)
        targets = ", ".join(f'"{address}"' for address in scrape)
        (home / "prometheus.yml").write_text(
            f"global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}\n"
            f"scrape_configs:\n- {{job_name: exporter, static_configs: [{{targets: [{targets}]}}]}}\n{jobs}"
        )
        if history:
            (home / "history.om").write_text(history)
            command = ["promtool", "tsdb", "create-blocks-from", "openmetrics"]
            subprocess.run([*command, home / "history.om", home / "data"], check=True, capture_output=True)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address for queries."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def version(self) -> tuple[int, ...]:
        """Major, minor, patch."""
        with urllib.request.urlopen(f"{self.url}/api/v1/status/buildinfo") as answer:
            text: str = json.load(answer)["data"]["version"]
        return tuple(int(part) for part in re.findall(r"\d+", text)[:3])

    def __enter__(self) -> "PrometheusServer":
        """Start it, and wait until it is ready."""
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._home / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._home / 'data'}",
                    f"--web.listen-address={self._host}:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/-/ready").close()
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
