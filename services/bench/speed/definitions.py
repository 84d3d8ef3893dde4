"""``sluice bench definitions``: what a change of one definition costs the actuator, among few domains and among many.

The cost of a change must follow what changed, not how many domains there are.  The figures are therefore ratios within
one run, of this process's own time: the set of definitions with the parts that act on its changes, without an API
server or a bus.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from pathlib import Path

import click

from schemas.config import Kubernetes
from schemas.definition import Definition, DefinitionSource
from schemas.domain import Critical, Domain, Target
from schemas.units import Duration, Rate
from services.actuator.dependencies import Dependencies
from services.actuator.kube_events import EventRecorder
from services.actuator.outbox import ActionOutbox
from services.actuator.target_set import TargetSet
from services.bench.goals import show
from services.definitions.definition_set import DefinitionSet
from services.definitions.follower import Follower
from services.kube.client import KubeClient
from services.runtime import logging_setup
from services.runtime.health import Health
from services.runtime.option_types import ResultFile

_FEW = 10
_PERIOD = Duration(10**9 // 2)


@click.command()
@click.option("--domains", type=click.IntRange(100), default=1000, show_default=True, help="How many domains.")
@click.option(
    "--changes", type=click.IntRange(10), default=300, show_default=True, help="How many changes of each kind."
)
@click.option("--json", "path", type=ResultFile(), help="Add the figures to this file.")
def command(domains: int, changes: int, path: Path | None) -> None:
    """Cost of a changed definition among many domains, and among ten."""
    logging_setup.configure("bench", "error")
    few, many = (asyncio.run(_measure(number, changes)) for number in (_FEW, domains))
    figures: dict[str, float] = {}
    for what, cost in many.items():
        figures[f"{what}, us"] = cost * 1e6
        figures[f"{what}, times the cost among {_FEW}"] = cost / few[what]
    show("definitions", figures, {name: "<= 3" for name in figures if "times" in name}, path)


def _build_domain(number: int, most: int = 80_000) -> Domain:
    target = Target(deployment="upload", namespace=f"n{number}", min=Rate(5000), max=Rate(most), fail_safe=Rate(10_000))
    return Domain(f"n{number}/line", (Critical("robot", f"n{number}"),), (target,))


def _name_source(number: int, generation: int) -> DefinitionSource:
    return DefinitionSource("resource", f"n{number}", "line", f"uid-{number}", generation)


async def _measure(domains: int, changes: int) -> dict[str, float]:
    """Seconds of each kind of change, with so many domains."""
    async with KubeClient.connect(Kubernetes(server="http://127.0.0.1:9")) as client:
        health = Health()
        shared = Dependencies(
            client=client,
            outbox=ActionOutbox(),
            events=EventRecorder(client),
            set_note=health.set_note,
            set_condition=health.set_condition,
            process="bench",
        )
        targets, known = TargetSet(client, health, shared), DefinitionSet((), _PERIOD)

        def define(names: Collection[str]) -> None:
            holding = known.holding
            targets.define({name: holding[name].domain if name in holding else None for name in names})

        known.on_change(define)

        def change(number: int) -> None:
            known.put(_build_domain(number % domains, 81_000 + number), _name_source(number % domains, 2))

        costs = {"new": _time(lambda number: known.put(_build_domain(number), _name_source(number, 1)), domains)}
        costs["changed bounds"] = _time(change, changes)

        def remove_and_add(number: int) -> None:
            known.withdraw(_name_source(number % domains, 2))
            known.put(_build_domain(number % domains), _name_source(number % domains, 3))

        costs["removed and added"] = _time(remove_and_add, changes)
    follower = Follower((), lambda _what, _text: None)
    for number in range(domains):
        follower.take(_define(number, 1, 80_000), 1)
    costs["followed by a service"] = _time(
        lambda number: follower.take(_define(number % domains, 2 + number, 81_000 + number), 2 + number), changes
    )
    return costs


def _define(number: int, revision: int, most: int) -> Definition:
    domain = _build_domain(number, most)
    return Definition(domain.name, revision, _name_source(number, revision), domain)


def _time(change: Callable[[int], object], number: int) -> float:
    """Seconds of this process's own time, the mean of so many changes."""
    began = time.process_time()
    for one in range(number):
        change(one)
    return (time.process_time() - began) / number
