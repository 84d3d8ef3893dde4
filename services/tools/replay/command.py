"""``sluice replay``: step through a recording again, in this process or on a bus.

Without options every recorded decision is made again and compared byte for byte.  ``--policy`` and
``--config`` ask what others would have decided, side by side.  No cluster is touched.
"""

import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import structs
from rich.console import Console

from schemas.config import BusConfig
from schemas.domain import Domain
from services.bus.bus import Denied
from services.control import POLICIES
from services.runtime import logging_setup
from services.runtime.config_loader import ConfigError, load
from services.tools.common.bus_reader import BusError
from services.tools.common.formatting import per_pod
from services.tools.common.message_source import bus_at
from services.tools.common.progress import reading
from services.tools.common.recording import Header, NoRecording, Reader
from services.tools.replay import on_bus
from services.tools.replay.comparison import NOT_TOLD, Figures
from services.tools.replay.decision_process import served
from services.tools.replay.offline import again, what_if
from services.tools.replay.tables import show_again, show_what_if
from services.tools.replay.verifier import Tally


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
@click.option("--nats", "server", help="Replay onto this bus, into a decision service.")
@click.option("--prefix", default="replay", show_default=True, help="With --nats: where that service listens.")
@click.option("--serve", is_flag=True, help="With --nats: start a decision service for it, under a prefix of its own.")
@click.option("--speed", type=click.Choice(["1", "10", "max"]), default="max", help="With --nats: how fast.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    file: Path, policies: tuple[str, ...], every_policy: bool, configs: tuple[Path, ...], as_json: bool, **bus: Any
) -> None:
    """Replay a recording: the same samples give the same decisions.

    Exit code 1: decisions differ from the recorded ones or are missing, there is nothing to compare although
    decisions were recorded, there is no sample, or some of the file cannot be read.
    """
    console = Console()
    try:
        reader = Reader(file)
        wanted = sorted(POLICIES) if every_policy else list(policies)
        variants = variants_of(reader, wanted, configs)
        if bus["server"] is not None:
            if variants:
                raise click.UsageError("--policy and --config replay in this process; without --nats")
            good = _onto_bus(console, reader, as_json, **bus)
        else:
            good = _what_if(console, reader, variants, as_json) if variants else _again(console, reader, as_json)
    except (NoRecording, ConfigError, BusError, Denied) as error:
        raise click.ClickException(str(error)) from None
    for problem in sorted(reader.problems, key=lambda problem: problem.line):
        click.echo(f"{file}: {problem}", err=True)
    sys.exit(0 if good and not reader.problems else 1)


def variants_of(reader: Reader, policies: Sequence[str], configs: Sequence[Path]) -> dict[str, tuple[Domain, ...]]:
    """The configurations to try, by the name that the table shows.

    Raises:
        ConfigError: a configuration cannot be read, or is about none of the recorded domains.
    """
    variants = {}
    for name in policies:
        # Parameters belong to the policy that they were written for.
        variants[name] = tuple(
            domain if domain.policy == name else structs.replace(domain, policy=name, parameters={}, shadow=())
            for domain in reader.header.domains
        )
    for path in configs:
        domains = load(path, {}).domains
        ours, theirs = ({domain.name for domain in some} for some in (domains, reader.header.domains))
        if not ours & theirs:
            told = f"its domains are {', '.join(sorted(ours))}, those of the recording {', '.join(sorted(theirs))}"
            raise ConfigError(f"{path}: {told}")
        variants[path.name if path.name not in variants else str(path)] = domains
    return variants


def _again(console: Console, reader: Reader, as_json: bool) -> bool:
    began = time.perf_counter()
    with reading(reader) as progress:
        tallies = again(reader, progress)
    took = time.perf_counter() - began
    _report(console, reader, tallies, took, as_json, "Replayed under the recorded configuration")
    return _some(tallies) and _sound(reader.header, tallies)


def _onto_bus(
    console: Console, reader: Reader, as_json: bool, server: str, prefix: str, serve: bool, speed: str
) -> bool:
    logging_setup.configure("replay", "error")
    settings = bus_at(BusConfig(user=os.environ.get("SLUICE_NATS_USER")), server, prefix)
    pace = None if speed == "max" else float(speed)

    async def run() -> tuple[dict[str, Tally], float]:
        async with AsyncExitStack() as stack:
            own = await stack.enter_async_context(served(reader.header, settings)) if serve else settings
            began = time.perf_counter()
            return await on_bus.replay(reader, own, pace, told), time.perf_counter() - began

    with reading(reader) as told:
        tallies, took = asyncio.run(run())
    _report(console, reader, tallies, took, as_json, f"Replayed on {server}")
    return _some(tallies) and _sound(reader.header, tallies)


def _sound(header: Header, tallies: Mapping[str, Tally]) -> bool:
    """Whether all that is on record came out the same, and nothing is missing from it."""
    compared = any(one.identical or one.different for one in tallies.values())
    if not compared and "decision" in header.kinds:
        click.echo("there is no decision to compare, though decisions were recorded", err=True)
        return False
    return not any(one.different or one.unanswered or one.missing for one in tallies.values())


def _some(found: Mapping[str, Tally | Figures]) -> bool:
    """Whether there was any sample, in any domain; said, where there was not."""
    some = any(one.samples for one in found.values())
    if not some:
        click.echo("there is no sample to replay", err=True)
    return some


def _report(
    console: Console, reader: Reader, tallies: dict[str, Tally], took: float, as_json: bool, title: str
) -> None:
    if as_json:
        click.echo(msgspec.json.encode({"seconds": took, "domains": tallies, "problems": reader.problems}))
    else:
        show_again(console, title, tallies, took)


def _what_if(console: Console, reader: Reader, variants: dict[str, tuple[Domain, ...]], as_json: bool) -> bool:
    began = time.perf_counter()
    with reading(reader) as progress:
        found = what_if(reader, variants, progress)
    took = time.perf_counter() - began
    if as_json:
        answer: dict[str, Any] = {"seconds": took, "variants": found, "problems": reader.problems, "note": NOT_TOLD}
        click.echo(msgspec.json.encode(answer))
    else:
        show_what_if(console, found, {domain.name for domain in reader.header.domains if per_pod(domain)})
    return _some({name: figures for of in found.values() for name, figures in of.items() if figures.samples})
