"""Prints the measures of the code base beside their limits: ``python -m tests.codebase``.

``--list`` prints the offenders of each limit by package.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tests.codebase.measures import LIMITS, measure
from tests.codebase.path_trace import trace


@click.command()
@click.option("--list", "with_offenders", is_flag=True, help="Also name what counts, package by package.")
@click.option("--no-trace", is_flag=True, help="Leave out the path from a measurement to its patch (15 s).")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures here, too.")
def main(with_offenders: bool, no_trace: bool, path: Path | None) -> None:
    """Measure whether the code base is easy to read."""
    measures = measure(None if no_trace else asyncio.run(trace()))
    table = Table("measure", "seen", "limit", "count")
    for name, seen in measures.figures().items():
        limit = LIMITS.get(name)
        exceeds = limit is not None and seen > limit
        shown = f"{seen:.1%}" if isinstance(seen, float) else f"{seen:,}"
        bound = "" if limit is None else f"<= {limit:.0%}" if isinstance(limit, float) else f"<= {limit:,}"
        table.add_row(name, f"[bold red]{shown}[/]" if exceeds else shown, bound, measures.counts().get(name, ""))
    Console().print(table)
    if with_offenders:
        for name, offenders in measures.offenders().items():
            _print_offenders(name, offenders)
    if path is not None:
        figures = {"figures": measures.figures(), "limits": LIMITS, "offenders": measures.offenders()}
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _print_offenders(name: str, offenders: Iterable[str]) -> None:
    packages = defaultdict(list)
    for offender in offenders:
        packages["/".join(offender.split("/")[:2]) if offender.startswith("services/") else "schemas"].append(offender)
    click.echo(f"\n{name}")
    for package, ones in sorted(packages.items()):
        click.echo(f"  {package}: {len(ones)}")
        for one in ones:
            click.echo(f"    {one}")


if __name__ == "__main__":
    main()
