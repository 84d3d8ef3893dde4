"""A real VictoriaMetrics for tests, which scrapes exporters."""

from collections.abc import Sequence
from pathlib import Path

from tests.support.backend import Backend, write_scrape_config
from tests.support.ports import free_port


class VictoriaMetrics(Backend):
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
        (home / "scrape.yml").write_text(write_scrape_config(scrape, interval))

    def __enter__(self) -> "VictoriaMetrics":
        """Start it, and wait until it answers."""
        command = [
            "victoria-metrics",
            f"-storageDataPath={self._home / 'data'}",
            f"-promscrape.config={self._home / 'scrape.yml'}",
            f"-httpListenAddr=127.0.0.1:{self.port}",
            "-memory.allowedBytes=64MB",
            *self._arguments,
        ]
        self._start(command, "/health")
        return self
