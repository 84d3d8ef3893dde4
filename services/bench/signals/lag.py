"""``sluice bench signals``: how late the begin and the end of a latency step show in samples, and what that costs.

A metrics page shows 250 latencies a second, whose level steps up and down at known times.  Every source
watches the same steps in the sampler's own loop.  Bus, decision and patch add to these lags.  What a lag
costs is measured on the simulated plant (``cost.py``).
"""

import asyncio
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import click
from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table

from schemas.config import Config, Prometheus, Scrape, Signal
from schemas.domain import Critical, Domain, Target
from schemas.messages import Sample
from schemas.units import Duration, Rate
from services.bench.policies.results import Summary
from services.bench.signals.cost import COST_SCENARIOS, measure_costs
from services.control.observation import Observer
from services.plant.harness.metrics_page import MetricsPage
from services.plant.harness.pipeline import build_prometheus_signal, start_prometheus
from services.plant.harness.processes import Processes
from services.plant.interface import BUCKETS, Counters, Histogram, Pod
from services.plant.scenario import SCENARIOS
from services.runtime import logging_setup
from services.runtime.health import Health
from services.runtime.option_types import ResultFile
from services.sampler.loop import Sampler
from services.sampler.source import Lag
from services.sampler.source_factory import open_source, source_class

_S = 10**9
_HERTZ = 250
_LOW, _HIGH = (0.0002, 0.0004), (0.005, 0.015)
_GOLDEN = 0.6180339887
"""Its multiples, modulo one, spread evenly over 0 to 1."""
_DOMAIN = Domain(
    name="step",
    critical=(Critical(workload="robot", namespace="bench"),),
    targets=(Target(deployment="upload", namespace="bench", min=Rate(1), max=Rate(10), fail_safe=Rate(5)),),
)
_SCRAPES = (
    (Duration(_S // 4), Duration(3 * _S // 2)),
    (Duration(_S // 2), Duration(2 * _S)),
    (Duration(_S), Duration(4 * _S)),
)
"""Period and window."""


class LatencyStep(Struct, frozen=True):
    """A time of high latency, UTC ns."""

    begin: int
    end: int


class SteppingPlant:
    """A plant whose latency is high during the steps, and low otherwise."""

    pods: Sequence[Pod] = ()

    def __init__(self, steps: Sequence[LatencyStep], begin: int, clock: Callable[[], int] = time.time_ns) -> None:
        """Count from ``begin``, UTC ns, by this clock."""
        self._steps = steps
        self._clock = clock
        self._begin = begin
        self._number = 0
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def read_counters(self) -> Counters:
        """Everything up to now."""
        with self._lock:
            for number in range(self._number, max((self._clock() - self._begin) * _HERTZ // _S, self._number)):
                at = self._begin + number * _S // _HERTZ
                low, high = _HIGH if any(step.begin <= at < step.end for step in self._steps) else _LOW
                latency = low + (high - low) * (number * _GOLDEN % 1)
                self._buckets[sum(latency > bound for bound in BUCKETS)] += 1
                self._sum += latency
                self._number = number + 1
            counts = [sum(self._buckets[: at + 1]) for at in range(len(self._buckets))]
            return Counters({"bench/robot": Histogram(tuple(counts), self._sum, 0)}, {})


class ShownSample(Struct, frozen=True):
    """One sample, as the controller would see it."""

    at: int
    """When it arrived, UTC ns."""
    violated: bool | None
    """None without data."""
    missing: str | None = None
    """Why there is no data."""


class StepLags(Struct, frozen=True):
    """Lags of one source, seconds, one for each step that it showed."""

    period: float
    window: float
    appears: list[float]
    vanishes: list[float]
    steps: int
    blind: dict[str, int]
    """How many samples had no data from the first step on, by reason."""
    expected: Lag


@click.command()
@click.option(
    "--steps",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="How many steps to watch; each takes 12 s. 0: none.",
)
@click.option("--slow", is_flag=True, help="Also a Prometheus that scrapes every 15 s: each step then takes 105 s.")
@click.option(
    "--seeds",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Runs of each source on the simulated plant. 0: none.",
)
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    type=click.Choice(tuple(SCENARIOS)),
    default=COST_SCENARIOS,
    show_default=True,
    help="What the simulated plant plays. Repeatable.",
)
@click.option("--json", "path", type=ResultFile(), help="Write the figures here, too.")
def command(steps: int, slow: bool, seeds: int, scenarios: tuple[str, ...], path: Path | None) -> None:
    """How late a step in latency shows, by source, and what that costs in violations and goodput."""
    logging_setup.configure("bench", "error")
    console = Console()
    if steps and shutil.which("prometheus") is None:
        console.print("There is no program prometheus here: its signals are left out.")
    found = asyncio.run(_watch_sources(steps, slow)) if steps else {}
    paid = measure_costs(seeds, scenarios=scenarios) if seeds else {}
    console.print(_table(found, paid))
    for name, one in found.items():
        for reason, count in one.blind.items():
            console.print(f"{name}: {count} samples without data: {reason}", soft_wrap=True, highlight=False)
    if path is not None:
        names = dict.fromkeys([*found, *paid])
        figures = {name: _as_json(found.get(name), paid.get(name)) for name in names}
        path.write_text(json.dumps({"signals": figures}, indent=2) + "\n", encoding="utf-8")


def plan(steps: int, high: float, low: float, begin: int) -> list[LatencyStep]:
    """Plan steps that last about ``high`` seconds, each followed by about ``low`` seconds.

    Their edges differ in phase, so that they meet every part of each source's period.
    """
    planned = []
    for number in range(steps):
        up = begin + int((number * (high + low) + number * _GOLDEN % 1) * _S)
        down = up + int((high + (2 * number + 1) * _GOLDEN % 1) * _S)
        planned.append(LatencyStep(up, down))
    return planned


async def _watch_sources(steps: int, slow: bool) -> dict[str, StepLags]:
    warm, high, low = (35.0, 24.0, 81.0) if slow else (8.0, 4.0, 8.0)
    now = time.time_ns()
    planned = plan(steps, high, low, now + int(warm * _S))
    plant = SteppingPlant(planned, now)
    seen: dict[str, list[ShownSample]] = {}

    async def watch(signal: Signal, samples: list[ShownSample]) -> None:
        observer = Observer(_DOMAIN)

        def put(sample: Sample) -> None:
            observation = observer.observe(sample)
            violated = None if observation.missing else observation.violated
            samples.append(ShownSample(time.time_ns(), violated, observation.missing))

        config = Config(domains=(_DOMAIN,), signal=signal)
        with open_source(config) as source:
            await Sampler(config, source.measure, put, Health()).run()

    async with AsyncExitStack() as stack:
        page = stack.enter_context(MetricsPage([plant]))
        signals = await _signals(page.url, slow, stack)
        watching = await stack.enter_async_context(asyncio.TaskGroup())
        tasks = [watching.create_task(watch(signal, seen.setdefault(name, []))) for name, signal in signals.items()]
        await asyncio.sleep((planned[-1].end - time.time_ns()) / _S + low - 1)
        for task in tasks:
            task.cancel()
    return {name: measure_lags(signal, planned, seen[name]) for name, signal in signals.items()}


async def _signals(page: str, slow: bool, stack: AsyncExitStack) -> dict[str, Signal]:
    signals = {
        f"scrape {period}": Signal(period=period, window=window, scrape=Scrape((page,))) for period, window in _SCRAPES
    }
    if shutil.which("prometheus") is not None:
        processes = await stack.enter_async_context(Processes())
        signals["prometheus 1s"] = build_prometheus_signal(await start_prometheus(processes, [page]))
        if slow:
            every = Duration(15 * _S)
            url = await start_prometheus(processes, [page], every)
            signals["prometheus 15s"] = Signal(
                source="prometheus",
                period=Duration(_S),
                window=Duration(4 * every),
                prometheus=Prometheus(url=url, scrape_interval=every),
            )
    return signals


def measure_lags(signal: Signal, steps: Sequence[LatencyStep], seen: Sequence[ShownSample]) -> StepLags:
    """Measure how long the begin and the end of each step took to show."""
    appears, vanishes = [], []
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        until = following.begin if following is not None else None
        shown = _first(seen, step.begin, step.end, violated=True)
        gone = _first(seen, step.end, until, violated=False)
        appears += [] if shown is None else [(shown - step.begin) / _S]
        vanishes += [] if gone is None else [(gone - step.end) / _S]
    blind = Counter(one.missing for one in seen if one.missing is not None and one.at >= steps[0].begin)
    period, window = signal.period.seconds, signal.window.seconds
    return StepLags(
        period=period,
        window=window,
        appears=appears,
        vanishes=vanishes,
        steps=len(steps),
        blind=dict(blind),
        expected=source_class(signal.source).lag(signal),
    )


def _first(seen: Sequence[ShownSample], since: int, until: int | None, *, violated: bool) -> int | None:
    times = (one.at for one in seen if one.violated is violated and one.at >= since)
    return next((at for at in times if until is None or at < until), None)


def _table(found: dict[str, StepLags], paid: dict[str, Summary]) -> Table:
    caption = "seconds: median / longest (expected at most); s/step: bad seconds an unpredicted step"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=caption)
    columns = ("source", "shows after", "its end after", "violated", "s/step", "goodput")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for name in dict.fromkeys([*found, *paid]):
        lag, cost = found.get(name), paid.get(name)
        late = ["-", "-"]
        if lag is not None:
            late = [_cell(lag.appears, lag.expected.appears), _cell(lag.vanishes, lag.expected.vanishes)]
        price = ["-", "-", "-"]
        if cost is not None:
            price = [f"{cost.violation:.2%}", f"{cost.per_step or 0.0:.1f}", f"{cost.goodput:.1%}"]
        table.add_row(name, *late, *price)
    return table


def _cell(lags: Sequence[float], expected: float) -> str:
    seen = f"{median(lags):.2f} / {max(lags):.2f}" if lags else "never"
    return f"{seen} ({expected:.1f})"


def _as_json(lags: StepLags | None, cost: Summary | None) -> dict[str, object]:
    tree: dict[str, object] = {}
    if lags is not None:
        tree = {
            "period_s": lags.period,
            "window_s": lags.window,
            "steps": lags.steps,
            "shown": len(lags.appears),
            "blind": lags.blind,
            "appears_s": _spread(lags.appears, lags.expected.appears),
            "vanishes_s": _spread(lags.vanishes, lags.expected.vanishes),
        }
    if cost is not None:
        tree |= {"violation": cost.violation, "bad_s_a_step": cost.per_step or 0.0, "goodput": cost.goodput}
    return tree


def _spread(lags: Sequence[float], expected: float) -> dict[str, float]:
    if not lags:
        return {"expected": expected}
    return {"min": min(lags), "median": median(lags), "max": max(lags), "expected": expected}
