"""Watches the configuration file, and offers its domains to the set of definitions when they change.

A ConfigMap that is mounted changes by a symbolic link: the file is then another one behind the same path.  What is
written in place is taken once it has been the same for a round.  A file with a mistake changes nothing.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from schemas.config import Config
from services.definitions.definition_set import DefinitionSet
from services.runtime.config_loader import ConfigError, load

_EVERY_S = 1.0
_ABOUT = "configuration"

_log = structlog.get_logger()

Stamp = tuple[int, ...] | None
"""What distinguishes one state of the file from another; None: it cannot be read."""


class FileSource:
    """The configuration file of a service that runs."""

    def __init__(
        self, path: Path, config: Config, definitions: DefinitionSet, set_note: Callable[[str, str | None], None]
    ) -> None:
        """Prepare; ``run`` does the work.

        Args:
            path: of the file.
            config: as it was read at the start.
            definitions: gets its domains.
            set_note: shows on ``/readyz`` why the file is not taken up.
        """
        self._path = path
        self._config = config
        self._definitions = definitions
        self._set_note = set_note
        self._taken = self._seen = self._stat()

    async def run(self) -> None:
        """Look every second, for ever."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Take the file up if it has changed, and has stayed the same since the last look."""
        stamp = self._stat()
        is_settled, self._seen = stamp == self._seen, stamp
        if not is_settled or stamp == self._taken:
            return
        self._taken = stamp
        try:
            config = await asyncio.to_thread(load, self._path)
        except ConfigError as error:
            _log.error("configuration refused", reason=str(error))
            self._set_note(_ABOUT, f"refused, the one before holds: {error}")
            return
        changed = [
            name
            for name in msgspec.structs.asdict(config)
            if name != "domains" and getattr(config, name) != getattr(self._config, name)
        ]
        self._definitions.replace_file(config.domains)
        _log.info("configuration taken up", domains=len(config.domains), restart_needed_for=changed)
        self._set_note(_ABOUT, f"takes effect at the next start: {', '.join(changed)}" if changed else None)

    def _stat(self) -> Stamp:
        try:
            found = self._path.stat()  # follows links
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
