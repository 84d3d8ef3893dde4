"""Counters of one process are measured right, those of several never as if they were one."""

import os
from collections.abc import Sequence
from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.sampler.scrape.parser import CounterSeries, ScrapedPage
from services.sampler.scrape.window import PageWindow
from tests.support.lying_counters import judge, write_lie

EXAMPLES = int(os.environ.get("SLUICE_FUZZ_EXAMPLES", "300"))
SERIES = CounterSeries("latency", "f/robot", (), (0.001, 0.002))
PERIOD, WINDOW = 10**9, 4 * 10**9

Counts = tuple[float, float, float]


def show(history: PageWindow, at: int, counts: Sequence[float]) -> None:
    """Add a page."""
    history.add(at * PERIOD, float(at), ScrapedPage({SERIES: tuple(counts)}, {}, {}))


def measured(history: PageWindow, at: int) -> list[float] | None:
    """What is reported of the window; None where it is no data."""
    if history.explain_unreliable(at * PERIOD, "latency"):
        return None
    increases = history.increases()
    return increases[SERIES].counts if SERIES in increases else None


def slow_reference(heights: Sequence[float]) -> bool:
    """Whether any three readings tell that no one process counted them: down and back up, within one window."""
    size = len(heights)
    return any(
        heights[i] > heights[i + 1] and heights[k] >= heights[i]
        for i in range(size - 1)
        for k in range(i + 2, min(size, i + 1 + WINDOW // PERIOD))
    )


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=3, max_size=12))
def test_what_falls_and_returns_is_never_believed(heights: list[int]) -> None:
    """The rule as it is implemented, page by page, against all triples of readings."""
    history, flagged = PageWindow(WINDOW), False
    for at, height in enumerate(heights):
        show(history, at, (height, height, height))
        if slow_reference(heights[: at + 1]) and not flagged:
            flagged = True
            assert measured(history, at) is None


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(10, 30)] * 3), min_size=20, max_size=40),
    # So far apart that the counter is never higher after a restart than before: that would hide it.
    st.sets(st.sampled_from((8, 14, 20, 27, 33)), max_size=3),
    st.integers(100, 10**9),
)
def test_one_process_is_measured_right_or_not_at_all(steps: list[Counts], restarts: set[int], start: int) -> None:
    """The truth is what its steps add up to, whenever it restarts."""
    history, counts, truth = PageWindow(WINDOW), [float(start)] * 3, []
    for at, (fast, middle, slow) in enumerate(steps):
        if at in restarts:
            counts = [0.0] * 3
        gain = [fast, fast + middle, fast + middle + slow]
        counts = [count + more for count, more in zip(counts, gain, strict=True)]
        truth.append(gain)
        show(history, at, counts)
        observed = measured(history, at)
        if at and observed is not None:
            window = truth[max(1, at - WINDOW // PERIOD + 1) :]
            assert observed == [sum(gain[bucket] for gain in window) for bucket in range(3)]


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.integers(50, 300), min_size=30, max_size=60), st.integers(10_000, 10**9), st.integers(10, 29))
def test_a_restart_of_a_steady_process_costs_nothing(steps: list[int], start: int, restart: int) -> None:
    """Its counts from before and after it are both in the window."""
    history, height = PageWindow(WINDOW), start
    for at, step in enumerate(steps):
        height = (0 if at == restart else height) + step
        show(history, at, (0, height, height))
        if at:
            first = max(1, at - WINDOW // PERIOD + 1)
            assert measured(history, at) == [0, sum(steps[first : at + 1]), sum(steps[first : at + 1])]


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(st.integers(0, 10**7), min_size=2, max_size=3, unique=True),
    st.lists(st.integers(0, 20), min_size=2, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), min_size=4, max_size=12),
)
@example([0, 1_001, 2_702], [0, 0], [(0, 1), (0, 7), (1, 1), (2, 4)])  # two jumps in a row
def test_several_processes_are_never_measured_as_one(
    starts: list[int], paces: list[int], turns: list[tuple[int, int]]
) -> None:
    """However long each answers: from the second turn on, nothing is reported that none of them can have counted."""
    history, at, counts = PageWindow(WINDOW), 0, [float(start) for start in starts]
    seen: set[int] = set()
    for turn, length in turns:
        who = turn % len(counts)
        for _ in range(length):
            at += 1
            counts = [count + paces[index % len(paces)] for index, count in enumerate(counts)]
            seen.add(who)
            show(history, at, (0, counts[who], counts[who]))
            observed = measured(history, at)
            if observed is not None and len(seen) > 1 and at > 12:
                # A process younger than the slack may pass for a restart: all that it has counted is recent.  A rise
                # of a thousand is believed beside what a window counts, and each page adds what it counts itself.
                assert observed[2] <= 5 * 20 * len(counts) + 1_000 + 4 * 100


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 2**64))
@example(1_950_594)  # another process answers on the second page of all
@example(4_933_967_754)  # a jump, and a fall on the next page
def test_no_lying_counter_gives_a_wrong_number(seed: int) -> None:
    """The same lies that a Prometheus is given: no data, or what was really observed."""
    pages, size = 60, WINDOW // PERIOD
    lie, history = write_lie(Random(seed), pages), PageWindow(WINDOW)
    for at, page in enumerate(lie.pages):
        shown = {SERIES._replace(labels=(("peer", peer),)): counts for peer, counts in page.items()}
        history.add(at * PERIOD, float(at), ScrapedPage(dict(shown), {}, {}))
        if at < size:
            continue
        believed = not history.explain_unreliable(at * PERIOD, "latency")
        observed = sum(one.counts[-1] for one in history.increases().values()) if believed else None
        # A rise of a thousand is believed beside what a window counts.
        judge(lie, at, size, observed, most_before_a_fall=1_000 + 4 * 100)
