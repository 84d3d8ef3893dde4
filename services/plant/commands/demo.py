"""``sluice demo``: the whole pipeline on one machine without root, a cluster or Docker.

Real: the three services as processes, NATS JetStream, HTTP, the Kubernetes API's protocol.  Emulated:
the API server, and the packets by a queue model that was fitted to real ones.  Every run has a plant of
its own with the same seed.  All controlled runs share one pipeline, each as a domain of its own; only
the first one's domain is recorded, so that a recording has one plant and one policy.
"""

import asyncio
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click
from msgspec import Struct
from rich.console import Console

from services.control import POLICIES
from services.plant.harness.orchestrator import PipelineOptions, RecordingFailed, play_scenario, run_until_signal
from services.plant.harness.pipeline import NotReady, find_program
from services.plant.harness.processes import ProcessDied
from services.plant.harness.results import ScenarioResults, build_table
from services.plant.harness.run import ScenarioRun
from services.plant.harness.view import select_view
from services.plant.scenario import SCENARIOS, Scenario
from services.plant.simulated.plant import SimulatedPlant
from services.plant.simulated.realtime import RealtimePlant
from services.plant.topology import NAMESPACE
from services.runtime.exit_codes import CommandFailure, ExitCode
from services.runtime.option_types import FiniteRange, ResultFile, ResultFolder
from services.runtime.policy_option import PolicyName
from services.ui.command import PORT

DOMAIN = "floor"
"""The domain of the first policy's run."""
NO_CONTROL = "no control"
DEFAULT_POLICIES = tuple(name for name in ("learned", "proportional") if name in POLICIES)


class DemoOptions(Struct, frozen=True):
    """The command line's options."""

    scenario: Scenario
    policies: tuple[str, ...]
    """One controlled run each; the first one is recorded."""
    seed: int = 1
    record: Path | None = None
    """Where the first policy's run is recorded."""
    keep: Path | None = None
    """Where files and logs stay; None: they are removed."""
    page: int = 0
    """The port of the live page; 0: there is none."""


def build_runs(options: DemoOptions) -> list[ScenarioRun]:
    """Build one run without control and one for each policy, each on a twin of the same plant."""
    start = time.time_ns()
    runs = []
    for number, policy in enumerate((None, *options.policies)):
        # The first policy's run has the plain names; the other controlled runs have namespaces of their own.
        scenario = options.scenario if number < 2 else options.scenario.move_to(f"{NAMESPACE}-{policy}")
        domain = scenario.domain(policy or options.policies[0], name=DOMAIN if number < 2 else f"{DOMAIN}-{policy}")
        plant = RealtimePlant(SimulatedPlant.for_apps(scenario.apps, seed=options.seed, start=start))
        runs.append(ScenarioRun(policy or NO_CONTROL, scenario, domain, plant, controlled=policy is not None))
    return runs


async def run_demo(options: DemoOptions, console: Console) -> tuple[ScenarioResults, bool]:
    """Play the scenario; return the results, and whether it was played to its end.

    Raises:
        NotReady: a part did not start in time.
        ProcessDied: a part ended early.
        RecordingFailed: the first policy's run could not be recorded.
    """
    runs = build_runs(options)
    with select_view(console, runs) as view:
        view.say("Starting nats-server, an emulated Kubernetes API and the three services ...")
        complete = await run_until_signal(
            play_scenario(
                runs, view, PipelineOptions(keep=options.keep, record=options.record, page=options.page or None)
            )
        )
    for run in runs:
        run.observe()
    scores = {run.title: run.score() for run in runs}
    return ScenarioResults(options.scenario.name, "simulated", options.scenario.seconds, scores), complete


@click.command()
@click.option(
    "--policy",
    "policies",
    type=PolicyName(),
    multiple=True,
    default=DEFAULT_POLICIES,
    show_default=True,
    help="Policy in control of a run; may be given again to compare several.",
)
@click.option(
    "--scenario",
    "name",
    type=click.Choice(sorted(SCENARIOS)),
    default="demo",
    show_default=True,
    help="What to play.",
)
@click.option("--seconds", type=FiniteRange(5, 3600), help="Play the scenario in this time instead of its own.")
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the plants' random numbers."
)
@click.option("--json", type=ResultFile(), help="Write the results here, as JSON.")
@click.option("--record", type=ResultFile(), help="Record the run of the first policy here.")
@click.option(
    "--page", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="Port of the live page; 0: no page."
)
@click.option("--keep", type=ResultFolder(), help="Leave logs and files in this folder.")
def command(
    policies: tuple[str, ...], name: str, seconds: float | None, json: Path | None, record: Path | None, **rest: Any
) -> None:
    """Run the whole pipeline on embedded parts and a simulated factory.

    Exit code 1: a part did not start, or ended early.
    """
    if json is not None and json == record:
        raise click.UsageError("--json and --record: one file cannot hold both")
    scenario = SCENARIOS[name] if seconds is None else SCENARIOS[name].stretch_to(seconds)
    options = DemoOptions(scenario, tuple(dict.fromkeys(policies)), record=record, **rest)
    console = Console()
    try:
        results, complete = asyncio.run(run_demo(options, console))
        console.print(build_table(results, scenario))
        if json is not None:
            results.write(json)
    except (NotReady, ProcessDied) as error:
        raise CommandFailure(error, ExitCode.FINDING) from None
    except (RecordingFailed, OSError) as error:
        raise CommandFailure(error, ExitCode.UNREADABLE) from None
    if not complete:
        console.print("Stopped before the end.")
        sys.exit(ExitCode.INTERRUPTED)
    if record is not None:
        console.print(format_next_steps(options.policies[0], record), highlight=False, soft_wrap=True)


def format_next_steps(policy: str, recording: Path) -> str:
    """List what to do with a recording: three commands that a shell in this folder runs as printed."""
    found = shutil.which("sluice")
    own = find_program("sluice")
    sluice = "sluice" if found is not None and own.samefile(found) else _quote(own)
    file = _quote(recording)
    return f"""
The run of {policy} is recorded in {file}.  Three commands to try on it:

What would every other policy have decided?
    {sluice} replay {file} --every-policy
How did it go?  One page, for engineers and for those who run the plant:
    {sluice} report {file} -o {_quote(recording.with_suffix(".html"))}
Why did a limit move last?
    {sluice} explain {DOMAIN} {file}

In a browser, to play it, to look at any time, and to try other policies:
    {sluice} ui {file}
"""


def _quote(path: Path) -> str:
    """Quote a path for a shell, relative to this folder where it lies below it."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
