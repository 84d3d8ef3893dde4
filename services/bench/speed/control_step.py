"""``sluice bench core``: how many steps a second the pure control core takes, on one core."""

import random
import time
from collections.abc import Iterable
from pathlib import Path

import click

from schemas.domain import Critical, Domain, Target
from schemas.messages import CriticalMeasure, Sample, State, TargetMeasure
from schemas.units import Rate
from services.bench.goals import show
from services.control import Controller
from services.runtime.option_types import FiguresFile

_POLICIES = ("proportional", "learned")
_PERIOD = 10**9 // 2


def build_samples(domain: Domain, count: int) -> list[Sample]:
    """Windows of which one in fifty has a high latency."""
    chance = random.Random(1)  # noqa: S311 - figures must be the same each time
    made = []
    for number in range(1, count + 1):
        p95 = chance.uniform(0.0005, 0.0015) * (4 if chance.random() < 0.02 else 1)
        measure = CriticalMeasure(
            workload=domain.critical[0].key, jitter=p95 * 0.6, p95=p95, observations=500, lost=0.0, throughput=20_000
        )
        sent = (TargetMeasure(domain.targets[0].key, chance.randrange(20_000)),)
        end = 10**18 + number * _PERIOD
        made.append(
            Sample(
                domain=domain.name,
                start=end - 4 * _PERIOD,
                end=end,
                period=_PERIOD,
                source="bench",
                critical=(measure,),
                targets=sent,
            )
        )
    return made


def step_through(domain: Domain, samples: Iterable[Sample]) -> None:
    """Decide on these samples, one after the other."""
    controller = Controller(domain)
    state: State | None = None
    for sample in samples:
        state = controller.step(state, sample).state


def measure_rate(policy: str, count: int) -> float:
    """Measure steps a second of this process's own time."""
    target = Target(deployment="upload", min=Rate(5_000), max=Rate(90_000), fail_safe=Rate(20_000))
    domain = Domain("line", (Critical("robot"),), (target,), policy, capacity=Rate(100_000))
    samples = build_samples(domain, count)
    began = time.process_time()
    step_through(domain, samples)
    return count / (time.process_time() - began)


@click.command()
@click.option(
    "--steps", type=click.IntRange(1), default=200_000, show_default=True, help="How many steps each policy takes."
)
@click.option("--json", "path", type=FiguresFile(), help="Add the figures to this file.")
def command(steps: int, path: Path | None) -> None:
    """Steps a second of the pure control core."""
    figures = {f"{policy}, steps/s a core": measure_rate(policy, steps) for policy in _POLICIES}
    show("core", figures, dict.fromkeys(figures, ">= 100,000"), path)
