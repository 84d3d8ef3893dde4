"""The steps of `sluice bench signals`, and the evaluation of the sources' samples."""

import pytest

from schemas.config import Signal
from services.bench.signals.lag import LatencyStep, ShownSample, SteppingPlant, measure_lags, plan
from services.plant.interface import BUCKETS

S = 10**9


def test_latencies_are_high_inside_of_the_steps_only() -> None:
    """With 250 round trips a second, all are below the SLO before the step, and all above it inside."""
    now = 0
    steps = SteppingPlant([LatencyStep(2 * S, 3 * S)], 0, lambda: now)
    at_slo = BUCKETS.index(0.002)
    seen = []
    for now in (2 * S, 3 * S, 4 * S, 4 * S):  # noqa: B007 - the clock reads it
        histogram = steps.read_counters().latency["bench/robot"]
        seen.append((histogram.counts[at_slo], histogram.counts[-1]))
    assert seen == [(500, 500), (500, 750), (750, 1000), (750, 1000)]


def test_steps_do_not_overlap_and_meet_every_part_of_a_second() -> None:
    """A lag depends on the phase of the period in which the step falls, so the plan covers all phases."""
    steps = plan(10, 4.0, 8.0, 1000 * S)
    edges = [edge for step in steps for edge in (step.begin, step.end)]
    assert edges == sorted(edges)
    assert all(4 * S <= step.end - step.begin <= 5 * S for step in steps)
    for times in ([step.begin for step in steps], [step.end for step in steps]):
        assert len({at % S * 5 // S for at in times}) == 5


def test_a_lag_is_from_an_edge_to_the_first_sample_that_shows_it() -> None:
    """Samples without data show nothing; an unseen step has no lag."""
    steps = [LatencyStep(10 * S, 20 * S), LatencyStep(30 * S, 40 * S)]
    shown = [(5, False), (11, False), (12, None), (13, True), (20, True), (22, None), (24, False), (29, False)]
    seen = [ShownSample(at * S, violated, "away" if violated is None else None) for at, violated in shown]
    found = measure_lags(Signal(), steps, seen)
    assert (found.appears, found.vanishes, found.steps) == ([3.0], [4.0], 2)
    assert found.blind == {"away": 2}
    assert found.expected.appears == pytest.approx(0.6)
