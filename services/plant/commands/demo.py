"""``sluice demo``: the whole pipeline on one machine without root, a cluster or Docker.

Real: the three services as processes, NATS JetStream, HTTP, the Kubernetes API's protocol.  Emulated:
the API server and the packets, by a queue model that was fitted to real ones.  Every compared run has
a plant of its own with the same seed; all controlled ones share the pipeline.
"""

import asyncio
import sys
import time
from pathlib import Path

import click
from msgspec import Struct
from rich.console import Console

from services.control import POLICIES
from services.plant.harness.orchestrator import Staging, perform, until_stopped
from services.plant.harness.pipeline import NotReady
from services.plant.harness.processes import ProcessDied
from services.plant.harness.result_file import ResultFile
from services.plant.harness.results_table import Report, table
from services.plant.harness.run import Run
from services.plant.harness.view import view_of
from services.plant.scenario import SCENARIOS, Scenario
from services.plant.simulated.plant import SimulatedPlant
from services.plant.simulated.realtime import RealtimePlant
from services.plant.topology import NAMESPACE

NO_CONTROL = "no control"
DEFAULT_POLICIES = tuple(name for name in ("learned", "proportional") if name in POLICIES)


class Options(Struct, frozen=True):
    """What the command line asks for."""

    scenario: Scenario
    policies: tuple[str, ...]
    """One controlled run each; the first is the one in question."""
    seed: int = 1
    keep: Path | None = None
    """Where files and logs stay; None: they go."""


def _runs(options: Options) -> list[Run]:
    """One run without control and one a policy, each on a twin of the same plant."""
    start = time.time_ns()
    runs = []
    for number, policy in enumerate((None, *options.policies)):
        # The first policy's run has the plain names; its twins live in namespaces of their own.
        scenario = options.scenario if number < 2 else options.scenario.move_to(f"{NAMESPACE}-{policy}")
        domain = scenario.domain(policy or options.policies[0], name="floor" if number < 2 else f"floor-{policy}")
        plant = RealtimePlant(SimulatedPlant.for_apps(scenario.apps, seed=options.seed, start=start))
        runs.append(Run(policy or NO_CONTROL, scenario, domain, plant, controlled=policy is not None))
    return runs


async def demonstrate(options: Options, console: Console) -> tuple[Report, bool]:
    """Play the scenario; gives the result, and whether it was played to its end.

    Raises:
        NotReady: a part did not come up.
        ProcessDied: a part ended early.
    """
    runs = _runs(options)
    with view_of(console, runs) as view:
        view.say("Starting nats-server, an emulated Kubernetes API and the three services ...")
        complete = await until_stopped(perform(runs, view, Staging(keep=options.keep)))
    for run in runs:
        run.observe()
    scores = {run.title: run.score() for run in runs}
    return Report(options.scenario.name, "simulated", options.scenario.seconds, scores), complete


@click.command()
@click.option(
    "--policy",
    "policies",
    type=click.Choice(sorted(POLICIES)),
    multiple=True,
    default=DEFAULT_POLICIES,
    show_default=True,
    help="In control of a run; give it again to compare several.",
)
@click.option(
    "--scenario", "name", type=click.Choice(sorted(SCENARIOS)), default="demo", show_default=True, help="To play."
)
@click.option("--seconds", type=click.FloatRange(5, 3600), help="Play it in this time instead of its own.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of all that is random in the plants.")
@click.option("--json", "result", type=ResultFile(), help="Write the result here.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Leave logs and files in this folder.")
def command(
    policies: tuple[str, ...],
    name: str,
    seconds: float | None,
    seed: int,
    result: Path | None,
    keep: Path | None,
) -> None:
    """Run the whole pipeline on embedded parts and a simulated factory."""
    scenario = SCENARIOS[name] if seconds is None else SCENARIOS[name].stretch_to(seconds)
    options = Options(scenario, tuple(dict.fromkeys(policies)), seed, keep)
    console = Console()
    try:
        report, complete = asyncio.run(demonstrate(options, console))
        console.print(table(report, scenario))
        if result is not None:
            report.write(result)
    except (NotReady, ProcessDied, OSError) as error:
        raise click.ClickException(str(error)) from None
    if not complete:
        console.print("Stopped before the end.")
        sys.exit(130)
