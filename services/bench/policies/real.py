"""``sluice bench factory``: policies on real packets, judged by ground truth, and the goals that they meet.

Outermost layer: reads the command line, makes the plan, and has ``realruns.py`` play it in namespaces
that end with this process.  Without a choice it plays what the goals need, in about 28 minutes.
"""

import sys
from pathlib import Path

import click
import msgspec
from msgspec import Struct

from services.bench.policies.candidates import CONTENDERS
from services.bench.policies.real_results import NOBODY, SUBJECT, USUAL, Cell, Outcome
from services.bench.policies.real_runs import Conditions, File, Work
from services.plant.commands.factory import CANNOT, Quantity, Seconds, run_in_namespaces
from services.plant.real.namespaces import find_missing
from services.plant.real.plant import TRAFFIC
from services.plant.scenario import SCENARIOS

PUBLISHED = "heracles, nameplate"
"""The published baseline of the default plan."""
SEEDED = ("steady", "step")
"""Scenarios that ``learned`` plays with several seeds."""
SEEDS = 3
QUICK = Conditions(capacity=45_000, fifo=0.08, seconds=15.0)
"""For ``--quick``: small enough for a busy machine, too short to judge anything."""
_CHOICES = [NOBODY, *(one.name for one in CONTENDERS if not one.unlagged and one.name not in ("greedy", "riser"))]


class Asked(Struct, frozen=True):
    """What the command line chose; empty: not chosen."""

    policies: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    signals: tuple[float, ...] = ()
    seeds: int | None = None
    quick: bool = False


def plan(asked: Asked) -> list[Cell]:
    """The runs to play, a first seed of everything before the second of anything."""
    if asked.quick:
        policies = asked.policies or (NOBODY, SUBJECT)
        cells = _product(policies, asked.scenarios or ("steady", "demo"), asked.signals, asked.seeds or 1)
    elif asked.policies or asked.scenarios or asked.signals:
        policies = asked.policies or (NOBODY, "proportional", PUBLISHED, SUBJECT)
        cells = _product(policies, asked.scenarios or ("steady", "step", "demo"), asked.signals, asked.seeds)
    else:
        cells = _product((NOBODY,), ("steady",), (), 1)
        cells += _product(("proportional", PUBLISHED), ("steady", "demo"), (), 1)
        cells += _product((SUBJECT,), ("steady", "step", "demo"), (), asked.seeds)
        cells += _product((SUBJECT,), ("step",), (1.0,), 1)
    return sorted(cells, key=lambda cell: cell.seed)


def _product(
    policies: tuple[str, ...], scenarios: tuple[str, ...], signals: tuple[float, ...], seeds: int | None
) -> list[Cell]:
    cells = []
    for policy in policies:
        for scenario in scenarios:
            usual = SEEDS if policy == SUBJECT and scenario in SEEDED else 1
            # A run that nobody controls has no signal.
            periods = (USUAL,) if policy == NOBODY else signals or (USUAL,)
            cells += [Cell(policy, scenario, seed, period) for period in periods for seed in range(seeds or usual)]
    return cells


def left(cells: list[Cell], before: File | None, conditions: Conditions) -> tuple[list[Cell], list[Outcome]]:
    """What is still to be played, and the earlier runs that count with it.

    Raises:
        ValueError: the earlier runs were played under other conditions.
    """
    if before is None:
        return cells, []
    if before.conditions != conditions:
        raise ValueError("its runs were played under other conditions: --seconds, --capacity or --fifo")
    good = [one for one in before.runs if one.failed is None and not one.disturbed]
    done = {one.cell for one in good}
    return [cell for cell in cells if cell not in done], good


@click.command()
@click.option("--policies", multiple=True, type=click.Choice(_CHOICES), help="Only these; may be given again.")
@click.option("--scenarios", multiple=True, type=click.Choice(list(SCENARIOS)), help="Only these.")
@click.option("--signals", multiple=True, type=Seconds(), help="Signal periods, such as 250ms, 500ms, 1s.")
@click.option(
    "--seeds", type=click.IntRange(1, 20), help="Runs of each; by default 3 of learned on steady and step, else 1."
)
@click.option("--seconds", type=click.FloatRange(10, 3600), help="Play every scenario in this time.")
@click.option("--quick", is_flag=True, help="A few runs of 15 s at 45 Mbit/s: shows that it works, not how well.")
@click.option("--capacity", type=Quantity(), default="100M", show_default=True, help="Of the bottleneck; scales loads.")
@click.option("--fifo", type=Seconds(), default="100ms", show_default=True, help="Depth of the bottleneck's queue.")
@click.option(
    "--json", "result", type=click.Path(dir_okay=False, path_type=Path), help="Write runs, summary and goals here."
)
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
    conditions = Conditions(capacity, fifo, seconds)
    if quick:
        conditions = msgspec.structs.replace(QUICK, seconds=seconds or QUICK.seconds)
    if goes_on and result is None:
        raise click.UsageError("--continue: there is no file to go on from; give --json FILE")
    missing = find_missing(TRAFFIC)
    if missing:
        click.echo(f"sluice bench factory cannot run here: it needs {', '.join(missing)}", err=True)
        sys.exit(CANNOT)
    cells = plan(Asked(policies, scenarios, signals, seeds, quick))
    try:
        before = msgspec.json.decode(result.read_bytes(), type=File) if goes_on and result and result.exists() else None
        cells, kept = left(cells, before, conditions)
    except (ValueError, msgspec.DecodeError, OSError) as error:
        raise click.ClickException(f"{result}: {error}") from None
    work = Work(tuple(cells), conditions, None if result is None else str(result.absolute()), tuple(kept))
    sys.exit(
        run_in_namespaces(
            [sys.executable, "-m", "services.bench.policies.real_runs", msgspec.json.encode(work).decode()]
        )
    )
