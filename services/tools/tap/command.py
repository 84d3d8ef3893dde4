"""``sluice tap``: follow the bus, as lines, as JSON, or as a live table."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from schemas.domain import Domain
from schemas.messages import Action, InvalidMessage, Message
from services.bus.bus import Denied
from services.bus.subjects import KINDS
from services.runtime import service
from services.tools.common.bus_reader import BusError, Stretch, Tap, domain_of, opened
from services.tools.common.formatting import read, sentence, short, workloads_of
from services.tools.common.message_source import Source, source_options
from services.tools.common.recording import Line
from services.tools.common.time_options import Moment, clock
from services.tools.tap.state import View
from services.tools.tap.table import table

_COLOURS = {"sample": "cyan", "decision": "magenta", "action": "green", "dead": "red"}
_OUTCOMES = ("applied", "unchanged", "skipped", "failed", "dry-run")
_CURVES_NS = 30 * 10**9
_REFRESH_S = 0.25


@dataclass(frozen=True)
class Filter:
    """Which messages to show; an empty part lets all pass."""

    kinds: tuple[str, ...]
    domains: tuple[str, ...]
    workloads: tuple[str, ...]
    outcomes: tuple[str, ...]

    def passes(self, message: Message | None) -> bool:
        """Whether to show a message; None is one that cannot be read."""
        if self.outcomes and not (isinstance(message, Action) and message.outcome in self.outcomes):
            return False
        named = workloads_of(message) if message is not None else []
        return not self.workloads or any(
            wanted in (key, short(key), key.rpartition("/")[2]) for wanted in self.workloads for key in named
        )


@click.command("tap")
@source_options
@click.option("--domain", "domains", multiple=True, help="Only this domain; may be given again.")
@click.option("--workload", "workloads", multiple=True, help="Only what speaks of this workload or target.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Only this kind of message.")
@click.option("--outcome", "outcomes", multiple=True, type=click.Choice(_OUTCOMES), help="Only actions that ended so.")
@click.option("--since", type=Moment(), help="Begin there: 10m (ago), or a time.  Without it, with what comes.")
@click.option("--no-follow", is_flag=True, help="End with the last message that is stored.")
@click.option("--json", "as_json", is_flag=True, help="Print messages as the lines of a recording.")
@click.option("--live", is_flag=True, help="Show a table of how all domains stand.")
def command(
    source: Source, since: int | None, no_follow: bool, as_json: bool, live: bool, **filters: tuple[str, ...]
) -> None:
    """Follow the bus, or read a recording FILE.

    Exit code 1: some of the file cannot be read.
    """
    source.check(filters["domains"])
    chosen = Filter(**{**filters, "kinds": filters["kinds"] or KINDS})
    if live and (as_json or source.reader is not None):
        raise click.UsageError("--live follows the bus, and is no JSON")
    follow = source.reader is None and not no_follow
    stretch = Stretch(chosen.kinds, since, None, chosen.domains)
    try:
        service.run(_shown(source, stretch) if live else _printed(source, stretch, follow, chosen, as_json))
    except (BusError, Denied) as error:
        raise click.ClickException(str(error)) from None
    source.end()


async def _arriving(tap: Tap, what: Stretch) -> AsyncGenerator[Line, None]:
    """What is stored since then, and after it what comes."""
    after: dict[str, int] = {}
    if what.since is not None:
        async with aclosing(tap.stored(what)) as stored:
            async for line in stored:
                after[line.kind] = line.seq
                yield line
    async with aclosing(tap.followed(what, after)) as coming:
        async for line in coming:
            yield line


async def _printed(source: Source, what: Stretch, follow: bool, chosen: Filter, as_json: bool) -> None:
    show = _Printer(chosen, {domain.name: domain for domain in source.domains}, as_json).show
    if not follow:
        async with aclosing(source.stored(what)) as lines:
            async for line in lines:
                show(line)
        return
    async with opened(source.settings, "reader") as tap, aclosing(_arriving(tap, what)) as lines:
        async for line in lines:
            show(line)


class _Printer:
    def __init__(self, chosen: Filter, domains: dict[str, Domain], as_json: bool) -> None:
        self._chosen = chosen
        self._domains = domains
        self._encoder = msgspec.json.Encoder() if as_json else None
        self._console = Console(soft_wrap=True)

    def show(self, line: Line) -> None:
        """Print one message, if it is wanted; one that cannot be read passes every filter but those of content."""
        try:
            message: Message | None = read(line)
            said = sentence(message, self._domains) if message is not None else ""
        except InvalidMessage as error:
            message, said = None, f"cannot be read: {error}"
        if not self._chosen.passes(message):
            return
        if self._encoder is not None:
            click.echo(self._encoder.encode(line))
            return
        self._console.print(
            Text.assemble(
                (clock(line.time)[11:], "dim"),
                "  ",
                (f"{line.kind:<8}", _COLOURS[line.kind]),
                "  ",
                (f"{domain_of(line):<12}", "bold"),
                "  ",
                said,
            )
        )


async def _shown(source: Source, what: Stretch) -> None:
    view = View(source.domains)
    console = Console()
    # Enough of the past for the curves to begin with.
    what = replace(what, since=what.since or time.time_ns() - _CURVES_NS)
    async with opened(source.settings, "reader") as tap:
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as display:

            async def show() -> None:
                while True:
                    display.update(table(view, time.monotonic(), console.size, tap.trouble), refresh=True)
                    await asyncio.sleep(_REFRESH_S)

            showing = asyncio.create_task(show())
            try:
                async with aclosing(_arriving(tap, what)) as lines:
                    async for line in lines:
                        _note(view, line)
            finally:
                showing.cancel()


def _note(view: View, line: Line) -> None:
    # What cannot be read is shown as the dead letter that its reader makes of it.
    with suppress(InvalidMessage):
        view.take(line.kind, read(line), time.monotonic())
