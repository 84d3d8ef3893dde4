"""``sluice replay``: step through a recording again, in this process or on a bus.

Without options every recorded decision is made again and compared byte for byte.  ``--policy`` and
``--config`` ask what others would have decided, side by side.  No cluster is touched.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import structs
from rich.console import Console

from schemas.domain import Domain
from services.control import POLICIES
from services.operation.config import ConfigError, load
from services.tools.inprocess import again, what_if
from services.tools.progress import reading
from services.tools.recording import NoRecording, Reader
from services.tools.replay_tables import show_again, show_what_if
from services.tools.whatif import NOT_TOLD


@click.command("replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--policy", "policies", multiple=True, type=click.Choice(sorted(POLICIES)), help="Try this policy.")
@click.option("--every-policy", is_flag=True, help="Try every policy there is.")
@click.option(
    "--config",
    "configs",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Try this configuration.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    file: Path, policies: tuple[str, ...], every_policy: bool, configs: tuple[Path, ...], as_json: bool
) -> None:
    """Replay a recording: the same samples give the same decisions.

    Exit code 1: decisions differ from the recorded ones, or some of the file cannot be read.
    """
    console = Console()
    try:
        reader = Reader(file)
        wanted = sorted(POLICIES) if every_policy else list(policies)
        variants = _variants(reader, wanted, configs)
    except (NoRecording, ConfigError) as error:
        raise click.ClickException(str(error)) from None
    good = _what_if(console, reader, variants, as_json) if variants else _again(console, reader, as_json)
    for problem in reader.problems:
        click.echo(f"{file}: {problem}", err=True)
    sys.exit(0 if good and not reader.problems else 1)


def _variants(reader: Reader, policies: Sequence[str], configs: Sequence[Path]) -> dict[str, tuple[Domain, ...]]:
    """The configurations to try, by the name that the table shows."""
    variants = {}
    for name in policies:
        # Parameters belong to the policy that they were written for.
        variants[name] = tuple(
            domain if domain.policy == name else structs.replace(domain, policy=name, parameters={}, shadow=())
            for domain in reader.header.domains
        )
    for path in configs:
        variants[path.name if path.name not in variants else str(path)] = load(path, {}).domains
    return variants


def _again(console: Console, reader: Reader, as_json: bool) -> bool:
    began = time.perf_counter()
    with reading(reader) as progress:
        tallies = again(reader, progress)
    took = time.perf_counter() - began
    if as_json:
        click.echo(msgspec.json.encode({"seconds": took, "domains": tallies, "problems": reader.problems}))
    else:
        show_again(console, tallies, took)
    return all(not tally.different for tally in tallies.values())


def _what_if(console: Console, reader: Reader, variants: dict[str, tuple[Domain, ...]], as_json: bool) -> bool:
    began = time.perf_counter()
    with reading(reader) as progress:
        found = what_if(reader, variants, progress)
    took = time.perf_counter() - began
    if as_json:
        answer: dict[str, Any] = {"seconds": took, "variants": found, "problems": reader.problems, "note": NOT_TOLD}
        click.echo(msgspec.json.encode(answer))
    else:
        show_what_if(console, found)
    return True
