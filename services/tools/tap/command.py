"""``sluice tap``: follow the bus, as lines, as JSON, or as a live table."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import get_args

import click
import msgspec
from rich.live import Live
from rich.text import Text

from schemas.messages import Action, InvalidMessage, Message, Outcome
from services.bus.bus import Denied
from services.bus.subjects import KINDS
from services.runtime import service
from services.runtime.exit_codes import ExitCode
from services.tools.common.bus_reader import BusError, BusReader, MessageRange, connect_reader, domain_token
from services.tools.common.formatting import decode_message, describe_message, list_workloads
from services.tools.common.message_source import MessageSource, matches_workload, require_domains, source_options
from services.tools.common.output import CommandError, TerminalConsole, escape_line, print_json, print_warning
from services.tools.common.recording import RecordedMessage
from services.tools.common.time_options import TimeParam, format_time, require_order
from services.tools.tap.state import BusStatus
from services.tools.tap.table import build_table

_COLOURS = {"sample": "cyan", "definition": "yellow", "decision": "magenta", "action": "green", "dead": "red"}
_CURVES_NS = 30 * 10**9
_REFRESH_S = 0.25


@dataclass(frozen=True)
class MessageFilter:
    """Which messages to show; an empty part lets all pass."""

    kinds: tuple[str, ...]
    domains: tuple[str, ...]
    workloads: tuple[str, ...]
    outcomes: tuple[str, ...]

    def passes(self, message: Message | None) -> bool:
        """Return whether to show a message; None is one that cannot be read."""
        if self.outcomes and not (isinstance(message, Action) and message.outcome in self.outcomes):
            return False
        named = list_workloads(message) if message is not None else []
        return not self.workloads or any(matches_workload(name, key) for name in self.workloads for key in named)


@click.command("tap")
@source_options
@click.option("--domain", "domains", multiple=True, help="Only this domain; may be given again.")
@click.option("--workload", "workloads", multiple=True, help="Only messages about this workload or target.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Only this kind of message.")
@click.option(
    "--outcome", "outcomes", multiple=True, type=click.Choice(get_args(Outcome)), help="Only actions that ended so."
)
@click.option("--since", type=TimeParam(), help="Begin there: 10m (ago), or a time.  Without it, with what comes.")
@click.option("--no-follow", is_flag=True, help="End with the last message that is stored.")
@click.option("--json", "as_json", is_flag=True, help="Print messages as the lines of a recording.")
@click.option("--live", is_flag=True, help="Show a live table of all domains.")
def command(
    source: MessageSource, since: int | None, no_follow: bool, as_json: bool, live: bool, **filters: tuple[str, ...]
) -> None:
    """Follow the bus, or read a recording FILE.

    Exit code 1: no message was shown of a recording or of what is stored, or some of the file cannot be read.
    """
    chosen = MessageFilter(**filters)
    if live and (as_json or no_follow or source.reader is not None or chosen.workloads or chosen.outcomes):
        raise click.UsageError(
            "--live follows all of the bus: without FILE, --json, --no-follow, --workload, --outcome"
        )
    require_domains(source.domains, chosen.domains)
    source.require_workloads(chosen.workloads)
    if chosen.outcomes and chosen.kinds and "action" not in chosen.kinds:
        raise click.UsageError("--outcome is about actions; --kind leaves them out")
    for kind in chosen.kinds:
        if kind not in source.kinds:
            raise click.UsageError(f"{source.name} was recorded without {kind}s; it has {', '.join(source.kinds)}")
    require_order(since, None)
    follow = source.reader is None and not no_follow
    scope = MessageRange(chosen.kinds or KINDS, since, None, chosen.domains)
    printer = _Printer(source, chosen, as_json=as_json)
    try:
        service.run(_show_table(source, scope) if live else _print_messages(source, scope, printer, follow=follow))
    except (BusError, Denied) as error:
        raise CommandError(error, ExitCode.UNAVAILABLE) from None
    shown = follow or printer.printed > 0
    if not shown:
        print_warning(source.describe_empty())
    source.exit(ok=shown)


async def _print_messages(source: MessageSource, scope: MessageRange, printer: "_Printer", *, follow: bool) -> None:
    if not follow:
        async with aclosing(source.read(scope)) as messages:
            async for recorded in messages:
                printer.print(recorded)
        return
    async with connect_reader(source.settings, "reader") as reader, aclosing(_follow(reader, scope)) as messages:
        async for recorded in messages:
            printer.print(recorded)


async def _follow(reader: BusReader, scope: MessageRange) -> AsyncGenerator[RecordedMessage, None]:
    """Read what is stored since the range begins, and after it what arrives."""
    after: dict[str, int] = {}
    if scope.since is not None:
        async with aclosing(reader.read_stored(scope)) as stored:
            async for recorded in stored:
                after[recorded.kind] = recorded.seq
                yield recorded
    async with aclosing(reader.follow(scope, after)) as arriving:
        async for recorded in arriving:
            yield recorded


class _Printer:
    def __init__(self, source: MessageSource, chosen: MessageFilter, *, as_json: bool) -> None:
        self._source = source
        self._chosen = chosen
        self._domains = {domain.name: domain for domain in source.domains}
        self._encoder = msgspec.json.Encoder() if as_json else None
        self._console = TerminalConsole(soft_wrap=True)
        self.printed = 0

    def print(self, recorded: RecordedMessage) -> None:
        """Print one message, if it passes; one that cannot be read passes every filter but those of content."""
        message: Message | None = None
        try:
            message = decode_message(recorded)
            text = describe_message(message, self._domains)
        except InvalidMessage as error:
            text = f"cannot be read: {error}"
        if not self._chosen.passes(message):
            self._source.left_out[recorded.kind] += 1
            return
        self.printed += 1
        if self._encoder is not None:
            print_json(self._encoder.encode(recorded))
            return
        self._console.print(
            Text.assemble(
                (format_time(recorded.time)[11:], "dim"),
                "  ",
                (f"{recorded.kind:<10}", _COLOURS[recorded.kind]),
                "  ",
                (f"{escape_line(domain_token(recorded)):<12}", "bold"),
                "  ",
                escape_line(text),
            )
        )


async def _show_table(source: MessageSource, scope: MessageRange) -> None:
    status = BusStatus(source.domains)
    console = TerminalConsole()
    # The curves begin with what is stored of the last moments.
    scope = replace(scope, since=scope.since or time.time_ns() - _CURVES_NS)
    async with connect_reader(source.settings, "reader") as reader:
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as display:

            async def refresh() -> None:
                while True:
                    now = time.monotonic()
                    display.update(build_table(status, now, console.size, reader.failure), refresh=True)
                    await asyncio.sleep(_REFRESH_S)

            refreshing = asyncio.create_task(refresh())
            try:
                async with aclosing(_follow(reader, scope)) as messages:
                    async for recorded in messages:
                        # The dead letter that the service makes of an unreadable message is shown instead.
                        with suppress(InvalidMessage):
                            status.add(recorded.kind, decode_message(recorded), time.monotonic())
            finally:
                refreshing.cancel()
