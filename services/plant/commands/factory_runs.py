"""Plays the runs of ``sluice factory`` inside its namespaces, one after the other, each on a bed of its own.

    python -m services.plant.commands.factory_runs '{"policy": ...}'

``factory.py`` starts it with the options as JSON.  It is the first process of its namespace: when it
ends, the kernel ends everything that it started.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct
from rich.console import Console

from schemas.config import Signal
from services.plant.harness.orchestrator import (
    PipelineOptions,
    RecordingFailed,
    play_scenario,
    run_until_signal,
    start_scraping,
)
from services.plant.harness.pipeline import NotReady, build_prometheus_signal, start_prometheus
from services.plant.harness.processes import ProcessDied, Processes
from services.plant.harness.results import ScenarioResults, build_table
from services.plant.harness.run import ScenarioRun
from services.plant.harness.view import select_view
from services.plant.real import priority_bands
from services.plant.real.plant import RealPlant, parameters
from services.plant.real.testbed import Bed, BedError
from services.plant.scenario import SCENARIOS, Scenario
from services.runtime.exit_codes import ExitCode

Kind = Literal["none", "scrape", "prometheus"]
"""No control; the sampler scrapes; the sampler queries a Prometheus."""
KINDS: tuple[Kind, ...] = get_args(Kind)


class PlannedRun(Struct, frozen=True):
    """A run's policy and signal."""

    policy: str | None
    """None: no control."""
    kind: Kind

    @property
    def title(self) -> str:
        """The run's name in tables and JSON."""
        return "no control" if self.policy is None else f"{self.policy}, {self.kind}"


class FactoryOptions(Struct, frozen=True):
    """The command line's options."""

    runs: tuple[Kind, ...] = KINDS
    policy: str = "learned"
    """The policy under test; it plays with every signal."""
    against: tuple[str, ...] = ("proportional",)
    """Policies to compare it with; they play with the scraped signal."""
    scenario: str = "demo"
    seconds: float | None = None
    """Play the scenario in this time instead of its own."""
    capacity: int = 100_000
    """The bottleneck's, kbit/s; loads scale with it."""
    fifo: float = 0.1
    """Depth of the bottleneck's queue, seconds."""
    passive: int = 8
    """Seconds on each bed with priority bands; 0: none."""
    json: str | None = None
    record: str | None = None
    """Where the last run is recorded."""
    keep: str | None = None
    """The folder in which files and logs stay."""

    def plan_runs(self) -> list[PlannedRun]:
        """List the runs in the order in which they are played."""
        scraping = dict.fromkeys((*self.against, self.policy))
        plan = {
            "none": [PlannedRun(None, "none")],
            "scrape": [PlannedRun(policy, "scrape") for policy in scraping],
            "prometheus": [PlannedRun(self.policy, "prometheus")],
        }
        return [planned for kind in KINDS if kind in self.runs for planned in plan[kind]]

    def build_scenario(self) -> Scenario:
        """Fit the scenario to the bottleneck and to the time."""
        scenario = SCENARIOS[self.scenario].scale(self.capacity / 100_000)
        return scenario if self.seconds is None else scenario.stretch_to(self.seconds)


class FactoryResults(Struct):
    """What was measured so far."""

    runs: list[ScenarioRun]
    rows: list[priority_bands.Row]


async def play_all(options: FactoryOptions, console: Console, results: FactoryResults) -> None:
    """Play what the options ask for, and add to ``results`` meanwhile.

    Raises:
        BedError: a bed cannot be built.
        NotReady: a part did not start in time.
        ProcessDied: a part ended early.
        RecordingFailed: the bus could not be recorded.
    """
    scenario = options.build_scenario()
    plan = options.plan_runs()
    for planned in plan:
        console.rule(planned.title)
        pipeline = PipelineOptions(
            signal=start_prometheus_signal if planned.kind == "prometheus" else start_scraping,
            delay=0.0,
            keep=None if options.keep is None else Path(options.keep) / planned.title.replace(", ", "-"),
            record=Path(options.record) if options.record is not None and planned == plan[-1] else None,
        )
        domain = scenario.domain(planned.policy or options.policy)
        with Bed(parameters(scenario.apps, options.fifo)) as bed, RealPlant(bed, scenario.apps) as plant:
            run = ScenarioRun(planned.title, scenario, domain, plant, controlled=planned.policy is not None)
            with select_view(console, [run]) as view:
                results.runs.append(run)
                view.say("Building the bed, starting the parts ...")
                await play_scenario([run], view, pipeline)
                run.observe()
    for place in priority_bands.PLACES if options.passive else ():
        with console.status(f"priority bands: {place}"):
            results.rows.append(await priority_bands.measure(scenario.apps, options.fifo, place, options.passive))


async def start_prometheus_signal(processes: Processes, page: str) -> Signal:
    """Start a Prometheus that scrapes the page, and have the sampler query it."""
    return build_prometheus_signal(await start_prometheus(processes, page))


def report_results(options: FactoryOptions, console: Console, results: FactoryResults) -> None:
    """Print the results, and write the JSON; it has those of the runs and, under ``passive``, those of priority bands.

    Raises:
        OSError: the JSON cannot be written.
    """
    scenario = options.build_scenario()
    scores = {run.title: run.score() for run in results.runs if run.started is not None}
    scored = ScenarioResults(scenario.name, "real", scenario.seconds, scores)
    if scores:
        console.print(build_table(scored, scenario))
    if results.rows:
        console.print(priority_bands.table(results.rows))
    if options.json is not None:
        tree: dict[str, Any] = scored.as_json() | {"passive": msgspec.to_builtins(results.rows)}
        Path(options.json).write_bytes(msgspec.json.format(msgspec.json.encode(tree), indent=2) + b"\n")


def main() -> None:
    """Play the runs that the JSON on the command line asks for."""
    options = msgspec.json.decode(sys.argv[1], type=FactoryOptions)
    console = Console()
    results = FactoryResults([], [])
    try:
        complete = asyncio.run(run_until_signal(play_all(options, console, results)))
        report_results(options, console, results)
    except (BedError, NotReady, ProcessDied, RecordingFailed, OSError) as error:
        console.print(f"Error: {error}", style="red", highlight=False)
        is_output = isinstance(error, RecordingFailed | OSError) and not isinstance(error, BedError)
        sys.exit(ExitCode.UNREADABLE if is_output else ExitCode.FINDING)
    if not complete:
        console.print("Stopped before the end.")
        sys.exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    main()
