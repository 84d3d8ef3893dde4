"""``sluice calibrate``: capacity, limits and objectives, proposed from what a recording shows."""

import time

import click
import msgspec
from rich import box
from rich.table import Table

from schemas.units import encode_unit
from services.tools.calibrate.calibration import calibrate
from services.tools.calibrate.guide import wait_for_samples
from services.tools.calibrate.proposal import Proposal
from services.tools.calibrate.readings import Readings
from services.tools.calibrate.snippet import write_snippet
from services.tools.common.bus_reader import MessageRange
from services.tools.common.message_source import MessageSource, range_options, require_domains, source_options
from services.tools.common.output import TerminalConsole, escape_line, print_json, print_line, print_warning
from services.tools.common.time_options import format_time, require_order

_STYLES = {"high": "green", "medium": "yellow", "low": "red", "none": "dim"}


@click.command("calibrate")
@source_options
@range_options
@click.option("--seconds", type=click.IntRange(1, 86_400), help="Listen to the bus from now on, for so long.")
@click.option("--json", "form", flag_value="json", help="Print the proposal as JSON.")
@click.option("--yaml", "form", flag_value="yaml", help="Print it as a part of a configuration file.")
@click.option("--resources", "form", flag_value="resources", help="Print it as resources of the kind BandwidthDomain.")
def command(
    source: MessageSource,
    *,
    since: int | None,
    until: int | None,
    seconds: int | None,
    domains: tuple[str, ...],
    form: str | None,
) -> None:
    """Propose capacity, limits and objectives from a recording FILE, or from the bus.

    Each figure has its confidence and its evidence.  Nothing is applied.
    Exit code 1: nothing can be proposed for a domain, or some of the file cannot be read.
    """
    require_domains(source.domains, domains)
    require_order(since, until)
    if seconds is not None:
        if source.reader is not None or since is not None or until is not None:
            raise click.UsageError("--seconds listens to the bus from now on: without FILE, --since and --until")
        since = time.time_ns()
        until = wait_for_samples(source, since, seconds, domains)
    kinds = ("sample", "definition", "decision")
    scope = MessageRange(kinds, since=since, until=until, domains=domains, with_past_definitions=True)
    readings = Readings(tuple(one for one in source.domains if not domains or one.name in domains))
    source.process(scope, readings.add)
    found = [(one.domain, calibrate(one)) for _, one in sorted(readings.by_name.items())]
    for name in sorted(readings.unknown):
        print_warning(f"domain {name}: its configuration is not known; --config gives it")
    if not any(one.samples for _, one in found):
        print_warning(source.describe_empty())
    if form == "json":
        print_json(msgspec.json.format(msgspec.json.encode([one for _, one in found], enc_hook=encode_unit), indent=2))
    elif form is not None and found:
        print_line(write_snippet(found, as_resources=form == "resources").rstrip("\n"))
    else:
        console = TerminalConsole()
        for _, proposal in found:
            show_proposal(console, proposal)
    # The least limit is kept as it is configured, whatever was recorded.
    is_known = all(any(one.confidence != "none" and one.setting != "min" for one in each.figures) for _, each in found)
    source.exit(ok=bool(found) and is_known and not readings.unknown and not readings.unreadable)


def show_proposal(console: TerminalConsole, proposal: Proposal) -> None:
    """Print a proposal as a table, and the evidence of each figure below it."""
    blind = f", {proposal.blind} of them without data" if proposal.blind else ""
    since = f" from {format_time(proposal.begin)} on" if proposal.samples else ""
    title = f"{escape_line(proposal.domain)}: {proposal.samples} samples in {proposal.seconds:.0f} s{since}{blind}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for column in ("", "setting", "of", "proposed", "now", "confidence"):
        table.add_column(column, no_wrap=column != "of", overflow="fold")
    for number, one in enumerate(proposal.figures, 1):
        now = "-" if one.configured is None else str(one.configured)
        row = (str(number), one.setting, escape_line(one.key), one.describe_value(), now, one.confidence)
        table.add_row(*row, style=_STYLES[one.confidence])
    console.print(table)
    for number, one in enumerate(proposal.figures, 1):
        spans = one.describe_spans()
        seen = f" (seconds {spans})" if spans else ""
        console.print(f"{number:2} {one.setting}: {escape_line(one.why)}{seen}", soft_wrap=True)
    for note in proposal.notes:
        console.print(f"note: {escape_line(note)}", soft_wrap=True)
