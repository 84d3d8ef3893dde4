"""``sluice bench train``: train the network of the policy ``neural``."""

import time
from pathlib import Path
from statistics import mean
from typing import Any

import click
import msgspec
from rich.console import Console

from services.runtime.exit_codes import CommandFailure, ExitCode
from services.runtime.option_types import ResultFile


@click.command()
@click.option("-o", "--output", type=ResultFile(), required=True, help="Write the weights there, as JSON.")
@click.option("--teacher", default="learned", show_default=True, help="The policy that is imitated at first.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds of imitation.")
@click.option("--generations", type=click.IntRange(0), default=0, show_default=True, help="Of evolution.")
@click.option("--pairs", type=click.IntRange(2), default=8, show_default=True, help="Pairs of changes a generation.")
@click.option("--episodes", type=click.IntRange(1), default=6, show_default=True, help="Episodes of each change.")
@click.option("--seed", default=1, show_default=True, help="Of everything random.")
def command(*, output: Path, teacher: str, rounds: int, generations: int, pairs: int, episodes: int, seed: int) -> None:
    """Train the network of the policy neural.

    The defaults make the weights that are shipped.  It needs the extra gym.
    """
    try:
        from services.bench.policies import training
        from services.plant.environment import LinkEnvironment
    except ImportError as error:
        why = f"training needs the extra packages of pip install 'sluice[gym]': {error}"
        raise CommandFailure(why, ExitCode.UNREADABLE) from None
    console = Console(stderr=True)
    began = time.monotonic()
    environment = LinkEnvironment(draw=training.draw_episode)
    tests = [seed + 500_000 + number for number in range(2 * len(training.CASE_NAMES))]

    def judge(weights: Any) -> float:
        return float(mean([training.earn(training.to_network(weights), one, environment) for one in tests]))

    best = training.imitate(teacher, rounds, len(training.CASE_NAMES), seed, environment)
    reward = judge(best)
    console.print(f"imitation of {teacher}: {reward:.4f} a step after {time.monotonic() - began:.0f} s")
    weights = best
    for generation in range(0, generations, 5):
        count = min(5, generations - generation)
        weights, history = training.evolve(
            weights,
            generations=count,
            pairs=pairs,
            episodes=episodes,
            seed=seed + 100_000 * (generation + 1),
            environment=environment,
        )
        found = judge(weights)
        console.print(
            f"generation {generation + count}: {found:.4f} a step; {time.monotonic() - began:.0f} s; "
            f"changes earned {history[-1]:.4f}"
        )
        if found > reward:
            best, reward = weights, found
    made_by = (
        f"sluice bench train --teacher {teacher} --rounds {rounds} --generations {generations} --pairs {pairs} "
        f"--episodes {episodes} --seed {seed}"
    )
    output.write_bytes(msgspec.json.encode(training.to_network(best, made_by)) + b"\n")
    console.print(f"{output}: {reward:.4f} a step")
