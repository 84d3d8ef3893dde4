"""``sluice bench factory``: policies on real packets, judged by ground truth.

Outermost layer: reads the command line, makes the plan, and has ``real_runs.py`` play it in namespaces
that end with this process.  Without a choice it plays what the goals need, in about 28 minutes.
"""

import sys
from pathlib import Path

import click
import msgspec
from msgspec import Struct

from schemas.decode_errors import DECODE_ERRORS, describe_decode_error
from services.bench.policies.candidates import CANDIDATES
from services.bench.policies.real_cases import REAL_SCENARIOS
from services.bench.policies.real_runs import BenchConditions, EarlierRuns, Work
from services.bench.policies.results import SUBJECT, UNCONTROLLED, USUAL_PERIOD, Cell, Outcome
from services.plant.commands.factory import RateParam, SecondsParam, run_in_namespaces
from services.plant.real.namespaces import find_missing
from services.plant.real.plant import TRAFFIC
from services.runtime.exit_codes import CommandFailure, ExitCode
from services.runtime.option_types import FiniteRange, ResultFile

PUBLISHED = "heracles, nameplate"
"""The published baseline of the default plan."""
SEEDED = ("steady", "step")
"""Scenarios that ``learned`` plays with several seeds."""
SEEDS = 3
QUICK = BenchConditions(capacity=45_000, fifo=0.08, seconds=15.0)
"""For ``--quick``: small enough for a busy machine, too short to judge anything."""
_CHOICES = [UNCONTROLLED, *(one.name for one in CANDIDATES if not one.unlagged and one.name not in ("greedy", "riser"))]


class Selection(Struct, frozen=True):
    """What the command line selects; empty: the default."""

    policies: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    signals: tuple[float, ...] = ()
    seeds: int | None = None
    quick: bool = False


def plan(selection: Selection) -> list[Cell]:
    """List the runs to play: the first seed of all before the second seed of any."""
    if selection.quick:
        policies = selection.policies or (UNCONTROLLED, SUBJECT)
        cells = _product(policies, selection.scenarios or ("steady", "demo"), selection.signals, selection.seeds or 1)
    elif selection.policies or selection.scenarios or selection.signals:
        policies = selection.policies or (UNCONTROLLED, "proportional", PUBLISHED, SUBJECT)
        cells = _product(
            policies, selection.scenarios or ("steady", "step", "demo"), selection.signals, selection.seeds
        )
    else:
        cells = _product((UNCONTROLLED,), ("steady",), (), 1)
        cells += _product(("proportional", PUBLISHED), ("steady", "demo"), (), 1)
        cells += _product((SUBJECT,), ("steady", "step", "demo"), (), selection.seeds)
        cells += _product((SUBJECT,), ("step",), (1.0,), 1)
    return sorted(cells, key=lambda cell: cell.seed)


def _product(
    policies: tuple[str, ...], scenarios: tuple[str, ...], signals: tuple[float, ...], seeds: int | None
) -> list[Cell]:
    cells = []
    for policy in policies:
        for scenario in scenarios:
            usual = SEEDS if policy == SUBJECT and scenario in SEEDED else 1
            # Without a controller there is no signal.
            periods = (USUAL_PERIOD,) if policy == UNCONTROLLED else signals or (USUAL_PERIOD,)
            cells += [Cell(policy, scenario, seed, period) for period in periods for seed in range(seeds or usual)]
    return cells


def select_missing(
    cells: list[Cell], before: EarlierRuns | None, conditions: BenchConditions
) -> tuple[list[Cell], list[Outcome]]:
    """Pick the cells that are still to be played, and the earlier runs that count with them.

    Raises:
        ValueError: the earlier runs were played under other conditions.
    """
    if before is None:
        return cells, []
    if before.conditions != conditions:
        raise ValueError("its runs were played under other conditions: --seconds, --capacity or --fifo")
    good = [one for one in before.runs if one.failed is None and not one.is_disturbed]
    done = {one.cell for one in good}
    return [cell for cell in cells if cell not in done], good


@click.command()
@click.option("--policies", multiple=True, type=click.Choice(_CHOICES), help="Only these; may be given again.")
@click.option("--scenarios", multiple=True, type=click.Choice(list(REAL_SCENARIOS)), help="Only these.")
@click.option("--signals", multiple=True, type=SecondsParam(), help="Signal periods, such as 250ms, 500ms, 1s.")
@click.option(
    "--seeds", type=click.IntRange(1, 20), help="Runs of each; by default 3 of learned on steady and step, else 1."
)
@click.option("--seconds", type=FiniteRange(10, 3600), help="Play every scenario in this time.")
@click.option("--quick", is_flag=True, help="A few runs of 15 s at 45 Mbit/s: shows that it works, not how well.")
@click.option("--capacity", type=RateParam(), default="100M", show_default=True, help="Bottleneck rate; scales loads.")
@click.option("--fifo", type=SecondsParam(), default="100ms", show_default=True, help="Bottleneck queue depth.")
@click.option("--json", "result", type=ResultFile(), help="Write runs, summary and goals here.")
@click.option("--continue", "goes_on", is_flag=True, help="Keep the runs that --json's file has, play what is missing.")
def command(  # noqa: PLR0913 - one for each option
    *,
    policies: tuple[str, ...],
    scenarios: tuple[str, ...],
    signals: tuple[float, ...],
    seeds: int | None,
    seconds: float | None,
    quick: bool,
    capacity: int,
    fifo: float,
    result: Path | None,
    goes_on: bool,
) -> None:
    """Compare policies on real packets, as root, and hold learned to its goals."""
    conditions = BenchConditions(capacity, fifo, seconds)
    if quick:
        conditions = msgspec.structs.replace(QUICK, seconds=seconds or QUICK.seconds)
    if goes_on and result is None:
        raise click.UsageError("--continue: there is no file to go on from; give --json FILE")
    missing = find_missing(TRAFFIC)
    if missing:
        click.echo(f"sluice bench factory cannot run here: it needs {', '.join(missing)}", err=True)
        sys.exit(ExitCode.USAGE)
    cells = plan(Selection(policies=policies, scenarios=scenarios, signals=signals, seeds=seeds, quick=quick))
    try:
        before = (
            msgspec.json.decode(result.read_bytes(), type=EarlierRuns)
            if goes_on and result and result.exists()
            else None
        )
        cells, kept = select_missing(cells, before, conditions)
    except DECODE_ERRORS as error:
        raise CommandFailure(f"{result}: {describe_decode_error(error)}", ExitCode.UNREADABLE) from None
    except (ValueError, OSError) as error:
        raise CommandFailure(f"{result}: {error}", ExitCode.UNREADABLE) from None
    work = Work(tuple(cells), conditions, None if result is None else str(result.absolute()), tuple(kept))
    sys.exit(
        run_in_namespaces(
            [sys.executable, "-m", "services.bench.policies.real_runs", msgspec.json.encode(work).decode()]
        )
    )
