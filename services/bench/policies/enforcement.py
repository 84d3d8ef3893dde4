"""``sluice bench enforcement``: how soon limits that are not enforced are found, and how many false alarms there are.

On the simulated plant, by the shipped signals.  Each kind of fault begins at another phase of the signal in every run.
``stuck``: the agent hangs, and the limits of that time stay.  That harms nobody until a limit has to fall, so the time
runs from the first limit that was asked for and was not put in force.  ``off``: limits are lifted.
"""

import json
from multiprocessing import Pool
from pathlib import Path
from statistics import median

import click
from msgspec import Struct
from msgspec.structs import replace
from rich import box
from rich.console import Console
from rich.table import Table

from services.control import Controller
from services.plant.scenario import SCENARIOS, Enforcement, Event, Scenario
from services.plant.simulated.closed_loop import Delays, Run, play
from services.plant.simulated.signal_profiles import PROFILES, SHIPPED
from services.runtime.option_types import ResultFile

_S = 10**9
_GOAL_S = 10.0
_PATIENCE_S = 40.0
"""How long a run with a fault goes on, seconds."""
FAULTS: dict[tuple[str, Enforcement], float] = {
    ("steady", "off"): 100.0,
    ("join", "off"): 100.0,
    ("step", "stuck"): 62.0,
    ("capacity", "stuck"): 62.0,
}
"""By scenario and kind, when the fault begins: seconds after the start."""


class Found(Struct, frozen=True):
    """One run with a fault."""

    scenario: str
    kind: str
    seconds: float | None
    """From when the fault mattered until a decision named it; None: never."""
    early: int
    """Decisions that named one before there was any."""


def play_fault(scenario: str, kind: Enforcement, seed: int) -> Found:
    """Play one fault, and measure when it is found."""
    begin = FAULTS[scenario, kind] + 0.37 * seed % 1
    base = SCENARIOS[scenario]
    fault = Event(at=begin, enforcement=kind, phase=False)
    events = tuple(sorted((*base.events, fault), key=lambda one: one.at))
    played = _play(replace(base, events=events, seconds=begin + _PATIENCE_S), seed)
    at = played.started + round(begin * _S)
    # A limit that is lower than the one that stays matters; before, there is nothing to be seen.
    stays = {one.target: one.limit for one in next(d for d in reversed(played.decisions) if d.end <= at).targets}
    matters = (
        at
        if kind == "off"
        else next(
            (d.end for d in played.decisions if d.end > at and any(t.limit < 0.9 * stays[t.target] for t in d.targets)),
            at,
        )
    )
    found = next((one.end for one in played.decisions if one.overruns and one.end > at), None)
    early = sum(bool(one.overruns) for one in played.decisions if one.end <= at)
    return Found(scenario, kind, None if found is None else (found - matters) / _S, early)


def count_false_alarms(scenario: str, seed: int) -> tuple[float, int]:
    """Play a sound run; returns its length in seconds, and how many decisions named an overrun."""
    played = _play(SCENARIOS[scenario].shift(seed), seed)
    return played.scenario.seconds, sum(bool(one.overruns) for one in played.decisions)


def _play(scenario: Scenario, seed: int) -> Run:
    domain = scenario.domain()
    return play(scenario, domain, Controller(domain), delays=Delays.of(PROFILES[SHIPPED]), seed=seed)


@click.command()
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Runs of each fault, and of each sound scenario.",
)
@click.option("--json", "path", type=ResultFile(), help="Write the figures here, too.")
def command(seeds: int, path: Path | None) -> None:
    """How soon limits that are silently not enforced are found, and how often sound ones are blamed."""
    faults = [(scenario, kind, seed) for scenario, kind in FAULTS for seed in range(seeds)]
    with Pool(2) as pool:
        found = pool.starmap(play_fault, faults, chunksize=1)
        sound = pool.starmap(
            count_false_alarms, [(one, seed) for one in SCENARIOS for seed in range(seeds)], chunksize=1
        )
    hours, alarms = sum(seconds for seconds, _ in sound) / 3600, sum(count for _, count in sound)
    console = Console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=f"seconds; goal: found within {_GOAL_S:g} s")
    for number, column in enumerate(("fault", "runs", "found", "median", "longest")):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for scenario, kind in FAULTS:
        runs = [one for one in found if (one.scenario, one.kind) == (scenario, kind)]
        times = [one.seconds for one in runs if one.seconds is not None]
        figures = (f"{median(times):.1f}", f"{max(times):.1f}") if times else ("-", "-")
        table.add_row(f"{kind}, {scenario}", str(len(runs)), str(len(times)), *figures)
    console.print(table)
    console.print(f"{hours:.1f} hours of sound runs: {alarms} false alarms", highlight=False)
    if path is not None:
        rows = [
            {"scenario": one.scenario, "kind": one.kind, "seconds": one.seconds, "early": one.early} for one in found
        ]
        tree = {"faults": rows, "sound_hours": hours, "false_alarms": alarms}
        path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
