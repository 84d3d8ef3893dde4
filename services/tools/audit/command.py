"""``sluice audit``: check that everything that happened on the bus keeps the rules."""

from collections import Counter

import click
import msgspec
from rich.text import Text

from services.tools.audit.auditor import Auditor
from services.tools.common.bus_reader import MessageRange
from services.tools.common.message_source import MessageSource, range_options, require_domains, source_options
from services.tools.common.output import TerminalConsole, escape_line, print_json, print_warning
from services.tools.common.time_options import format_time, require_order

_MOST_SHOWN = 200


@click.command("audit")
@source_options
@range_options
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(
    source: MessageSource, since: int | None, until: int | None, domains: tuple[str, ...], as_json: bool
) -> None:
    """Check a range of the bus, or a recording FILE.

    Every decision is made again from its sample, and every action is traced to its cause.
    Exit code 1: a rule is broken, there is no message, or some of the file cannot be read.
    """
    require_domains(source.domains, domains)
    require_order(since, until)
    scope = MessageRange(since=since, until=until, domains=domains, with_past_definitions=True)
    auditor = Auditor.open(source, scope)
    source.process(scope, auditor.check)
    found = auditor.finish()
    ok = not found.breaches and not found.empty
    if found.empty:
        print_warning(source.describe_empty())
    if as_json:
        print_json(msgspec.json.encode({"findings": found, "problems": source.problems}))
        source.exit(ok=ok)
    console = TerminalConsole(soft_wrap=True)
    for one in found.breaches[:_MOST_SHOWN]:
        when = f"{format_time(one.time)}  " if one.time else ""
        where = (escape_line(one.where), "bold")
        console.print(Text.assemble((f"{one.rule:<8}", "red"), f"  {when}", where, f": {escape_line(one.what)}"))
    if len(found.breaches) > _MOST_SHOWN:
        console.print(f"and {len(found.breaches) - _MOST_SHOWN:,} more; --json has them all")
    for note in found.notes[:_MOST_SHOWN]:
        console.print(escape_line(note), style="yellow")
    summary = f"{found.samples:,} samples, {found.decisions:,} decisions, {found.actions:,} actions"
    summary += f" ({found.remade:,} decisions made again)"
    if found.breaches:
        rules = Counter(one.rule for one in found.breaches).most_common()
        counts = ", ".join(f"{rule} {count:,}" for rule, count in rules)
        console.print(f"{summary}: {len(found.breaches):,} breaches ({counts})", style="bold red")
    elif ok:
        console.print(f"{summary}: all rules hold", style="green")
    source.exit(ok=ok)
