"""Plays the runs of ``sluice bench factory`` one after the other, each on a bed of its own.

    python -m services.bench.policies.real_runs '{"cells": [...], ...}'

``factory.py`` starts it in namespaces of its own; when this process ends, all that it started does.  The
JSON is written after every run, so that whatever happens to one loses nothing of the others.
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
from services.bench.policies.candidates import CONTENDERS
from services.bench.policies.real_results import NOBODY, SUBJECT, Cell, Outcome, Part, goals, summed_up
from services.bench.policies.real_tables import goals_table, table
from services.plant.harness.orchestrator import Staging, perform, until_stopped
from services.plant.harness.pipeline import scraping
from services.plant.harness.processes import Processes
from services.plant.harness.run import Run
from services.plant.interface import Second
from services.plant.real.plant import RealPlant, parameters
from services.plant.real.testbed import Bed
from services.plant.scenario import SCENARIOS, Scenario
from services.plant.score import Score

BY_NAME = {one.name: one for one in CONTENDERS}
STOPPED = 130
"""Exit code after SIGINT or SIGTERM."""
FAILED = 1
LEARNING = 60.0
"""Seconds of a steady run that are not held against a policy; half of a run that is shorter than twice that."""
LASTING = {"steady": 120.0, "step": 120.0}
"""Seconds that a scenario is played in, where that is not its own time."""
STEADY = 210.0
"""Of a steady run of ``learned``: it probes ever more rarely, and a minute is too short to say how often."""
ALONE = 20.0
"""Seconds of a run that nobody controls: it is the same all along."""
_S = 10**9


class Conditions(Struct, frozen=True):
    """What all runs of a file share."""

    capacity: int = 100_000
    """Of the bottleneck, kbit/s; loads are scaled with it."""
    fifo: float = 0.1
    """Depth of the bottleneck's queue, seconds."""
    seconds: float | None = None
    """Play every scenario in this time; None: in the bench's own."""


class Work(Struct, frozen=True):
    """What to play, and where the figures go."""

    cells: tuple[Cell, ...]
    conditions: Conditions
    json: str | None = None
    before: tuple[Outcome, ...] = ()
    """Runs of an earlier call that are summed up with these."""


class File(Struct, frozen=True):
    """What is read of the JSON: enough to go on from it."""

    conditions: Conditions
    runs: tuple[Outcome, ...]


def played(cell: Cell, conditions: Conditions) -> Scenario:
    """The scenario as a cell plays it."""
    scenario = SCENARIOS[cell.scenario].scale(conditions.capacity / 100_000)
    seconds = conditions.seconds or LASTING.get(cell.scenario, scenario.seconds)
    if cell.contender == NOBODY:
        seconds = min(seconds, ALONE)
    elif cell.contender == SUBJECT and cell.scenario == "steady":
        seconds = conditions.seconds or STEADY
    replace = msgspec.structs.replace
    if not scenario.events:
        learning = 0.0 if cell.contender == NOBODY else min(LEARNING, seconds / 2)
        return replace(scenario, seconds=seconds, learning=learning)
    return scenario.stretch_to(seconds).shift(cell.seed)


def signal_of(period: float) -> Signal:
    """The scraped signal of this period, seconds, over four periods."""
    every = round(period * _S)
    return Signal(source="scrape", period=Duration(every), window=Duration(4 * every))


class Progress:
    """A ``View`` of one line: the bench's figures come at the end of each run."""

    def __init__(self, status: Status, title: str) -> None:
        """Show on ``status`` what ``title`` is doing."""
        self._status = status
        self._title = title

    def __enter__(self) -> "Progress":
        """Nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to clear."""

    def show(self, at: float, fresh: Sequence[Sequence[Second]]) -> None:
        """Show how far it is."""
        self._status.update(f"{self._title}: {at:.0f} s")

    def say(self, text: str) -> None:
        """Show what happens."""
        self._status.update(f"{self._title}: {text}")


async def play(cell: Cell, conditions: Conditions, status: Status) -> Outcome:
    """Play one run on a bed of its own; what goes wrong in it becomes a part of its outcome."""
    scenario = played(cell, conditions)
    contender = BY_NAME.get(cell.contender)
    domain = scenario.domain() if contender is None else scenario.domain(contender.policy, contender.parameters)

    async def signal(_: Processes, page: str) -> Signal:
        return scraping([page], signal_of(cell.period))

    view = Progress(status, title_of(cell))
    try:
        with Bed(parameters(scenario.apps, conditions.fifo)) as bed, RealPlant(bed, scenario.apps) as plant:
            run = Run(cell.contender, scenario, domain, plant, controlled=contender is not None)
            await perform([run], view, Staging(signal=signal, delay=0.0))
            run.observe()
            return outcome(cell, run, plant.list_recoveries())
    except Exception as error:  # noqa: BLE001 - whatever breaks one run, the others are played
        return Outcome(cell, failed=f"{type(error).__name__}: {error}")


def title_of(cell: Cell) -> str:
    """A cell in words."""
    return f"{cell.contender} on {cell.scenario}, {cell.period * 1000:g} ms, seed {cell.seed}"


def outcome(cell: Cell, run: Run, recoveries: Sequence[int]) -> Outcome:
    """Judge a run that was played to its end.

    Args:
        cell: what it was.
        run: with all its seconds.
        recoveries: when the true latency was back below the SLO after each crossing, UTC ns.
    """
    learning, pods = run.scenario.learning, len(run.plant.pods)
    whole, steady = run.score(), run.score(since=learning)
    reactions = run.reactions(since=learning)
    drains = []
    for one in reactions:
        back = next((at for at in recoveries if at > one.crossed), None)
        if back is not None:
            drains.append(round(max(back - one.in_force, 0) / _S, 4))
    return Outcome(
        cell,
        learning=_rest(whole, steady, learning, pods) if learning else None,
        steady=_part(steady, run.scenario.seconds - learning, pods),
        reactions=tuple(round((one.in_force - one.crossed) / _S, 4) for one in reactions),
        drains=tuple(drains),
        restarts=whole.restarts,
    )


def _part(score: Score, seconds: float, pods: int) -> Part:
    return Part(
        score.seconds,
        score.invalid_windows,
        score.violation_seconds,
        score.steps,
        score.step_violation_seconds,
        round(score.share, 5),
        round(score.patches * 60 / seconds / max(pods, 1), 3),
    )


def _rest(whole: Score, steady: Score, seconds: float, pods: int) -> Part:
    """What came before the steady part."""
    count = whole.seconds - steady.seconds
    best = whole.oracle * whole.seconds - steady.oracle * steady.seconds
    got = whole.goodput * whole.seconds - steady.goodput * steady.seconds
    return Part(
        count,
        whole.invalid_windows - steady.invalid_windows,
        whole.violation_seconds - steady.violation_seconds,
        whole.steps - steady.steps,
        whole.step_violation_seconds - steady.step_violation_seconds,
        round(got / best, 5) if best else 0.0,
        round((whole.patches - steady.patches) * 60 / seconds / max(pods, 1), 3),
    )


def written(outcomes: Sequence[Outcome], conditions: Conditions) -> bytes:
    """The JSON: conditions, every run, a line for each contender and scenario, and the goals."""
    lines = summed_up(outcomes)
    held = [msgspec.to_builtins(goal) | {"met": goal.met} for goal in goals(lines)]
    told = {"conditions": conditions, "runs": outcomes, "summary": lines, "goals": held}
    return msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n"


def _keep(work: Work, outcomes: Sequence[Outcome]) -> None:
    if work.json is None:
        return
    # Whole or not at all: a file that was cut short could not be gone on from.
    path = Path(work.json)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(written(outcomes, work.conditions))
    fresh.replace(path)


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
        _keep(work, outcomes)
        took = time.monotonic() - began
        console.print(f"{number}/{len(work.cells)}  {title_of(cell)}: {_told(one)} ({took:.0f} s)", highlight=False)


def _told(one: Outcome) -> str:
    if one.steady is None:
        return f"failed: {one.failed}"
    steady = one.steady
    text = (
        f"{steady.violation_seconds} of {steady.seconds} s bad, {steady.goodput:.1%}, {steady.patches:.1f} patches/min"
    )
    return f"{text}, {steady.invalid} s left out" + (" - too disturbed to count" if one.disturbed else "")


def main() -> None:
    """Play what the JSON on the command line says, and print what it came to."""
    work = msgspec.json.decode(sys.argv[1], type=Work)
    console = Console()
    outcomes = list(work.before)
    try:
        complete = asyncio.run(until_stopped(play_all(work, console, outcomes)))
    except OSError as error:
        console.print(f"Error: {error}", style="red", highlight=False)
        sys.exit(FAILED)
    finally:
        lines = summed_up(outcomes)
        console.print(table(lines))
        if any(goal.runs for goal in goals(lines)) or not lines:
            console.print(goals_table(goals(lines)))
    if not complete:
        console.print("Stopped before the end.")
        sys.exit(STOPPED)
    sys.exit(FAILED if any(one.failed for one in outcomes) else 0)


if __name__ == "__main__":
    main()
