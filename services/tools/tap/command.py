"""``sluice tap``: follow the bus, as lines, as JSON, or as a live table."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, suppress
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
from services.tools.tap.keyboard import watch_keys
from services.tools.tap.state import BusStatus
from services.tools.tap.table import build_table
from services.tools.tap.view import LiveView

_COLOURS = {"sample": "cyan", "definition": "yellow", "decision": "magenta", "action": "green", "dead": "red"}
_CURVES_NS = 30 * 10**9
_REFRESH_S = 0.25
_SHORTEST_WAIT_S = 0.002
_LONGEST_PAUSE_S = 10.0
"""A longer gap in a recording is played as one of this length, seconds."""


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
@click.option("--live", is_flag=True, help="Show a live table of all domains; of FILE, play it.  ? shows the keys.")
def command(
    source: MessageSource, since: int | None, no_follow: bool, as_json: bool, live: bool, **filters: tuple[str, ...]
) -> None:
    """Follow the bus, or read a recording FILE.

    Exit code 1: no message was shown of a recording or of what is stored, or some of the file cannot be read.
    """
    chosen = MessageFilter(**filters)
    if live and (as_json or no_follow or chosen.workloads or chosen.outcomes):
        raise click.UsageError("--live shows all messages: without --json, --no-follow, --workload, --outcome")
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
        service.run(
            _show_table(source, scope, printer) if live else _print_messages(source, scope, printer, follow=follow)
        )
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


async def _show_table(source: MessageSource, scope: MessageRange, printer: "_Printer") -> None:
    """Show the live table until its end: of the bus by ``q`` or Ctrl-C, of a recording also after its last message."""
    table = _LiveTable(source)
    async with AsyncExitStack() as stack:
        if source.reader is not None:
            messages = _play(source, scope, table.view)
        else:
            # The curves begin with what is stored of the last moments.
            since = scope.since or time.time_ns() - _CURVES_NS
            scope = replace(scope, since=since, with_past_definitions=True)
            reader = await stack.enter_async_context(connect_reader(source.settings, "reader"))
            table.reader, messages = reader, _follow(reader, scope)
        has_keys = stack.enter_context(watch_keys(table.press))
        refreshing = asyncio.create_task(table.refresh())
        reading = asyncio.create_task(table.take(messages, printer))
        tasks = [refreshing, reading]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and reading.exception() is None and has_keys:
                # The recording is over: its end can be looked at.
                await refreshing
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if reading.done() and not reading.cancelled():
            reading.result()


async def _play(source: MessageSource, scope: MessageRange, view: LiveView) -> AsyncGenerator[RecordedMessage, None]:
    """Give a recording's messages at the pace at which they were stored, times the view's speed."""
    before: int | None = None
    async with aclosing(source.read(scope)) as messages:
        async for message in messages:
            left = 0.0 if before is None else min((message.time - before) / 1e9, _LONGEST_PAUSE_S)
            while left > 0 or view.paused:
                step = min(_REFRESH_S, left / view.speed) if not view.paused else _REFRESH_S
                await asyncio.sleep(step)
                left -= 0 if view.paused else step * view.speed
                if left < _SHORTEST_WAIT_S and not view.paused:
                    break
            before = message.time
            yield message


class _LiveTable:
    """The table on the terminal, and what changes it: messages, keys and time."""

    def __init__(self, source: MessageSource) -> None:
        self._status = BusStatus(source.domains)
        self._console = TerminalConsole()
        self._changed = asyncio.Event()
        self.view = LiveView()
        self.reader: BusReader | None = None

    def press(self, key: str) -> None:
        self.view.press(key, self._status, time.monotonic())
        self._changed.set()

    async def take(self, messages: AsyncGenerator[RecordedMessage, None], printer: "_Printer") -> None:
        """Take messages until there are no more; while the table is paused, those of the bus change nothing."""
        async with aclosing(messages):
            async for recorded in messages:
                printer.printed += 1
                if self.view.paused and self.reader is not None:
                    continue
                # The dead letter that the service makes of an unreadable message is shown instead.
                with suppress(InvalidMessage):
                    self._status.add(recorded.kind, decode_message(recorded), time.monotonic())

    async def refresh(self) -> None:
        """Draw four times a second, and at each key, until ``q``."""
        with Live(console=self._console, screen=self._console.is_terminal, auto_refresh=False) as display:
            while not self.view.quit:
                failure = self.reader.failure if self.reader is not None else None
                table = build_table(self._status, time.monotonic(), self._console.size, failure, self.view)
                display.update(table, refresh=True)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_REFRESH_S):
                        await self._changed.wait()
                self._changed.clear()
