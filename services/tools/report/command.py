"""``sluice report``: a stretch of the bus as one page for engineers and for those who run the plant."""

import asyncio
import importlib.metadata
import time
from contextlib import aclosing
from pathlib import Path

import click

from services.bus.bus import Denied
from services.tools.audit.auditor import Audit
from services.tools.common.bus_reader import BusError, Stretch
from services.tools.common.message_source import Source, source_options
from services.tools.common.progress import bar
from services.tools.common.time_options import Moment, clock
from services.tools.report.statistics import Facts

_HALF_A_SECOND = 5 * 10**8


@click.command("report")
@source_options
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The page to write."
)
@click.option("--since", type=Moment(), help="Begin there: 10m (ago), or a time; with all there is without it.")
@click.option("--until", type=Moment(), help="End there.")
@click.option("--domain", "domains", multiple=True, help="Only this domain; may be given again.")
def command(source: Source, output: Path, since: int | None, until: int | None, domains: tuple[str, ...]) -> None:
    """Write a page about a recording FILE, or about a stretch of the bus.

    The page needs no network, suits light and dark screens, and prints.
    Exit code 1: there is no message, or some of the file cannot be read; the page says so, and is about the rest.
    """
    try:
        from services.tools.report import page
    except ImportError as error:
        raise click.ClickException(f"a report needs what pip install 'sluice[report]' brings: {error}") from None
    source.check(domains)
    what = Stretch(since=since, until=until, domains=domains)
    try:
        facts, audit, begin, end = asyncio.run(_gathered(source, what))
    except (BusError, Denied) as error:
        raise click.ClickException(str(error)) from None
    build = importlib.metadata.version("sluice")
    told = page.Told(source.name, f"Made by Sluice {build}, {clock(time.time_ns())[:19]}Z.", begin, end)
    text = page.page(facts, audit.end(), told, [str(problem) for problem in source.problems])
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{output}: {len(text) / 1e6:.1f} MB")
    if not end:
        click.echo("there is no message to report on", err=True)
    source.end(good=bool(end))


async def _gathered(source: Source, what: Stretch) -> tuple[Facts, Audit, int, int]:
    header = source.reader.header if source.reader is not None else None
    facts = Facts(source.domains, header.period if header is not None else _HALF_A_SECOND)
    since = max(what.since or 0, header.since if header is not None else 0)
    whole = not what.domains and not (header is not None and header.only)
    audit = Audit(source.domains, since, whole=whole, kinds=source.kinds)
    begin = end = 0
    with bar(f"reading {source.name}", source.size) as told:
        async with aclosing(source.stored(what)) as lines:
            async for line in lines:
                audit.take(line)
                if line.time < since:
                    continue
                facts.take(line)
                begin, end = begin or line.time, max(end, line.time)
                if source.reader is not None:
                    told(source.reader.offset)
    return facts, audit, begin, end
