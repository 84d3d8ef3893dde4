"""``sluice export``: a recording, or a range of the bus, as three Parquet files."""

from pathlib import Path

import click

from schemas.messages import InvalidMessage
from services.runtime.exit_codes import ExitCode
from services.runtime.option_types import ResultFile
from services.tools.common.bus_reader import MessageRange
from services.tools.common.formatting import decode_message
from services.tools.common.message_source import MessageSource, range_options, require_domains, source_options
from services.tools.common.output import CommandError, print_line, print_warning
from services.tools.common.recording import RecordedMessage
from services.tools.common.time_options import require_order
from services.tools.export.tables import TABLES


@click.command("export")
@source_options
@click.option(
    "--parquet",
    "output",
    type=ResultFile(),
    required=True,
    help="Write beside this name: run.parquet gives run.samples.parquet, run.decisions.parquet, run.actions.parquet.",
)
@range_options
def command(
    source: MessageSource, output: Path, since: int | None, until: int | None, domains: tuple[str, ...]
) -> None:
    """Write a recording FILE, or a range of the bus, as tables for notebooks.

    Exit code 1: there is no message, or some of the file cannot be read; the tables have the rest.
    """
    try:
        from services.tools.export.parquet import ParquetFile
    except ImportError as error:
        raise CommandError(
            f"an export needs the extra packages of pip install 'sluice[parquet]': {error}", ExitCode.UNREADABLE
        ) from None
    require_domains(source.domains, domains)
    require_order(since, until)
    unreadable = 0
    scope = MessageRange(tuple(TABLES), since=since, until=until, domains=domains)
    try:
        files = {
            kind: ParquetFile(output.with_suffix(f".{table.name}.parquet"), table) for kind, table in TABLES.items()
        }

        def take(message: RecordedMessage) -> None:
            nonlocal unreadable
            try:
                files[message.kind].add(decode_message(message))
            except InvalidMessage as error:
                unreadable += 1
                print_warning(f"{source.name}: {message.kind} {message.seq}: {error}")

        source.process(scope, take)
        for file in files.values():
            file.close()
    except OSError as error:
        raise CommandError(f"{output}: {error.strerror or error}", ExitCode.UNREADABLE) from None
    for kind, file in files.items():
        print_line(f"{output.with_suffix(f'.{TABLES[kind].name}.parquet')}: {file.count:,} rows")
    if not any(file.count for file in files.values()):
        print_warning(source.describe_empty())
    source.exit(ok=any(file.count for file in files.values()) and not unreadable)
