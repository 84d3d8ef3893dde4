"""Plays the runs of ``sluice bench factory`` one after the other, each on a testbed of its own.

    python -m services.bench.policies.real_runs '{"cells": [...], ...}'

``real.py`` starts it in namespaces of its own; when this process ends, so does all that it started.  The
JSON is written after every run, so that a run that fails loses nothing of the others.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.status import Status

from schemas.config import Signal
from schemas.units import Duration
from services.bench.goals import goals_table
from services.bench.policies.candidates import CANDIDATES
from services.bench.policies.learned_goals import judge_real
from services.bench.policies.real_cases import REAL_SCENARIOS
from services.bench.policies.results import SUBJECT, UNCONTROLLED, Cell, Outcome, judge, summarize_scenarios
from services.bench.policies.tables import encode_results, scenarios_table
from services.plant.harness.orchestrator import PipelineOptions, play_scenario, run_until_signal
from services.plant.harness.processes import Processes
from services.plant.harness.run import ScenarioRun
from services.plant.real.cluster_parts import ClusterParts
from services.plant.real.plant import RealPlant, parameters
from services.plant.real.testbed import Bed
from services.plant.scenario import Scenario
from services.runtime.exit_codes import ExitCode

BY_NAME = {one.name: one for one in CANDIDATES}
LEARNING = 60.0
"""Learning time of a steady run, seconds; at most half of the run."""
LASTING = {"steady": 120.0, "step": 120.0}
"""How long a scenario is played, seconds, where that is not its own length."""
STEADY = 210.0
"""Length of a steady run of ``learned``, seconds: its probes become rarer, so a shorter run would overcount them."""
ALONE = 20.0
"""Length of a run without control, seconds: it does not change."""
_S = 10**9


class BenchConditions(Struct, frozen=True):
    """Conditions that all runs of a file share."""

    capacity: int = 100_000
    """Of the bottleneck, kbit/s; loads are scaled with it."""
    fifo: float = 0.1
    """Depth of the bottleneck's queue, seconds."""
    seconds: float | None = None
    """Length of every scenario; None: the bench's own."""


class Work(Struct, frozen=True):
    """What to play, and where to write the results."""

    cells: tuple[Cell, ...]
    conditions: BenchConditions
    json: str | None = None
    before: tuple[Outcome, ...] = ()
    """Runs of an earlier call that are summarized with these."""


class EarlierRuns(Struct, frozen=True):
    """The part of the JSON that ``--continue`` reads."""

    conditions: BenchConditions
    runs: tuple[Outcome, ...]


def scenario_of(cell: Cell, conditions: BenchConditions) -> Scenario:
    """The scenario of a cell, with the length and the capacity that the conditions ask for."""
    scenario = REAL_SCENARIOS[cell.scenario].scale(conditions.capacity / 100_000)
    seconds = conditions.seconds or LASTING.get(cell.scenario, scenario.seconds)
    if cell.contender == UNCONTROLLED:
        seconds = min(seconds, ALONE)
    elif cell.contender == SUBJECT and cell.scenario == "steady":
        seconds = conditions.seconds or STEADY
    replace = msgspec.structs.replace
    if not scenario.events:
        learning = 0.0 if cell.contender == UNCONTROLLED else min(LEARNING, seconds / 2)
        return replace(scenario, seconds=seconds, learning=learning)
    return scenario.stretch_to(seconds).shift(cell.seed)


def signal_of(period: float) -> Signal:
    """A scraped signal of this period (seconds), with a window of four periods."""
    every = round(period * _S)
    return Signal(source="scrape", period=Duration(every), window=Duration(4 * every))


class Progress:
    """A ``RunView`` that shows progress in one line."""

    def __init__(self, status: Status, title: str) -> None:
        """Show on ``status`` what ``title`` is doing."""
        self._status = status
        self._title = title

    def __enter__(self) -> "Progress":
        """Nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to clear."""

    def show(self, at: float) -> None:
        """Show how far it is."""
        self._status.update(f"{self._title}: {at:.0f} s")

    def say(self, text: str) -> None:
        """Show what happens."""
        self._status.update(f"{self._title}: {text}")

    def show_page(self, address: str) -> None:
        """Show nothing: these runs have no page."""


async def play(cell: Cell, conditions: BenchConditions, status: Status) -> Outcome:
    """Play one run on a testbed of its own; an error becomes part of the outcome."""
    scenario = scenario_of(cell, conditions)
    contender = BY_NAME.get(cell.contender)
    domain = scenario.domain() if contender is None else scenario.domain(contender.policy, contender.parameters)

    view = Progress(status, cell.title)
    try:
        with Bed(parameters(scenario.apps, conditions.fifo)) as bed, RealPlant(bed, scenario.apps) as plant:
            run = ScenarioRun(cell.contender, scenario, domain, plant, controlled=contender is not None)
            parts = ClusterParts(bed, domain)

            async def start(processes: Processes, page: str, api: str) -> Signal:
                return await parts.start(processes, page, api, signal_of(cell.period))

            await play_scenario([run], view, PipelineOptions(signal=start, place=parts.place, delay=0.0))
            run.observe()
            scores, reactions = (run.score(), run.score(scenario.learning)), run.reactions(scenario.learning)
            outcome = judge(cell, scenario, scores, len(plant.pods), reactions, plant.list_recoveries())
            return msgspec.structs.replace(outcome, overruns=run.overruns)
    except Exception as error:  # noqa: BLE001 - whatever breaks one run, the others are played
        return Outcome(cell, failed=f"{type(error).__name__}: {error}")


def count_false_alarms(outcomes: Sequence[Outcome]) -> tuple[float, int]:
    """How long the runs under control were together, minutes, and how many decisions called a limit not enforced."""
    runs = [one for one in outcomes if one.failed is None and one.cell.contender != UNCONTROLLED]
    parts = [part for one in runs for part in (one.learning, one.steady) if part is not None]
    return sum(part.seconds + part.invalid for part in parts) / 60, sum(one.overruns for one in runs)


async def play_all(work: Work, console: Console, outcomes: list[Outcome]) -> None:
    """Play every cell; ``outcomes`` fills as it goes, and the JSON with it.

    Raises:
        OSError: the JSON cannot be written.
    """
    for number, cell in enumerate(work.cells, 1):
        began = time.monotonic()
        with console.status("") as status:
            one = await play(cell, work.conditions, status)
        outcomes.append(one)
        if work.json is not None:
            lines = summarize_scenarios(outcomes)
            # Replace the file in one step: a partial file could not be continued.
            path = Path(work.json)
            fresh = path.with_name(f".{path.name}.new")
            fresh.write_bytes(encode_results(outcomes, lines, judge_real(lines), work.conditions))
            fresh.replace(path)
        text = f"failed: {one.failed}"
        if (steady := one.steady) is not None:
            text = f"{steady.violation_seconds} of {steady.seconds} s bad, {steady.goodput:.1%}, "
            text += f"{steady.patches:.1f} patches/min, {steady.invalid} s left out"
            text += f", {one.overruns} false alarms" if one.overruns else ""
            text += " - too disturbed to count" if one.is_disturbed else ""
        took = time.monotonic() - began
        console.print(f"{number}/{len(work.cells)}  {cell.title}: {text} ({took:.0f} s)", highlight=False)


def main() -> None:
    """Play the work that the command line gives as JSON, and print the results."""
    work = msgspec.json.decode(sys.argv[1], type=Work)
    console = Console()
    outcomes = list(work.before)
    try:
        complete = asyncio.run(run_until_signal(play_all(work, console, outcomes)))
    except OSError as error:
        console.print(f"Error: {error}", style="red", highlight=False)
        sys.exit(ExitCode.FINDING)
    finally:
        lines = summarize_scenarios(outcomes)
        console.print(scenarios_table(lines))
        goals = judge_real(lines)
        if not lines or any(goal.seen is not None for goal in goals):
            console.print(goals_table(f"Goals of {SUBJECT}", goals))
        minutes, alarms = count_false_alarms(outcomes)
        console.print(f"{minutes:.0f} minutes under limits that were enforced: {alarms} false alarms", highlight=False)
    if not complete:
        console.print("Stopped before the end.")
        sys.exit(ExitCode.INTERRUPTED)
    sys.exit(ExitCode.FINDING if any(one.failed for one in outcomes) else ExitCode.OK)


if __name__ == "__main__":
    main()
