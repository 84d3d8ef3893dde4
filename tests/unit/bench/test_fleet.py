"""The simulated fleet: parts add up, a seed gives the same figures, and what is counted is what happened."""

from services.bench.fleet.command import add_results, summarize
from services.bench.fleet.fleet import Course, Fleet
from services.bench.fleet.links import PERIOD_S

COURSE = Course(180, failures_per_hour=0, flap_at=70.0)


def test_the_same_seed_gives_the_same_figures() -> None:
    """The upgrade restarts every node once, and best effort gets most of what is possible."""
    first, again = (Fleet(6, 3, COURSE).run() for _ in range(2))
    assert first == again
    figures = summarize(first, COURSE)
    assert figures["instances that began"] == 6
    assert figures["goodput, % of what was possible"] > 50
    assert len(first.pod_patches) == COURSE.seconds / PERIOD_S


def test_parts_add_up() -> None:
    """A fleet that is divided among processes counts as one."""
    parts = [Fleet(3, seed, Course(20, upgrade=False)).run() for seed in (1, 2)]
    total = add_results(parts)
    assert total.nodes == 6
    assert total.steps == sum(one.steps for one in parts)
    assert total.pod_patches == [a + b for a, b in zip(*(one.pod_patches for one in parts), strict=True)]
