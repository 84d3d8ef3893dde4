"""``sluice replay``: step through a recording again, in this process or on a bus.

Without options every recorded decision is made again and compared byte for byte.  ``--policy`` and
``--config`` compare what others would have decided, side by side.  No cluster is touched.
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

from schemas.config import BusConfig
from schemas.domain import Domain
from services.bus.bus import Denied
from services.control import POLICIES
from services.runtime import logging_setup
from services.runtime.config_loader import ConfigError, load
from services.runtime.exit_codes import ExitCode
from services.runtime.policy_option import PolicyName
from services.tools.common.bus_reader import BusError
from services.tools.common.formatting import per_pod_targets
from services.tools.common.message_source import build_bus_settings
from services.tools.common.output import CommandError, TerminalConsole, print_json, print_warning
from services.tools.common.progress import show_progress
from services.tools.common.recording import InvalidRecording, RecordingReader
from services.tools.replay import on_bus
from services.tools.replay.comparison import CAVEAT, PolicyStatistics, under_policy
from services.tools.replay.decision_process import run_decision_service
from services.tools.replay.offline import compare_policies, verify
from services.tools.replay.tables import show_comparison, show_verification
from services.tools.replay.verifier import ReplayTally

_PREFIX = "replay"


@click.command("replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--policy", "policies", multiple=True, type=PolicyName(), help="Try this policy.")
@click.option("--every-policy", is_flag=True, help="Try every policy there is.")
@click.option(
    "--config",
    "configs",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Try this configuration.",
)
@click.option("--nats", "server", help="Replay onto this bus, into a decision service.")
@click.option("--prefix", help=f"With --nats: where that service listens; {_PREFIX!r} without it.")
@click.option("--serve", is_flag=True, help="With --nats: start a decision service for it, under a prefix of its own.")
@click.option("--speed", type=click.Choice(["1", "10", "max"]), help="With --nats: how fast; max without it.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    file: Path, policies: tuple[str, ...], every_policy: bool, configs: tuple[Path, ...], as_json: bool, **bus: Any
) -> None:
    """Replay a recording: the same samples give the same decisions.

    Exit code 1: decisions differ from the recorded ones or are missing, there is nothing to compare although
    decisions were recorded, there is no sample, or some of the file cannot be read.
    """
    _check_options(trying=bool(policies or every_policy or configs), **bus)
    if every_policy and policies:
        raise click.UsageError("--every-policy tries them all; without --policy")
    console = TerminalConsole()
    try:
        reader = RecordingReader(file)
        variants = build_variants(reader, sorted(POLICIES) if every_policy else policies, configs)
        if variants:
            ok = _compare_policies(console, reader, variants, as_json)
        else:
            ok = _verify(console, reader, as_json, **bus)
    except (InvalidRecording, ConfigError) as error:
        raise CommandError(error, ExitCode.UNREADABLE) from None
    except on_bus.UnsuitablePrefix as error:
        raise click.UsageError(str(error)) from None
    except (BusError, Denied) as error:
        raise CommandError(error, ExitCode.UNAVAILABLE) from None
    for problem in sorted(reader.problems, key=lambda problem: problem.line):
        print_warning(f"{file}: {problem}")
    sys.exit(ExitCode.OK if ok and not reader.problems else ExitCode.FINDING)


def _check_options(*, trying: bool, server: str | None, prefix: str | None, serve: bool, speed: str | None) -> None:
    """Refuse options that would have no effect.

    Raises:
        click.UsageError: the text names them.
    """
    if server is None:
        for name, given in (("--prefix", prefix is not None), ("--serve", serve), ("--speed", speed is not None)):
            if given:
                raise click.UsageError(f"{name} goes with --nats")
    elif trying:
        raise click.UsageError("--policy and --config replay in this process; without --nats")
    elif serve and prefix is not None:
        raise click.UsageError("--serve makes a prefix of its own; without --prefix")


def build_variants(
    reader: RecordingReader, policies: Sequence[str], configs: Sequence[Path]
) -> dict[str, tuple[Domain, ...]]:
    """Build the configurations to try, by the name that the table shows.

    Raises:
        ConfigError: a configuration cannot be read.
        click.UsageError: a configuration has none of the recorded domains.
    """
    variants = {}
    for name in policies:
        variants[name] = tuple(under_policy(domain, name) for domain in reader.header.domains)
    for path in configs:
        domains = load(path, {}).domains
        ours, theirs = ({domain.name for domain in some} for some in (domains, reader.header.domains))
        if not ours & theirs:
            raise click.UsageError(
                f"{path}: its domains are {', '.join(sorted(ours))}, those of the recording {', '.join(sorted(theirs))}"
            )
        variants[path.name if path.name not in variants else str(path)] = domains
    return variants


def _verify(
    console: TerminalConsole,
    reader: RecordingReader,
    as_json: bool,
    server: str | None,
    prefix: str | None,
    serve: bool,
    speed: str | None,
) -> bool:
    """Decide again, in this process or on a bus; return whether all that is on record came out the same."""

    async def replay_on_bus(server: str) -> tuple[dict[str, ReplayTally], float]:
        logging_setup.configure("replay", "error")
        user = BusConfig(user=os.environ.get("SLUICE_NATS_USER"))
        settings = build_bus_settings(user, server, _PREFIX if prefix is None else prefix)
        async with AsyncExitStack() as stack:
            if serve:
                service = run_decision_service(reader.header, settings)
                settings = await stack.enter_async_context(service)
            began = time.perf_counter()
            factor = None if speed in (None, "max") else float(speed)
            return await on_bus.replay(reader, settings, factor, update), time.perf_counter() - began

    with show_progress(f"reading {reader.path.name}", reader.size) as update:
        if server is not None:
            title = f"Replayed on {server}"
            tallies, took = asyncio.run(replay_on_bus(server))
        else:
            title, began = "Replayed under the recorded configuration", time.perf_counter()
            tallies = verify(reader, update)
            took = time.perf_counter() - began
    if as_json:
        print_json(msgspec.json.encode({"seconds": took, "domains": tallies, "problems": reader.problems}))
    else:
        show_verification(console, title, tallies, took)
    if not _has_samples(tallies):
        return False
    compared = any(one.identical or one.different for one in tallies.values())
    if not compared and "decision" in reader.header.kinds:
        print_warning("there is no decision to compare, though decisions were recorded")
        return False
    return not any(one.different or one.unanswered or one.missing for one in tallies.values())


def _compare_policies(
    console: TerminalConsole, reader: RecordingReader, variants: dict[str, tuple[Domain, ...]], as_json: bool
) -> bool:
    began = time.perf_counter()
    with show_progress(f"reading {reader.path.name}", reader.size) as update:
        found = compare_policies(reader, variants, update, [name for name in variants if name in POLICIES])
    took = time.perf_counter() - began
    if as_json:
        answer: dict[str, Any] = {"seconds": took, "variants": found, "problems": reader.problems, "note": CAVEAT}
        print_json(msgspec.json.encode(answer))
    else:
        per_pod = {domain.name for domain in reader.header.domains if per_pod_targets(domain)}
        show_comparison(console, found, per_pod)
    return _has_samples({name: figures for of in found.values() for name, figures in of.items() if figures.samples})


def _has_samples(found: Mapping[str, ReplayTally | PolicyStatistics]) -> bool:
    """Return whether there was any sample in any domain; say so where there was not."""
    some = any(one.samples for one in found.values())
    if not some:
        print_warning("there is no sample to replay")
    return some
