"""What ``sluice factory`` plays inside its namespaces: one run after the other, each on a bed of its own.

    python -m services.plant.commands.factory_runs '{"policy": ...}'

``main.py`` starts it with the options as JSON.  The first process of its namespace: when it ends,
everything that it started does.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct
from rich.console import Console

from schemas.config import Signal
from services.plant.harness.orchestrator import Staging, by_scraping, perform, until_stopped
from services.plant.harness.pipeline import NotReady, program
from services.plant.harness.processes import ProcessDied, Processes
from services.plant.harness.prometheus import queried, start_prometheus
from services.plant.harness.results_table import Report, table
from services.plant.harness.run import Run
from services.plant.harness.view import view_of
from services.plant.real import priority_bands
from services.plant.real.plant import RealPlant, parameters
from services.plant.real.testbed import Bed, BedError
from services.plant.scenario import SCENARIOS, Scenario

Kind = Literal["none", "scrape", "prometheus"]
"""Nobody controls; the sampler scrapes; the sampler asks a Prometheus."""
KINDS: tuple[Kind, ...] = get_args(Kind)
STOPPED = 130
"""Exit code after SIGINT or SIGTERM."""
FAILED = 1


class Contender(Struct, frozen=True):
    """Who controls a run, and by which signal."""

    policy: str | None
    """None: nobody."""
    kind: Kind

    @property
    def title(self) -> str:
        """Its name in tables and JSON."""
        return "no control" if self.policy is None else f"{self.policy}, {self.kind}"


class Options(Struct, frozen=True):
    """What the command line asks for."""

    runs: tuple[Kind, ...] = KINDS
    policy: str = "learned"
    """The one in question: plays by every signal."""
    against: tuple[str, ...] = ("proportional",)
    """Others to compare it with, by scraping only."""
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
    """Where the bus of the last run is recorded to."""
    keep: str | None = None
    """The folder in which files and logs stay."""

    def contenders(self) -> list[Contender]:
        """Who plays, in this order."""
        scraping = dict.fromkeys((*self.against, self.policy))
        plan = {
            "none": [Contender(None, "none")],
            "scrape": [Contender(policy, "scrape") for policy in scraping],
            "prometheus": [Contender(self.policy, "prometheus")],
        }
        return [contender for kind in KINDS if kind in self.runs for contender in plan[kind]]

    def played(self) -> Scenario:
        """The scenario as it is played."""
        scenario = SCENARIOS[self.scenario].scale(self.capacity / 100_000)
        return scenario if self.seconds is None else scenario.stretch_to(self.seconds)


class Played(Struct):
    """What has been played so far."""

    runs: list[Run]
    rows: list[priority_bands.Row]


class RecordingFailed(RuntimeError):
    """The bus could not be recorded; what was wrong stands on standard error."""


async def play_all(options: Options, console: Console, played: Played) -> None:
    """Play what the options ask for; ``played`` fills as it goes.

    Raises:
        BedError: a bed cannot be built.
        NotReady: a part did not come up.
        ProcessDied: a part ended early.
        RecordingFailed: the bus could not be recorded.
    """
    scenario = options.played()
    for contender in options.contenders():
        console.rule(contender.title)
        with _on_bed(options, scenario, contender) as run, view_of(console, [run]) as view:
            played.runs.append(run)
            view.say("Building the bed, starting the parts ...")
            await perform([run], view, _staging(options, contender))
            run.observe()
    for place in priority_bands.PLACES if options.passive else ():
        with console.status(f"priority bands: {place}"):
            played.rows.append(await priority_bands.measure(scenario.apps, options.fifo, place, options.passive))


@contextmanager
def _on_bed(options: Options, scenario: Scenario, contender: Contender) -> Iterator[Run]:
    with Bed(parameters(scenario.apps, options.fifo)) as bed, RealPlant(bed, scenario.apps) as plant:
        domain = scenario.domain(contender.policy or options.policy)
        yield Run(contender.title, scenario, domain, plant, controlled=contender.policy is not None)


def _staging(options: Options, contender: Contender) -> Staging:
    async def by_prometheus(processes: Processes, page: str) -> Signal:
        return queried(await start_prometheus(processes, page))

    async def record(processes: Processes) -> None:
        config = processes.home / "sluice.yaml"
        command = ("record", "--config", config, "--since", "1h", "--force", "--output", str(options.record))
        recorder = await asyncio.create_subprocess_exec(program("sluice"), *command)
        if await recorder.wait():
            raise RecordingFailed(f"sluice record ended with exit code {recorder.returncode}")

    recorded = options.record is not None and contender.policy is not None and contender == options.contenders()[-1]
    return Staging(
        signal=by_prometheus if contender.kind == "prometheus" else by_scraping,
        delay=0.0,
        keep=None if options.keep is None else Path(options.keep) / contender.title.replace(", ", "-"),
        afterwards=record if recorded else None,
    )


def conclude(options: Options, console: Console, played: Played) -> None:
    """Print and write what was played; the JSON is the report's with one more key, ``passive``.

    Raises:
        OSError: the JSON cannot be written.
    """
    scenario = options.played()
    scores = {run.title: run.score() for run in played.runs if run.started is not None}
    report = Report(scenario.name, "real", scenario.seconds, scores)
    if scores:
        console.print(table(report, scenario))
    if played.rows:
        console.print(priority_bands.table(played.rows))
    if options.json is not None:
        tree: dict[str, Any] = report.as_json() | {"passive": msgspec.to_builtins(played.rows)}
        Path(options.json).write_bytes(msgspec.json.format(msgspec.json.encode(tree), indent=2) + b"\n")


def main() -> None:
    """Play as the JSON on the command line says."""
    options = msgspec.json.decode(sys.argv[1], type=Options)
    console = Console()
    played = Played([], [])
    try:
        complete = asyncio.run(until_stopped(play_all(options, console, played)))
        conclude(options, console, played)
    except (BedError, NotReady, ProcessDied, RecordingFailed, OSError) as error:
        console.print(f"Error: {error}", style="red", highlight=False)
        sys.exit(FAILED)
    if not complete:
        console.print("Stopped before the end.")
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
