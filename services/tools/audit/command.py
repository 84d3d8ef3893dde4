"""``sluice audit``: is everything that happened on the bus as it must be?"""

import asyncio
from collections import Counter
from contextlib import aclosing

import click
import msgspec
from rich.console import Console

from services.bus.bus import Denied
from services.tools.audit.auditor import Audit, Findings
from services.tools.common.bus_reader import BusError, Stretch
from services.tools.common.message_source import Source, source_options
from services.tools.common.progress import Told, bar
from services.tools.common.time_options import Moment, clock

_MOST = 200


@click.command("audit")
@source_options
@click.option("--since", type=Moment(), help="Begin there: 10m (ago), or a time; with all that is kept without it.")
@click.option("--until", type=Moment(), help="End there.")
@click.option("--domain", "domains", multiple=True, help="Only this domain; may be given again.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(source: Source, since: int | None, until: int | None, domains: tuple[str, ...], as_json: bool) -> None:
    """Check a stretch of the bus, or a recording FILE.

    Every decision is made again from its sample, and every action is traced to its cause.
    Exit code 1: something is not as it must be, nothing is there, or some of the file cannot be read.
    """
    source.check(domains)
    what = Stretch(since=since, until=until, domains=domains)
    try:
        found = asyncio.run(_audited(source, what))
    except (BusError, Denied) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(msgspec.json.encode({"findings": found, "problems": source.problems}))
    else:
        _show(found)
    source.end(good=not found.breaks and not found.empty)


async def _audited(source: Source, what: Stretch) -> Findings:
    since, only = what.since or 0, bool(what.domains)
    if source.reader is not None:
        since, only = max(since, source.reader.header.since), only or bool(source.reader.header.only)
    audit = Audit(source.domains, since, whole=not only, kinds=source.kinds)
    with bar(f"auditing {source.name}", source.size) as told:
        async with aclosing(source.stored(what)) as lines:
            async for line in lines:
                audit.take(line)
                _tell(source, told)
    return audit.end()


def _tell(source: Source, told: Told) -> None:
    if source.reader is not None:
        told(source.reader.offset)


def _show(found: Findings) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for one in found.breaks[:_MOST]:
        when = f"{clock(one.time)}  " if one.time else ""
        console.print(f"[red]{one.rule:<8}[/red]  {when}[bold]{one.where}[/bold]: ", end="")
        console.print(one.what, markup=False)
    if len(found.breaks) > _MOST:
        console.print(f"and {len(found.breaks) - _MOST:,} more; --json has them all")
    for note in found.notes[:_MOST]:
        console.print(note, style="yellow", markup=False)
    told = f"{found.samples:,} samples, {found.decisions:,} decisions, {found.actions:,} actions"
    told += f" ({found.remade:,} decisions made again)"
    if found.empty:
        console.print("there is no message to audit", style="bold red")
        return
    if not found.breaks:
        console.print(f"{told}: all as it must be", style="green")
        return
    counts = ", ".join(f"{rule} {count:,}" for rule, count in Counter(one.rule for one in found.breaks).most_common())
    console.print(f"{told}: {len(found.breaks):,} breaks ({counts})", style="bold red")
