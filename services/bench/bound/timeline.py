"""What really happens on a scenario's link, tick by tick, and what a loop with delays can know of it.

All rates are kbit/s on the wire, all times are seconds after the scenario's start.
"""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from services.plant.scenario import Scenario
from services.plant.score import AFTERMATH
from services.plant.simulated.closed_loop import Delays

Array = NDArray[np.float64]
TICK = 0.02


class Timeline(Struct, frozen=True):
    """A scenario's truth."""

    capacity: Array
    """Of the link, in each tick."""
    load: Array
    """Of the critical workloads and their probes."""
    demand: Array
    """What the targets want together, infinite where one is greedy."""
    judged: NDArray[np.bool_]
    """Of each second, whether it counts: after learning, and not right after an unpredicted step."""
    after_step: NDArray[np.bool_]
    """Of each second, whether it lies right after an unpredicted step, after learning."""
    steps: int
    """Unpredicted steps after learning."""
    nameplate: float

    @classmethod
    def of(cls, scenario: Scenario, probe_hz: int | None = None) -> "Timeline":
        """Compute it from the scenario's events."""
        apps = scenario.apps if probe_hz is None else scenario.apps.with_probes(probe_hz)
        count = round(scenario.seconds / TICK)
        capacity, load, demand = np.empty(count), np.empty(count), np.empty(count)
        edges = [(0.0, apps)]
        for event in sorted(scenario.events, key=lambda one: one.at):
            apps = apps.with_loads(event.loads, event.capacity)
            edges.append((event.at, apps))
        ends = [*(at for at, _ in edges[1:]), scenario.seconds]
        for (begin, now), end in zip(edges, ends, strict=True):
            part = slice(round(begin / TICK), round(end / TICK))
            # A target without a load of its own takes whatever it gets.
            wanted = [np.inf if one.load is None else one.load * one.replicas * 1514 / 1448 for one in now.targets]
            capacity[part], load[part], demand[part] = now.capacity, now.critical_wire(), sum(wanted)
        seconds = np.arange(int(scenario.seconds))
        steps = [event.at for event in scenario.events if event.unpredicted and event.at >= scenario.learning]
        late = np.zeros(seconds.size, dtype=np.bool_)
        for at in steps:
            late |= (seconds > at - 1) & (seconds < at + AFTERMATH)
        learned = seconds >= scenario.learning
        nameplate = float(scenario.apps.capacity)
        return cls(capacity, load, demand, learned & ~late, learned & late, len(steps), nameplate)


class Knowledge(Struct, frozen=True):
    """What a loop knows at each of its samples: means over the stretch that a counter covers."""

    period: float
    delay: float
    """From a sample to its limit in force."""
    capacity: Array
    load: Array

    @classmethod
    def of(cls, truth: Timeline, delays: Delays) -> "Knowledge":
        """What a loop with these delays knows."""
        stretch = delays.scrape or delays.period
        count = int(truth.load.size * TICK / delays.period)
        ends = np.arange(count) * delays.period
        # A scraped counter is as old as the last scrape.
        ends = np.floor(ends / stretch + 1e-9) * stretch
        last = np.clip(np.round(ends / TICK).astype(int), 0, truth.load.size)
        first = np.clip(last - round(stretch / TICK), 0, None)

        def mean(values: Array) -> Array:
            total = np.concatenate(([0.0], np.cumsum(values)))
            averages: Array = (total[last] - total[first]) / np.maximum(last - first, 1)
            averages[last == 0] = values[0]
            return averages

        delay = delays.lag + delays.actuation + delays.actuation_jitter / 2
        return cls(delays.period, delay, mean(truth.capacity), mean(truth.load))

    def index_of(self, ticks: int) -> NDArray[np.int64]:
        """The sample whose limit is in force in each tick; -1 before the first."""
        at = np.arange(ticks) * TICK - self.delay
        index: NDArray[np.int64] = np.floor(at / self.period + 1e-9).astype(np.int64)
        return np.clip(index, -1, self.load.size - 1)
