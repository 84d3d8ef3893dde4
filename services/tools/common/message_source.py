"""Where a reader takes its messages from: a recording, or the bus.  The options that say so are the same for all."""

import importlib.metadata
import os
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import click
from msgspec import structs

from schemas.config import BusConfig
from schemas.domain import Domain
from services.bus.subjects import KINDS, Subjects, token
from services.runtime import logging_setup
from services.runtime.config_loader import ConfigError, load
from services.tools.common.bus_reader import Stretch, domain_of, opened
from services.tools.common.recording import Line, NoRecording, Problem, Reader, header_of


@dataclass
class Source:
    """A recording or a bus, and what is known of its configuration."""

    reader: Reader | None
    settings: BusConfig
    domains: tuple[Domain, ...]
    """Empty where no configuration is at hand."""
    problems: list[Problem] = field(default_factory=list)
    """What of a recording could not be read, once it was."""

    @property
    def name(self) -> str:
        """For messages to people."""
        return str(self.reader.path) if self.reader is not None else ", ".join(self.settings.servers)

    @property
    def size(self) -> int:
        """Bytes of the recording; 0 for a bus."""
        return self.reader.size if self.reader is not None else 0

    @property
    def kinds(self) -> Sequence[str]:
        """The kinds of message that are kept there."""
        return self.reader.header.kinds if self.reader is not None else KINDS

    def check(self, domains: Sequence[str]) -> None:
        """Refuse a domain that the configuration, where there is one, does not have.

        Raises:
            click.UsageError: it names the ones that there are.
        """
        check_domains(self.domains, domains)

    def end(self, *, good: bool = True) -> NoReturn:
        """Name what could not be read, and end: with exit code 1 unless all could, and all is ``good``."""
        for problem in self.problems:
            click.echo(f"{self.name}: {problem}", err=True)
        sys.exit(0 if good and not self.problems else 1)

    async def stored(self, what: Stretch) -> AsyncGenerator[Line, None]:
        """Every message of the stretch in the order of the times, up to now.

        Raises:
            BusError: the bus does not answer.
        """
        if self.reader is not None:
            for line in self.reader.lines():
                if _within(line, what):
                    yield line
            self.problems = self.reader.problems
            return
        async with opened(self.settings, "reader") as tap, aclosing(tap.stored(what)) as lines:
            async for line in lines:
                yield line


def check_domains(known: Sequence[Domain], wanted: Sequence[str]) -> None:
    """Refuse a domain that is not among those that are known, if any are.

    Raises:
        click.UsageError: it names the ones that there are.
    """
    names = [domain.name for domain in known]
    for name in wanted:
        if names and name not in names:
            raise click.UsageError(f"there is no domain {name!r}; the domains are {', '.join(names)}")


def _within(line: Line, what: Stretch) -> bool:
    wanted = {token(domain) for domain in what.domains}
    return (
        line.kind in what.kinds
        and (what.since is None or line.time >= what.since)
        and (what.until is None or line.time <= what.until)
        and (not wanted or domain_of(line) in wanted)
    )


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command FILE, --config, --nats and --prefix, and hand it what they name as its first argument."""

    @wraps(command)
    def with_source(file: Path | None, path: Path | None, server: str | None, prefix: str | None, **rest: Any) -> Any:
        return command(source_of(file, path, server, prefix), **rest)

    decorated: Callable[..., Any] = with_source
    for option in (
        click.option("--prefix", help="First token of the bus's subjects."),
        click.option("--nats", "server", help="Address of the bus, where it is not in the configuration."),
        click.option("--config", "path", type=click.Path(path_type=Path), help="The configuration file."),
        click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)),
    ):
        decorated = option(decorated)
    return decorated


def source_of(file: Path | None, path: Path | None, server: str | None, prefix: str | None) -> Source:
    """What the options name: the recording; without one, the bus.

    Raises:
        click.ClickException: the recording or the configuration cannot be read, or an option is wrong.
    """
    logging_setup.configure("reader", "error")
    try:
        config = None if path is None else load(path)
        instead = None if config is None else header_of(config, "bus", importlib.metadata.version("sluice"), 0)
        reader = None if file is None else Reader(file, instead)
    except (ConfigError, NoRecording) as error:
        raise click.ClickException(str(error)) from None
    settings = bus_at(None if config is None else config.bus, server, prefix)
    known = config if config is not None else reader.header if reader is not None else None
    return Source(reader, settings, known.domains if known is not None else ())


def bus_at(bus: BusConfig | None, server: str | None, prefix: str | None) -> BusConfig:
    """The bus of a configuration, or without one of the environment, with what the options name instead.

    Raises:
        click.UsageError: no address, or no prefix.
    """
    try:
        settings = _bus_of(os.environ) if bus is None else bus
        if server is not None:
            settings = structs.replace(settings, servers=tuple(part.strip() for part in server.split(",")))
        if prefix is not None:
            settings = structs.replace(settings, prefix=prefix)
        Subjects(settings.prefix)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return settings


def _bus_of(environment: Mapping[str, str]) -> BusConfig:
    """The bus that the environment names, where there is no configuration."""
    settings = BusConfig(user=environment.get("SLUICE_NATS_USER"))
    if servers := environment.get("SLUICE_NATS_URL"):
        settings = structs.replace(settings, servers=tuple(part.strip() for part in servers.split(",")))
    return structs.replace(settings, prefix=environment.get("SLUICE_BUS_PREFIX", settings.prefix))
