"""A real Prometheus for tests, on prepared history or on live scrapes."""

import json
import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from tests.support.backend import Backend, write_scrape_config
from tests.support.ports import free_port


class PrometheusServer(Backend):
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
        (home / "prometheus.yml").write_text(write_scrape_config(scrape, interval) + jobs)
        if history:
            (home / "history.om").write_text(history)
            command = ["promtool", "tsdb", "create-blocks-from", "openmetrics"]
            subprocess.run([*command, home / "history.om", home / "data"], check=True, capture_output=True)

    @property
    def version(self) -> tuple[int, ...]:
        """Major, minor, patch."""
        with urllib.request.urlopen(f"{self.url}/api/v1/status/buildinfo") as answer:
            text: str = json.load(answer)["data"]["version"]
        return tuple(int(part) for part in re.findall(r"\d+", text)[:3])

    def __enter__(self) -> "PrometheusServer":
        """Start it, and wait until it is ready."""
        command = [
            "prometheus",
            f"--config.file={self._home / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._home / 'data'}",
            f"--web.listen-address={self._host}:{self.port}",
        ]
        self._start(command, "/-/ready")
        return self
