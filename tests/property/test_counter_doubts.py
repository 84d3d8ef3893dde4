"""What PromQL makes of lying counters is right, or no data: against the sum of what was really observed."""

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from services.sampler.prometheus.counter_doubts import explain_fall, explain_jump, explain_uncounted
from tests.support.lying_counters import Lie, judge, write_lie

EXAMPLES = int(os.environ.get("SLUICE_FUZZ_EXAMPLES", "200"))
WINDOW, LONG, PAGES = 4, 40, 60


def read_series(lie: Lie, first: int, last: int) -> Iterator[list[tuple[int, tuple[float, ...]]]]:
    """The readings of each series on some pages."""
    pages = range(max(first, 0), last + 1)
    for peer in dict.fromkeys(peer for at in pages for peer in lie.pages[at]):
        yield [(at, lie.pages[at][peer]) for at in pages if peer in lie.pages[at]]


def falls(readings: Sequence[float]) -> bool:
    """Whether PromQL's resets() is more than zero."""
    return any(after < before for before, after in pairwise(readings))


def increase(readings: Sequence[tuple[int, float]], first: int, last: int) -> float:
    """Over pages a second apart, what PromQL gives as the increase; 0 where it gives nothing."""
    if len(readings) < 2:
        return 0.0
    values = [value for _, value in readings]
    delta = values[-1] - values[0] + sum(a for a, b in pairwise(values) if b < a)
    sampled = readings[-1][0] - readings[0][0]
    average = sampled / (len(readings) - 1)
    at_start, at_end = float(readings[0][0] - first), float(last - readings[-1][0])
    if delta > 0:
        at_start = min(at_start, sampled * values[0] / delta)
    whole = sampled + sum(gap if gap < 1.1 * average else average / 2 for gap in (at_start, at_end))
    return delta * whole / sampled


def count(lie: Lie, at: int) -> float | None:
    """The observations of the window that ends with a page, as PromQL sees them; None where it sees nothing."""
    first, total, seen = at - WINDOW, 0.0, False
    for series in read_series(lie, first, at):
        seen = seen or len(series) > 1
        total += increase([(when, counts[-1]) for when, counts in series], first, at)
    return total if seen else None


def tell(lie: Lie, at: int) -> float | None:
    """The observations of a window as the queries give them; None where they are not believed."""
    resets, returns, appeared = 0, 0, 0.0
    for series in read_series(lie, at - WINDOW, at):
        resets += any(falls([counts[bucket] for _, counts in series]) for bucket in range(3))
        if series[0][0] > at - WINDOW:
            appeared += min(counts[-1] for _, counts in series)
    for series in read_series(lie, at - LONG, at):
        heights = [counts[-1] for _, counts in series]
        fell = sum(after < before for before, after in pairwise(heights))
        returns = max(returns, fell * (1 + (heights[-1] >= max(heights))) if series[-1][0] == at else 0)
    observed = count(lie, at) or 0.0
    before, long_before = count(lie, at - WINDOW), count(lie, at - 2 * WINDOW)
    usual = 0.0 if before is None or long_before is None else min(before, long_before)
    doubt = explain_fall(resets, returns) or explain_jump(observed, usual) or explain_uncounted(observed, appeared)
    return None if doubt else observed


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 2**64))
def test_no_lying_counter_gives_a_wrong_number(seed: int) -> None:
    """One process, restarts, several processes in any order, series that come and go."""
    lie = write_lie(Random(seed), PAGES)
    for at in range(WINDOW, PAGES):
        judge(lie, at, WINDOW, tell(lie, at), most_before_a_fall=1_000)


@given(st.integers(0, 2**64))
def test_a_steady_process_is_always_measured(seed: int) -> None:
    """Whatever its pace: no doubts without a reason, once it is known for two windows."""
    chance = Random(seed)
    pace, height, pages = 10 ** chance.uniform(0.5, 6), chance.uniform(0, 1e9), []
    for _ in range(PAGES):
        height += pace * chance.uniform(0.5, 2)
        pages.append({"": (height, height, height)})
    lie = Lie(pages, [], [], churns=False)
    assert None not in [tell(lie, at) for at in range(3 * WINDOW, PAGES)]
