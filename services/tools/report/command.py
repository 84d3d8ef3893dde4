"""``sluice report``: a range of the bus as one page, for engineers and for those who run the plant."""

import importlib.metadata
import time
from pathlib import Path

import click

from services.runtime.exit_codes import ExitCode
from services.runtime.option_types import ResultFile
from services.tools.audit.auditor import Auditor
from services.tools.common.bus_reader import MessageRange
from services.tools.common.message_source import MessageSource, range_options, require_domains, source_options
from services.tools.common.output import CommandError, print_line, print_warning
from services.tools.common.recording import RecordedMessage
from services.tools.common.time_options import format_time, require_order
from services.tools.report.statistics import ReportStatistics

_DEFAULT_PERIOD_NS = 5 * 10**8


@click.command("report")
@source_options
@click.option("-o", "--output", type=ResultFile(), required=True, help="The page to write.")
@range_options
def command(
    source: MessageSource, output: Path, since: int | None, until: int | None, domains: tuple[str, ...]
) -> None:
    """Write a page about a recording FILE, or about a range of the bus.

    The page needs no network, suits light and dark screens, and prints.
    Exit code 1: there is no message, or some of the file cannot be read; the page reports that, and covers the rest.
    """
    try:
        from services.tools.report import page
    except ImportError as error:
        raise CommandError(
            f"a report needs the extra packages of pip install 'sluice[report]': {error}", ExitCode.UNREADABLE
        ) from None
    require_domains(source.domains, domains)
    require_order(since, until)
    scope = MessageRange(since=since, until=until, domains=domains, with_past_definitions=True)
    auditor = Auditor.open(source, scope)
    period = source.reader.header.period if source.reader is not None else _DEFAULT_PERIOD_NS
    statistics = ReportStatistics(source.domains, period, auditor.since)

    def take(message: RecordedMessage) -> None:
        auditor.check(message)
        statistics.add(message)

    source.process(scope, take)
    build = importlib.metadata.version("sluice")
    made = f"Made by Sluice {build}, {format_time(time.time_ns())[:19]}Z."
    heading = page.Heading(source.name, made, statistics.begin, statistics.end)
    problems = [str(problem) for problem in source.problems]
    text = page.render_page(statistics, auditor.finish(), heading, problems)
    try:
        output.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise CommandError(f"{output}: {error.strerror}", ExitCode.UNREADABLE) from None
    print_line(f"{output}: {len(text) / 1e6:.1f} MB")
    if not statistics.end:
        print_warning(source.describe_empty())
    source.exit(ok=bool(statistics.end))
