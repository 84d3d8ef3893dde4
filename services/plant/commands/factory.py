"""``sluice factory``: the whole pipeline on real packets.

Reads the command line, names what this machine lacks, and runs ``factory_runs.py`` in namespaces of its
own.  Nothing reaches the host's network, and nothing is left when this process ends, even by SIGKILL.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import click
import msgspec

from schemas.units import Duration, Rate
from services.plant.commands.factory_runs import KINDS, OUTAGES, FactoryOptions, Kind
from services.plant.harness.orphan_guard import tie_command
from services.plant.real.namespaces import child_of, enclose, find_missing
from services.plant.real.plant import TRAFFIC
from services.plant.scenario import SCENARIOS
from services.runtime.exit_codes import ExitCode
from services.runtime.option_types import FiniteRange, ResultFile, ResultFolder
from services.runtime.policy_option import PolicyName

# Temporary files go to a tmpfs that only these namespaces see; the JSON is written to the host's folder.
_WITHIN = 'mount -t tmpfs none /run; ip link set lo up; export TMPDIR=/run; exec "$@"'


class RateParam(click.ParamType[int]):
    """The type of an option that is a rate such as ``100M``; gives kbit/s."""

    name = "rate"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the text."""
        try:
            return value if isinstance(value, int) else int(Rate.parse(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class SecondsParam(click.ParamType[float]):
    """The type of an option that is a duration such as ``100ms``; gives seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the text."""
        try:
            return value if isinstance(value, float) else Duration.parse(str(value)).seconds
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.option(
    "--fault",
    type=click.Choice(("stuck", "off")),
    help="What becomes of limits after half of the time.",
)
@click.option(
    "--outage",
    type=click.Choice(tuple(OUTAGES)),
    help="Play each run again with this part away for a while: "
    f"{', '.join(f'{part} {seconds:g} s' for part, seconds in OUTAGES.items())}.",
)
@click.option("--runs", type=click.Choice(KINDS), multiple=True, help="Play only this kind; may be given again.")
@click.option("--policy", type=PolicyName(), default="learned", show_default=True, help="In control.")
@click.option(
    "--against",
    type=PolicyName(),
    multiple=True,
    default=("proportional",),
    show_default=True,
    help="Further policies to compare with.",
)
@click.option(
    "--scenario", type=click.Choice(sorted(SCENARIOS)), default="demo", show_default=True, help="What to play."
)
@click.option("--seconds", type=FiniteRange(5, 3600), help="Play the scenario in this time instead of its own.")
@click.option("--capacity", type=RateParam(), default="100M", show_default=True, help="Bottleneck rate; scales loads.")
@click.option("--fifo", type=SecondsParam(), default="100ms", show_default=True, help="Bottleneck queue depth.")
@click.option(
    "--passive", type=click.IntRange(0), default=8, show_default=True, help="Seconds on each bed with priority bands."
)
@click.option("--json", type=ResultFile(), help="Write the results here, as JSON.")
@click.option("--record", type=ResultFile(), help="Record the bus of the last run here.")
@click.option("--keep", type=ResultFolder(), help="Leave logs and files in this folder.")
def command(runs: tuple[Kind, ...], json: Path | None, record: Path | None, keep: Path | None, **asked: object) -> None:
    """Run the whole pipeline on real packets (needs root).

    Exit code 1: a part did not start, or ended early.
    """
    if json is not None and json == record:
        raise click.UsageError("--json and --record: one file cannot hold both")
    given = {"json": json, "record": record, "keep": keep}
    paths = {name: str(path.absolute()) for name, path in given.items() if path is not None}
    options = msgspec.convert({"runs": runs or KINDS, **asked, **paths}, FactoryOptions)
    if options.record and options.plan_runs()[-1].policy is None:
        raise click.UsageError("--record needs a run under a policy; none of these runs has one")
    if (reason := options.why_too_short()) is not None:
        raise click.UsageError(reason)
    programs = (*TRAFFIC, "prometheus") if "prometheus" in options.runs else TRAFFIC
    missing = find_missing(programs)
    if missing:
        click.echo(f"sluice factory cannot run here: it needs {', '.join(missing)}", err=True)
        sys.exit(ExitCode.USAGE)
    text = msgspec.json.encode(options).decode()
    sys.exit(run_in_namespaces([sys.executable, "-m", "services.plant.commands.factory_runs", text]))


def run_in_namespaces(command: list[str]) -> int:
    """Run a command in namespaces of its own, with loopback up; return its exit code.

    SIGINT and SIGTERM are passed on; when this process ends otherwise, the command ends too.
    """
    shell = ["sh", "-ec", _WITHIN, "sh", *command]
    # In a session of its own: Ctrl-C reaches the command once, through this process.
    process = subprocess.Popen(tie_command(enclose(shell)), start_new_session=True)

    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(child_of(process.pid) or process.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    return process.wait()
