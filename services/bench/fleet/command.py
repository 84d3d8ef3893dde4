"""``sluice bench fleet``: a simulated fleet of nodes under the live control step, and how new instances begin.

Hours of a thousand nodes take minutes.  Goodput, violation and patches are judged for the fleet as a whole.
"""

import asyncio
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import click

from services.bench.fleet.change import LAST_DECISION, measure_change
from services.bench.fleet.cost import SIZES, draw_growth, measure_growth, summarize_growth
from services.bench.fleet.fleet import Course, Fleet, Result
from services.bench.fleet.links import PERIOD_S
from services.bench.fleet.service_costs import measure_services, summarize_services
from services.bench.fleet.warm import CASES, compare_starts
from services.bench.goals import show
from services.runtime import logging_setup
from services.runtime.option_types import FiguresFile, ResultFile

_COST_S = 6
_INSTANCES = 1000
_GOALS = {
    "violation, % of node-seconds": "<= 0.5",
    "goodput, % of what was possible": ">= 93",
    "limits changed, a node and minute": "<= 20",
    "decision, bytes": "<= 16384",
}


@click.command()
@click.option("--nodes", type=click.IntRange(6), default=200, show_default=True, help="How many nodes.")
@click.option("--minutes", type=click.IntRange(1), default=5, show_default=True, help="Minutes of the plant.")
@click.option("--flap", is_flag=True, help="Lose the measurements of all nodes for ten seconds, in the middle.")
@click.option("--cold", is_flag=True, help="Let new instances begin afresh.")
@click.option("--starts", is_flag=True, help="Compare both ways to begin on the simulated plant, and nothing else.")
@click.option("--costs", is_flag=True, help="Measure each service at 10, 100 and 1,000 instances instead.")
@click.option("--change", is_flag=True, help="Measure how soon a changed definition reaches 1,000 instances instead.")
@click.option("--picture", type=ResultFile(), help="With --costs: draw the growth into this SVG.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of everything random.")
@click.option("--json", "path", type=FiguresFile(), help="Add the figures to this file.")
def command(  # noqa: PLR0913, PLR0917 - one an option
    nodes: int,
    minutes: int,
    flap: bool,
    cold: bool,
    starts: bool,
    costs: bool,
    change: bool,
    picture: Path | None,
    seed: int,
    path: Path | None,
) -> None:
    """A simulated fleet: violation, goodput and patches."""
    if starts:
        begun = {one.case: {"cold": one.cold, "warm": one.warm} for one in map(compare_starts, CASES)}
        rows = [(f"{case}, {name}", start) for case, of in begun.items() for name, start in of.items()]
        seen: dict[str, float] = {f"{name}: bad seconds": start.bad_seconds for name, start in rows}
        show("starts", seen | {f"{name}: goodput, share of the oracle": start.share for name, start in rows}, {}, path)
        return
    if costs:
        logging_setup.configure("bench", "error")
        growth = measure_growth(_COST_S)
        show("cost of an instance", summarize_growth(growth), {"memory of an instance, KiB": "<= 64"}, path)
        services = summarize_services(measure_services(SIZES, _COST_S))
        goals = {f"{name}, memory of an instance, KiB": "<= 64" for name in ("sampler", "actuator")}
        show("cost of an instance, the other services", services, goals, path)
        if picture is not None:
            draw_growth(growth, picture)
        return
    if change:
        logging_setup.configure("bench", "error")
        reached = asyncio.run(measure_change(_INSTANCES))
        show(f"a changed definition, {_INSTANCES:,} instances", reached, {LAST_DECISION: "<= 5"}, path)
        return
    course = Course(60 * minutes, flap_at=30.0 * minutes if flap else None)
    began = time.monotonic()
    result = play_fleet(nodes, seed, course, warm=not cold)
    figures = summarize(result, course)
    figures["minutes of plant in a minute"] = course.seconds / (time.monotonic() - began)
    show("fleet", figures, _GOALS, path)


def play_fleet(nodes: int, seed: int, course: Course, *, warm: bool = True, processes: int | None = None) -> Result:
    """Play a course, divided among the processors."""
    parts = min(processes or len(os.sched_getaffinity(0)), nodes)
    sizes = [nodes // parts + (part < nodes % parts) for part in range(parts)]
    play = partial(_play_part, seed=seed, course=course, warm=warm)
    if parts == 1:
        return play(0, sizes[0])
    with ProcessPoolExecutor(parts, mp_context=get_context("spawn")) as pool:
        return add_results(list(pool.map(play, range(parts), sizes)))


def _play_part(part: int, nodes: int, *, seed: int, course: Course, warm: bool) -> Result:
    return Fleet(nodes, 1000 * seed + part, course, warm=warm).run()


def add_results(parts: list[Result]) -> Result:
    """All parts of a fleet together."""
    total = Result(sum(one.nodes for one in parts))
    for name in Result.__struct_fields__[1:]:
        if name != "pod_patches":
            setattr(total, name, sum(getattr(one, name) for one in parts))
    total.pod_patches = [sum(column) for column in zip(*(one.pod_patches for one in parts), strict=True)]
    return total


def summarize(result: Result, course: Course) -> dict[str, float]:
    """The figures of a fleet."""
    minutes = result.nodes * course.seconds / 60
    per_second = [a + b for a, b in zip(result.pod_patches[::2], result.pod_patches[1::2], strict=False)]
    figures = {
        "nodes": result.nodes,
        "violation, % of node-seconds": 100 * (result.bad - result.bad_after_start) / max(result.own, 1),
        "violation in the first 10 s of an instance, %": 100
        * result.bad_after_start
        / max(result.node_seconds - result.own, 1),
        "goodput, % of what was possible": 100 * result.delivered / max(result.possible, 1),
        "instances that began": result.starts,
        "limits changed, a node and minute": result.changes / minutes,
        "Pods patched, a node and minute": sum(result.pod_patches) / minutes,
        "Pods patched in the worst second, a node": max(per_second, default=0) / result.nodes,
        "decision, bytes": result.state_bytes / result.nodes,
        "decisions": result.steps,
    }
    if course.flap_at is not None:
        first = int(course.flap_at / PERIOD_S)
        around = result.pod_patches[first : first + int(20 / PERIOD_S)]
        figures["Pods patched around the flap (20 s), a node and second"] = sum(around) / 20 / result.nodes
    return figures
