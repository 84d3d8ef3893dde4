"""Courses of load and capacity: curves, walks and bursts, as events of a scenario.

Each function returns events in the order of time.  Rates are kbit/s, times are seconds after the scenario's start.
What is random is drawn from the generator that the caller passes, so that the same seed gives the same events.
"""

from collections.abc import Callable, Iterable
from math import exp, pi, sin
from random import Random

from services.plant.scenario import Event


def follow(
    course: Callable[[float], float], seconds: float, every: float, *, workload: str | None = None
) -> tuple[Event, ...]:
    """Set a workload's load, or without one the capacity, to ``course(time)`` again and again.

    The oracle follows each change: a curve has as many phases as changes.
    """
    count = int(seconds / every)
    return tuple(_set(step * every, course(step * every), workload) for step in range(count))


def sine(mean: float, amplitude: float, period: float) -> Callable[[float], float]:
    """A sinusoidal course around ``mean``."""
    return lambda at: mean + amplitude * sin(2 * pi * at / period)


def burst(
    starts: Iterable[float], seconds: float, workload: str, usual: int, high: int, *, phase: bool = False
) -> tuple[Event, ...]:
    """A workload's load rises to ``high`` for ``seconds`` at each of ``starts``, ascending and apart.

    Without ``phase`` the oracle holds the limit that is safe in the bursts, too: they are too short to follow.
    """
    return tuple(
        Event(at=at, loads={workload: load}, phase=phase)
        for start in starts
        for at, load in ((start, high), (start + seconds, usual))
    )


def draw_times(random: Random, mean: float, least: float, until: float, start: float = 0.0) -> list[float]:
    """Times before ``until``, each at least ``least`` and on average ``mean`` seconds after the one before."""
    times: list[float] = []
    at = start
    while True:
        at += least + random.expovariate(1 / (mean - least))
        if at >= until:
            return times
        times.append(round(at, 3))


def walk(random: Random, start: int, share: float, seconds: float, every: float = 0.5) -> tuple[Event, ...]:
    """The capacity walks at random between 40 and 100 % of ``start``.

    Args:
        random: draws the steps.
        start: the largest capacity; the walk begins there.
        share: standard deviation of the change in a second, as a share of ``start``.
        seconds: how long it walks.
        every: seconds from one step to the next.
    """
    level, events = 1.0, []
    for step in range(1, int(seconds / every)):
        level += random.gauss(0, share * every**0.5)
        # Reflect at both ends.
        level = 2.0 - level if level > 1 else level
        level = 0.8 - level if level < 0.4 else level
        events.append(_set(step * every, start * level, None))
    return tuple(events)


def fade(random: Random, mean: int, seconds: float, every: float = 0.5) -> tuple[Event, ...]:
    """The capacity varies as a radio link's: its logarithm returns to the mean within seconds, and has deep fades.

    It stays between 0.56 and 1.6 times ``mean``.
    """
    log, events = 0.0, []
    for step in range(int(seconds / every)):
        log += -log * every / 8 + random.gauss(0, 0.16 * every**0.5)
        if random.random() < 0.01 * every:
            log -= random.uniform(0.5, 1.2)
        events.append(_set(step * every, mean * min(max(exp(log), 0.56), 1.6), None))
    return tuple(events)


def _set(at: float, kbit: float, workload: str | None) -> Event:
    if workload is None:
        return Event(at=at, capacity=round(kbit))
    return Event(at=at, loads={workload: round(kbit)})
