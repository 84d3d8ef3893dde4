"""``sluice factory``: the whole pipeline on real packets.

Outermost layer: reads the command line, says what this machine lacks, and runs ``performance.py`` in
namespaces of its own.  Nothing reaches the host's network, and nothing is left when this process ends,
by SIGKILL too.
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
from services.control import POLICIES
from services.plant.commands.factory_runs import KINDS, Kind, Options
from services.plant.harness.orphan_guard import tied
from services.plant.harness.result_file import ResultFile
from services.plant.real.namespaces import child_of, enclose, find_missing
from services.plant.real.plant import TRAFFIC
from services.plant.scenario import SCENARIOS

CANNOT = 2
"""Exit code where the machine lacks something."""
# Temporary files go to memory that only the enclosure sees; the JSON's folder is the host's.
_WITHIN = 'mount -t tmpfs none /run; ip link set lo up; export TMPDIR=/run; exec "$@"'


class Quantity(click.ParamType[int]):
    """A rate such as ``100M``; kbit/s inside."""

    name = "rate"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        try:
            return value if isinstance(value, int) else int(Rate.parse(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Seconds(click.ParamType[float]):
    """A duration such as ``100ms``; seconds inside."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        try:
            return value if isinstance(value, float) else Duration.parse(str(value)).seconds
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.option("--runs", type=click.Choice(KINDS), multiple=True, help="Only these; may be given again.")
@click.option("--policy", type=click.Choice(sorted(POLICIES)), default="learned", show_default=True, help="In control.")
@click.option(
    "--against",
    type=click.Choice(sorted(POLICIES)),
    multiple=True,
    default=("proportional",),
    show_default=True,
    help="Further policies to compare with.",
)
@click.option("--scenario", type=click.Choice(sorted(SCENARIOS)), default="demo", show_default=True, help="To play.")
@click.option("--seconds", type=click.FloatRange(5, 3600), help="Play it in this time instead of its own.")
@click.option("--capacity", type=Quantity(), default="100M", show_default=True, help="Of the bottleneck; scales loads.")
@click.option("--fifo", type=Seconds(), default="100ms", show_default=True, help="Depth of the bottleneck's queue.")
@click.option("--passive", type=int, default=8, show_default=True, help="Seconds with priority bands each; 0: none.")
@click.option("--json", type=ResultFile(), help="Write the result here.")
@click.option("--record", type=ResultFile(), help="Record the bus of the last run here.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Leave logs and files in this folder.")
def command(runs: tuple[Kind, ...], json: Path | None, record: Path | None, keep: Path | None, **asked: object) -> None:
    """Run the whole pipeline on real packets (needs root)."""
    paths = {name: _absolute(path) for name, path in (("json", json), ("record", record), ("keep", keep))}
    options = msgspec.convert({"runs": runs or KINDS, **asked, **paths}, Options)
    if options.record and options.contenders()[-1].policy is None:
        raise click.UsageError("--record: nobody controls these runs, so there is no bus to record")
    programs = (*TRAFFIC, "prometheus") if "prometheus" in options.runs else TRAFFIC
    missing = find_missing(programs)
    if missing:
        click.echo(f"sluice factory cannot run here: it needs {', '.join(missing)}", err=True)
        sys.exit(CANNOT)
    text = msgspec.json.encode(options).decode()
    sys.exit(run_in_namespaces([sys.executable, "-m", "services.plant.commands.factory_runs", text]))


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def run_in_namespaces(command: list[str]) -> int:
    """Run a command in namespaces of its own, with loopback up; gives its exit code.

    SIGINT and SIGTERM are passed on; any other end of this process ends the command too.
    """
    shell = ["sh", "-ec", _WITHIN, "sh", *command]
    # A session of its own: Ctrl-C reaches the command once, through this process.
    process = subprocess.Popen(tied(enclose(shell)), start_new_session=True)

    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(child_of(process.pid) or process.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    return process.wait()
