"""What ``sluice factory`` plays inside its namespaces: one run after the other, each on a bed of its own.

    python -m services.factory.performance '{"policy": ...}'

``main.py`` starts it with the options as JSON.  The first process of its namespace: when it ends,
everything that it started does.
"""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct
from rich.console import Console

from schemas.config import Signal
from services.factory import passive
from services.factory.bed import Bed, BedError
from services.factory.contest import Run
from services.factory.pipeline import NotReady, program
from services.factory.processes import ProcessDied, Processes
from services.factory.real import RealPlant, parameters
from services.factory.report import Report, table
from services.factory.scenario import SCENARIOS, Scenario
from services.factory.scraper import queried, start_prometheus
from services.factory.stage import Staging, by_scraping, perform, until_stopped
from services.factory.view import view_of

Contender = Literal["none", "scrape", "prometheus"]
"""Nobody controls; the sampler scrapes; the sampler asks a Prometheus."""
CONTENDERS: tuple[Contender, ...] = get_args(Contender)
STOPPED = 130
"""Exit code after SIGINT or SIGTERM."""
FAILED = 1


class RecordingFailed(RuntimeError):
    """The bus could not be recorded; what was wrong stands on standard error."""


class Options(Struct, frozen=True):
    """What the command line asks for."""

    contenders: tuple[Contender, ...] = CONTENDERS
    policy: str = "proportional"
    scenario: str = "demo"
    seconds: float | None = None
    """Play the scenario in this time instead of its own."""
    capacity: int = 100_000
    """Of the bottleneck, kbit/s; loads are scaled with it."""
    fifo: float = 0.1
    """Depth of the bottleneck's queue, seconds."""
    passive: int = 8
    """Seconds on each of the beds with priority bands; 0: none."""
    json: str | None = None
    record: str | None = None
    """Where the bus of the last controlled run is recorded to."""
    keep: str | None = None
    """The folder in which files and logs stay."""

    def played(self) -> Scenario:
        """The scenario as it is played."""
        scenario = SCENARIOS[self.scenario].scaled(self.capacity / 100_000)
        return scenario if self.seconds is None else scenario.lasting(self.seconds)


class Result(Struct, frozen=True):
    """Everything that was played."""

    report: Report
    passive: tuple[passive.Row, ...]

    def write(self, path: Path) -> None:
        """Write the report's JSON with one more key, ``passive``.

        Raises:
            OSError: the file cannot be written.
        """
        tree: dict[str, Any] = self.report.as_json() | {"passive": msgspec.to_builtins(self.passive)}
        path.write_bytes(msgspec.json.format(msgspec.json.encode(tree), indent=2) + b"\n")


def title(contender: Contender, policy: str) -> str:
    """How a run is called in tables and JSON."""
    return "no control" if contender == "none" else f"{policy}, {contender}"


async def play_all(options: Options, console: Console, done: list[Run], rows: list[passive.Row]) -> None:
    """Play what the options ask for; ``done`` and ``rows`` fill as it goes.

    Raises:
        BedError: a bed cannot be built.
        NotReady: a part did not come up.
        ProcessDied: a part ended early.
    """
    scenario = options.played()
    for contender in options.contenders:
        with _on_bed(options, scenario, contender) as run:
            done.append(run)
            console.rule(run.title)
            with view_of(console, [run]) as view:
                view.say("Building the bed, starting the parts ...")
                await perform([run], view, _staging(options, contender))
                run.observe()
    if options.passive:
        for place in passive.PLACES:
            with console.status(f"priority bands: {place}"):
                rows.append(await passive.measure(scenario.apps, options.fifo, place, options.passive))


@contextmanager
def _on_bed(options: Options, scenario: Scenario, contender: Contender) -> Iterator[Run]:
    with Bed(parameters(scenario.apps, options.fifo)) as bed, RealPlant(bed, scenario.apps) as plant:
        domain = scenario.domain(options.policy)
        name = title(contender, options.policy)
        yield Run(name, scenario, domain, plant, controlled=contender != "none")


def _staging(options: Options, contender: Contender) -> Staging:
    async def by_prometheus(processes: Processes, page: str) -> Signal:
        return queried(await start_prometheus(processes, page))

    async def record(processes: Processes) -> None:
        config = processes.home / "sluice.yaml"
        command = ("record", "--config", config, "--since", "1h", "--force", "--output", str(options.record))
        recorder = await asyncio.create_subprocess_exec(program("sluice"), *command)
        if await recorder.wait():
            raise RecordingFailed(f"sluice record ended with exit code {recorder.returncode}")

    last = [one for one in options.contenders if one != "none"][-1:] == [contender]
    return Staging(
        signal=by_prometheus if contender == "prometheus" else by_scraping,
        delay=0.0,
        keep=Path(options.keep) / contender if options.keep else None,
        afterwards=record if options.record and last else None,
    )


def conclude(options: Options, console: Console, runs: Sequence[Run], rows: Sequence[passive.Row]) -> None:
    """Print and write what was played.

    Raises:
        OSError: the JSON cannot be written.
    """
    scenario = options.played()
    scores = {run.title: run.score() for run in runs if run.started is not None}
    report = Report(scenario.name, "real", scenario.seconds, scores)
    if scores:
        console.print(table(report, scenario))
    if rows:
        console.print(passive.table(rows))
    if options.json is not None:
        Result(report, tuple(rows)).write(Path(options.json))


def main() -> None:
    """Play as the JSON on the command line says."""
    options = msgspec.json.decode(sys.argv[1], type=Options)
    console = Console()
    runs: list[Run] = []
    rows: list[passive.Row] = []
    try:
        complete = asyncio.run(until_stopped(play_all(options, console, runs, rows)))
        conclude(options, console, runs, rows)
    except (BedError, NotReady, ProcessDied, RecordingFailed, OSError) as error:
        console.print(f"Error: {error}", style="red", highlight=False)
        sys.exit(FAILED)
    if not complete:
        console.print("Stopped before the end.")
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
