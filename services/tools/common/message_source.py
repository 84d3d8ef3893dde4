"""Where a command takes its messages from, a recording or the bus, and the options that say so."""

import asyncio
import importlib.metadata
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import click
from msgspec import structs

from schemas.config import BusConfig
from schemas.domain import Domain, without_templates
from services.bus.bus import Denied
from services.bus.subjects import KINDS, Subjects
from services.runtime import logging_setup
from services.runtime.config_loader import ConfigError, load
from services.runtime.exit_codes import ExitCode
from services.runtime.option_types import ConfigFile
from services.tools.common.bus_reader import BusError, MessageRange, connect_reader
from services.tools.common.output import CommandError, print_warning
from services.tools.common.progress import show_progress
from services.tools.common.recording import (
    InvalidRecording,
    ReadProblem,
    RecordedMessage,
    RecordingReader,
    build_header,
)
from services.tools.common.time_options import TimeParam

_MOST_PROBLEMS = 20


@dataclass
class MessageSource:
    """A recording or a bus, and what is known of its configuration."""

    reader: RecordingReader | None
    settings: BusConfig
    domains: tuple[Domain, ...]
    """Empty without a configuration."""
    problems: list[ReadProblem] = field(default_factory=list)
    """What could not be read of a recording, once it has been read."""
    left_out: Counter[str] = field(default_factory=Counter)
    """By kind, the messages of a recording that the range did not select."""

    @property
    def name(self) -> str:
        """The file, or the servers."""
        return str(self.reader.path) if self.reader is not None else ", ".join(self.settings.servers)

    @property
    def size(self) -> int:
        """Bytes of the recording; 0 for a bus."""
        return self.reader.size if self.reader is not None else 0

    @property
    def kinds(self) -> Sequence[str]:
        """The kinds of message that are kept there."""
        return self.reader.header.kinds if self.reader is not None else KINDS

    def require_workloads(self, workloads: Sequence[str]) -> None:
        """Refuse a workload that no known domain has.

        Raises:
            click.UsageError: it names the ones that there are.
        """
        known = [one.key for domain in self.domains for one in domain.critical]
        known += [one.key for domain in self.domains for one in domain.targets]
        for name in workloads:
            if known and not any(matches_workload(name, key) for key in known):
                raise click.UsageError(f"there is no workload or target {name!r}; there are {', '.join(known)}")

    async def read(self, scope: MessageRange) -> AsyncGenerator[RecordedMessage, None]:
        """Read every message of the range that is stored by now, in the order of the times.

        Raises:
            BusError: the bus does not answer.
        """
        if self.reader is not None:
            for message in self.reader.read_messages():
                if (
                    message.kind in scope.kinds
                    and (scope.until is None or message.time <= scope.until)
                    and scope.selects(message)
                ):
                    yield message
                else:
                    self.left_out[message.kind] += 1
            self.problems = self.reader.problems
            return
        async with connect_reader(self.settings, "reader") as reader, aclosing(reader.read_stored(scope)) as messages:
            async for message in messages:
                yield message

    def process(self, scope: MessageRange, handle: Callable[[RecordedMessage], None]) -> None:
        """Pass every message of the range to ``handle``, as ``read`` does, and show progress.

        Raises:
            CommandError: the bus cannot be read.
        """

        async def run() -> None:
            with show_progress(f"reading {self.name}", self.size) as update:
                async with aclosing(self.read(scope)) as messages:
                    async for message in messages:
                        handle(message)
                        if self.reader is not None:
                            update(self.reader.offset)

        try:
            asyncio.run(run())
        except (BusError, Denied) as error:
            raise CommandError(error, ExitCode.UNAVAILABLE) from None

    def describe_empty(self) -> str:
        """Describe why a reading gave no message."""
        if not self.left_out:
            return f"{self.name}: there is no message"
        counts = ", ".join(f"{self.left_out[kind]:,} {kind}s" for kind in KINDS if self.left_out[kind])
        return f"{self.name}: none of its {counts} is in the range and passes the filters"

    def exit(self, *, ok: bool = True) -> NoReturn:
        """Name what could not be read, and end the command: with FINDING unless all could and all is ``ok``."""
        for problem in self.problems[:_MOST_PROBLEMS]:
            print_warning(f"{self.name}: {problem}")
        if len(self.problems) > _MOST_PROBLEMS:
            print_warning(f"{self.name}: and {len(self.problems) - _MOST_PROBLEMS:,} more places")
        sys.exit(ExitCode.OK if ok and not self.problems else ExitCode.FINDING)


def matches_workload(name: str, key: str) -> bool:
    """Return whether a user's name, with or without namespace and kind, means the workload of this key."""
    return name in (key, key.partition("/")[2], key.rpartition("/")[2])


def require_domains(known: Sequence[Domain], names: Sequence[str]) -> None:
    """Refuse a domain that is not among those that are known, if any are.

    Raises:
        click.UsageError: it names the ones that there are.
    """
    existing = [domain.name for domain in known]
    for name in names:
        # Instances of a definition come and go; the configuration does not name them.
        if existing and name not in existing and "@" not in name:
            raise click.UsageError(f"there is no domain {name!r}; the domains are {', '.join(existing)}")


def range_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --since, --until and --domain, as ``since`` and ``until`` (UTC ns) and ``domains``."""
    for option in (
        click.option("--domain", "domains", multiple=True, help="Only this domain; may be given again."),
        click.option("--until", type=TimeParam(), help="End there."),
        click.option(
            "--since", type=TimeParam(), help="Begin there: 10m (ago), or a time; with all there is without it."
        ),
    ):
        command = option(command)
    return command


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command FILE, --config, --nats and --prefix, and pass what they name as its first argument."""

    @wraps(command)
    def with_source(file: Path | None, path: Path | None, server: str | None, prefix: str | None, **rest: Any) -> Any:
        if file is not None and (server is not None or prefix is not None):
            raise click.UsageError(f"{'--nats' if server is not None else '--prefix'} reads the bus; without FILE")
        logging_setup.configure("reader", "error")
        try:
            config = None if path is None else load(path)
            fallback = None if config is None else build_header(config, "bus", importlib.metadata.version("sluice"), 0)
            reader = None if file is None else RecordingReader(file, fallback)
        except (ConfigError, InvalidRecording) as error:
            raise CommandError(error, ExitCode.UNREADABLE) from None
        settings = build_bus_settings(None if config is None else config.bus, server, prefix)
        known = config if config is not None else reader.header if reader is not None else None
        return command(
            MessageSource(reader, settings, without_templates(known.domains) if known is not None else ()), **rest
        )

    decorated: Callable[..., Any] = with_source
    for option in (
        click.option("--prefix", help="First token of the bus's subjects."),
        click.option("--nats", "server", help="Address of the bus, where it is not in the configuration."),
        click.option("--config", "path", type=ConfigFile(), help="The configuration file."),
        click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)),
    ):
        decorated = option(decorated)
    return decorated


def build_bus_settings(bus: BusConfig | None, server: str | None, prefix: str | None) -> BusConfig:
    """Return the settings of a configuration, or without one of the environment, with what the options override.

    Raises:
        click.UsageError: no address, or no prefix.
    """
    try:
        settings = bus
        if settings is None:
            server = server if server is not None else os.environ.get("SLUICE_NATS_URL") or None
            prefix = prefix if prefix is not None else os.environ.get("SLUICE_BUS_PREFIX")
            settings = BusConfig(user=os.environ.get("SLUICE_NATS_USER"))
        if server is not None:
            settings = structs.replace(settings, servers=tuple(part.strip() for part in server.split(",")))
        if prefix is not None:
            settings = structs.replace(settings, prefix=prefix)
        Subjects(settings.prefix)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return settings
