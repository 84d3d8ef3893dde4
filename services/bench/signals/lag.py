"""``sluice bench signals``: how late a step in latency shows in samples, how late its end, and what that costs.

A page of the exporter's kind shows 250 latencies a second whose level steps up and down at known
times.  Every source watches the same steps, each paced by the sampler's own loop.  The bus, the
decision and the patch come on top.  What the lag costs is then played on the simulated plant
(``signal_cost.py``).
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
from services.bench.signals.cost import Cost, costs
from services.control.observation import Observer
from services.plant.harness.metrics_page import MetricsPage
from services.plant.harness.processes import Processes
from services.plant.harness.prometheus import queried, start_prometheus
from services.plant.interface import BUCKETS, Counters, Histogram, Pod
from services.runtime import logging_setup
from services.runtime.health import Health
from services.sampler.loop import Sampler, WallClock
from services.sampler.source import Lag
from services.sampler.source_factory import open_source, source_class

_S = 10**9
_HERTZ = 250
_LOW, _HIGH = (0.0002, 0.0004), (0.005, 0.015)
_GOLDEN = 0.6180339887
"""Multiples of it, modulo one, are spread evenly over 0 to 1."""
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


class Step(Struct, frozen=True):
    """A stretch of high latency.  Times are UTC ns."""

    begin: int
    end: int


class Steps:
    """A plant whose only round trips are low outside of the steps, and high inside of them."""

    pods: Sequence[Pod] = ()

    def __init__(self, steps: Sequence[Step], begin: int, clock: Callable[[], int] = time.time_ns) -> None:
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
                self._observe(number)
                self._number = number + 1
            counts = [sum(self._buckets[: at + 1]) for at in range(len(self._buckets))]
            return Counters({"bench/robot": Histogram(tuple(counts), self._sum, 0)}, {})

    def _observe(self, number: int) -> None:
        at = self._begin + number * _S // _HERTZ
        low, high = _HIGH if any(step.begin <= at < step.end for step in self._steps) else _LOW
        latency = low + (high - low) * (number * _GOLDEN % 1)
        self._buckets[sum(latency > bound for bound in BUCKETS)] += 1
        self._sum += latency


class Seen(Struct, frozen=True):
    """One sample, as control would see it."""

    at: int
    """When it was there, UTC ns."""
    violated: bool | None
    """None without data."""
    missing: str | None = None
    """Why there is no data."""


class Figures(Struct, frozen=True):
    """How late one source showed the steps, in seconds; for each step that it showed."""

    period: float
    window: float
    appears: list[float]
    vanishes: list[float]
    steps: int
    blind: dict[str, int]
    """How many samples had no data from the first step on, by reason."""
    expected: Lag


@click.command()
@click.option("--steps", default=10, show_default=True, help="How many steps to watch; each takes 12 s. 0: none.")
@click.option("--slow", is_flag=True, help="Also a Prometheus that scrapes every 15 s: each step then takes 105 s.")
@click.option("--seeds", default=3, show_default=True, help="Runs of each source on the simulated plant. 0: none.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures here, too.")
def command(steps: int, slow: bool, seeds: int, path: Path | None) -> None:
    """How late a step in latency shows, by source, and what that costs in violations and goodput."""
    logging_setup.configure("bench", "error")
    console = Console()
    if steps and shutil.which("prometheus") is None:
        console.print("There is no program prometheus here: its signals are left out.")
    found = asyncio.run(_measured(steps, slow)) if steps else {}
    paid = costs(seeds) if seeds else {}
    console.print(_table(found, paid))
    for name, one in found.items():
        for reason, count in one.blind.items():
            console.print(f"{name}: {count} samples without data: {reason}", soft_wrap=True, highlight=False)
    if path is not None:
        names = dict.fromkeys([*found, *paid])
        figures = {name: _summary(found.get(name)) | _price(paid.get(name)) for name in names}
        path.write_text(json.dumps({"signals": figures}, indent=2) + "\n", encoding="utf-8")


def plan(steps: int, high: float, low: float, begin: int) -> list[Step]:
    """Steps that last some ``high`` seconds, each followed by some ``low`` ones.

    Their edges lie at ever another place within a second, and so within every source's period.
    """
    planned = []
    for number in range(steps):
        up = begin + int((number * (high + low) + number * _GOLDEN % 1) * _S)
        down = up + int((high + (2 * number + 1) * _GOLDEN % 1) * _S)
        planned.append(Step(up, down))
    return planned


async def _measured(steps: int, slow: bool) -> dict[str, Figures]:
    warm, high, low = (35.0, 24.0, 81.0) if slow else (8.0, 4.0, 8.0)
    now = time.time_ns()
    planned = plan(steps, high, low, now + int(warm * _S))
    plant = Steps(planned, now)
    seen: dict[str, list[Seen]] = {}
    async with AsyncExitStack() as stack:
        page = stack.enter_context(MetricsPage([plant]))
        signals = await _signals(page.url, slow, stack)
        watching = await stack.enter_async_context(asyncio.TaskGroup())
        tasks = [
            watching.create_task(_watch(signal, seen.setdefault(name, []).append)) for name, signal in signals.items()
        ]
        await asyncio.sleep((planned[-1].end - time.time_ns()) / _S + low - 1)
        for task in tasks:
            task.cancel()
    return {name: figures(signal, planned, seen[name]) for name, signal in signals.items()}


async def _signals(page: str, slow: bool, stack: AsyncExitStack) -> dict[str, Signal]:
    signals = {
        f"scrape {period}": Signal(period=period, window=window, scrape=Scrape((page,))) for period, window in _SCRAPES
    }
    if shutil.which("prometheus") is not None:
        processes = await stack.enter_async_context(Processes())
        signals["prometheus 1s"] = queried(await start_prometheus(processes, page))
        if slow:
            every = Duration(15 * _S)
            url = await start_prometheus(processes, page, every)
            signals["prometheus 15s"] = Signal(
                source="prometheus",
                period=Duration(_S),
                window=Duration(4 * every),
                prometheus=Prometheus(url=url, scrape_interval=every),
            )
    return signals


async def _watch(signal: Signal, note: Callable[[Seen], None]) -> None:
    config = Config(domains=(_DOMAIN,), signal=signal)
    observer = Observer(_DOMAIN)

    def put(sample: Sample) -> None:
        observation = observer.observe(sample)
        violated = None if observation.missing else observation.violated
        note(Seen(time.time_ns(), violated, observation.missing))

    with open_source(config) as source:
        await Sampler(config, source.measure, put, Health(), WallClock()).run()


def figures(signal: Signal, steps: Sequence[Step], seen: Sequence[Seen]) -> Figures:
    """How long each step, and each step's end, took to show."""
    appears, vanishes = [], []
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        until = following.begin if following is not None else None
        shown = _first(seen, step.begin, step.end, violated=True)
        gone = _first(seen, step.end, until, violated=False)
        appears += [] if shown is None else [(shown - step.begin) / _S]
        vanishes += [] if gone is None else [(gone - step.end) / _S]
    blind = Counter(one.missing for one in seen if one.missing is not None and one.at >= steps[0].begin)
    period, window = signal.period.seconds, signal.window.seconds
    return Figures(period, window, appears, vanishes, len(steps), dict(blind), source_class(signal.source).lag(signal))


def _first(seen: Sequence[Seen], since: int, until: int | None, *, violated: bool) -> int | None:
    times = (one.at for one in seen if one.violated is violated and one.at >= since)
    return next((at for at in times if until is None or at < until), None)


def _table(found: dict[str, Figures], paid: dict[str, Cost]) -> Table:
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
            price = [f"{cost.violation:.2%}", f"{cost.per_step:.1f}", f"{cost.goodput:.1%}"]
        table.add_row(name, *late, *price)
    return table


def _cell(lags: Sequence[float], expected: float) -> str:
    seen = f"{median(lags):.2f} / {max(lags):.2f}" if lags else "never"
    return f"{seen} ({expected:.1f})"


def _price(one: Cost | None) -> dict[str, object]:
    if one is None:
        return {}
    return {"violation": one.violation, "bad_s_a_step": one.per_step, "goodput": one.goodput}


def _summary(one: Figures | None) -> dict[str, object]:
    if one is None:
        return {}
    return {
        "period_s": one.period,
        "window_s": one.window,
        "steps": one.steps,
        "shown": len(one.appears),
        "blind": one.blind,
        "appears_s": _spread(one.appears, one.expected.appears),
        "vanishes_s": _spread(one.vanishes, one.expected.vanishes),
    }


def _spread(lags: Sequence[float], expected: float) -> dict[str, float]:
    if not lags:
        return {"expected": expected}
    return {"min": min(lags), "median": median(lags), "max": max(lags), "expected": expected}
