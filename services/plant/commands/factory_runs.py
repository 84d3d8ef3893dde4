"""Plays the runs of ``sluice factory`` inside its namespaces, one after the other, each on a bed of its own.

    python -m services.plant.commands.factory_runs '{"policy": ...}'

``factory.py`` starts it with the options as JSON.  It is the first process of its namespace: when it
ends, the kernel ends everything that it started.
"""

import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from rich.console import Console

from schemas.config import Signal
from services.plant.harness.orchestrator import (
    PipelineOptions,
    RecordingFailed,
    play_scenario,
    run_until_signal,
)
from services.plant.harness.pipeline import NotReady, build_prometheus_signal, start_prometheus
from services.plant.harness.processes import ProcessDied, Processes
from services.plant.harness.results import ScenarioResults, build_table
from services.plant.harness.run import ScenarioRun
from services.plant.harness.view import select_view
from services.plant.real import priority_bands
from services.plant.real.cluster_parts import ClusterParts
from services.plant.real.plant import RealPlant, parameters
from services.plant.real.testbed import Bed, BedError
from services.plant.scenario import SCENARIOS, Enforcement, Event, Part, Scenario
from services.plant.score import is_bad
from services.runtime.exit_codes import ExitCode

Kind = Literal["none", "scrape", "no-meter", "prometheus"]
"""No control; the sampler reads exporter and meters; the exporter only; or it asks a Prometheus that reads all."""
KINDS: tuple[Kind, ...] = get_args(Kind)


OUTAGES: dict[Part, float] = {"api": 40.0, "bus": 12.0, "actuator": 30.0}
"""How long each part is away, seconds."""


_OUTAGE_AT = 0.25
"""When an outage begins, as a share of the scenario: the limit still rises then."""
_AFTER_S = 10.0
"""How long the scenario goes on after an outage at least."""


class PlannedRun(Struct, frozen=True):
    """A run's policy and signal, and what is away for a while."""

    policy: str | None
    """None: no control."""
    kind: Kind
    away: Part | None = None

    @property
    def title(self) -> str:
        """The run's name in tables and JSON."""
        controlled = "no control" if self.policy is None else f"{self.policy}, {self.kind}"
        return controlled if self.away is None else f"{controlled}, {self.away} away"


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
    fault: Enforcement | None = None
    """What becomes of limits after half of the time, silently."""
    outage: Part | None = None
    """What is away for a while in the second of two runs."""
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
            "no-meter": [PlannedRun(self.policy, "no-meter")],
            "prometheus": [PlannedRun(self.policy, "prometheus")],
        }
        planned = [one for kind in KINDS if kind in self.runs for one in plan[kind]]
        if self.outage is None:
            return planned
        twice = ([one, replace(one, away=self.outage)] if one.policy is not None else [one] for one in planned)
        return [one for runs in twice for one in runs]

    def why_too_short(self) -> str | None:
        """Why the scenario ends too soon after the outage; None where it does not."""
        if self.outage is None:
            return None
        scenario = self.build_scenario(self.outage)
        least = (OUTAGES[self.outage] + _AFTER_S) / (1 - _OUTAGE_AT)
        if scenario.seconds >= least:
            return None
        return (
            f"--outage {self.outage} needs a scenario of at least {least:.0f} s; this one takes {scenario.seconds:g} s"
        )

    def build_scenario(self, away: Part | None = None) -> Scenario:
        """Fit the scenario to the bottleneck and to the time, and have a part be away for a while."""
        scenario = SCENARIOS[self.scenario].scale(self.capacity / 100_000)
        scenario = scenario if self.seconds is None else scenario.stretch_to(self.seconds)
        disturbed = list(scenario.events)
        if self.fault is not None:
            disturbed.append(Event(at=scenario.seconds / 2, enforcement=self.fault, phase=False))
        if away is not None:
            begin = scenario.seconds * _OUTAGE_AT
            disturbed += [
                Event(at=begin, away=away, phase=False),
                Event(at=begin + OUTAGES[away], away="", phase=False),
            ]
        return replace(scenario, events=tuple(sorted(disturbed, key=lambda one: one.at)))


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
    plan = options.plan_runs()
    for planned in plan:
        console.rule(planned.title)
        scenario = options.build_scenario(planned.away)
        domain = scenario.domain(planned.policy or options.policy)
        pipeline = PipelineOptions(
            delay=0.0,
            keep=None if options.keep is None else Path(options.keep) / planned.title.replace(", ", "-"),
            record=Path(options.record) if options.record is not None and planned == plan[-1] else None,
        )
        with Bed(parameters(scenario.apps, options.fifo)) as bed, RealPlant(bed, scenario.apps) as plant:
            run = ScenarioRun(planned.title, scenario, domain, plant, controlled=planned.policy is not None)
            parts = ClusterParts(bed, domain, meters=planned.kind != "no-meter")
            pipeline = replace(pipeline, signal=partial(start_signal, parts, planned.kind), place=parts.place)
            with select_view(console, [run]) as view:
                results.runs.append(run)
                view.say("Building the bed, starting the parts ...")
                await play_scenario([run], view, pipeline)
                run.observe()
    for place in priority_bands.PLACES if options.passive else ():
        with console.status(f"priority bands: {place}"):
            results.rows.append(await priority_bands.measure(scenario.apps, options.fifo, place, options.passive))


async def start_signal(parts: ClusterParts, kind: Kind, processes: Processes, page: str, api: str) -> Signal:
    """Start exporter and meters; the sampler reads them itself, or asks a Prometheus that does."""
    signal = await parts.start(processes, page, api, Signal())
    if kind != "prometheus":
        return signal
    return build_prometheus_signal(await start_prometheus(processes, (*signal.scrape.urls, *signal.scrape.meters)))


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
    found = {} if options.fault is None else measure_finding(results.runs)
    for title, seconds in found.items():
        when = "never" if seconds is None else f"after {seconds:.1f} s"
        console.print(f"{title}: the limit that is not enforced was found {when}", highlight=False)
    after = {} if options.outage is None else judge_outage(results.runs, options.outage)
    for title, one in after.items():
        console.print(
            f"{title}: {one.bad} of {one.seconds} seconds bad from the outage's begin on, "
            f"{one.bad_after} of them after its end",
            highlight=False,
        )
    if results.rows:
        console.print(priority_bands.table(results.rows))
    if options.json is not None:
        tree: dict[str, Any] = scored.as_json() | {"passive": msgspec.to_builtins(results.rows), "found_s": found}
        tree |= {"outage": msgspec.to_builtins(after)}
        Path(options.json).write_bytes(msgspec.json.format(msgspec.json.encode(tree), indent=2) + b"\n")


def measure_finding(runs: Sequence[ScenarioRun]) -> dict[str, float | None]:
    """Seconds from the fault until a decision named the limit that is not enforced, by run; None: never."""
    found = {}
    for run in runs:
        if run.controlled and run.started is not None:
            began = run.started + round(run.scenario.seconds / 2 * 1e9)
            found[run.title] = None if run.overrun is None else (run.overrun - began) / 1e9
    return found


class OutageCount(Struct, frozen=True):
    """Seconds of one run in which an SLO was broken, from the outage's begin on."""

    seconds: int
    """All that could be judged."""
    bad: int
    bad_after: int
    """Those after the outage's end."""


def judge_outage(runs: Sequence[ScenarioRun], away: Part) -> dict[str, OutageCount]:
    """Count the bad seconds of each controlled run, with and without the outage, over the same time."""
    counts = {}
    for run in runs:
        if not run.controlled or run.started is None:
            continue
        began = run.started + round(run.scenario.seconds * _OUTAGE_AT * 1e9)
        ended = began + round(OUTAGES[away] * 1e9)
        judged = [one for one in run.seconds if one.invalid is None and one.start >= began]
        bad = [one for one in judged if is_bad(one, run.domain)]
        counts[run.title] = OutageCount(len(judged), len(bad), sum(one.start >= ended for one in bad))
    return counts


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
