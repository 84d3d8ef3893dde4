"""How a probe of the knee ends."""

from typing import Any

from services.control.policies.learned.knee import Knee, KneeEstimator, KneeSettings
from tests.unit.control.test_learned import Loop


def test_a_probe_ends_where_the_windows_p95_shows_a_queue_first() -> None:
    """The median has only begun to rise; at rest, the same is no touch."""
    loop = Loop()
    loop.explore_until_touch()
    begun: dict[str, Any] = {"recent_p50": 0.15, "p95": 0.5, "stress": 0.5}
    for _ in range(10):
        loop.step()
    assert not loop.step(**begun).reason.startswith("touched")
    while not loop.memory.knee.step:
        loop.step()
        assert loop.index < 1_000, "never probed again"
    loop.step()
    before = loop.limit
    assert loop.step(**begun).reason.startswith("touched")
    assert loop.limit < before


def test_steps_double_only_where_the_knee_may_be_far() -> None:
    """The last stretch below the capacity is climbed by steps that a touch can take back."""
    knees = KneeEstimator(KneeSettings(), 100_000)
    climbed = Knee(90_000, 1, 30.0, 200.0, 80_000, 80_000, climbed=8)
    assert knees.step_probe(climbed, 90_000, 750, 200.0, near=95_000).step == 400
    assert knees.step_probe(climbed, 90_000, 750, 200.0, near=85_000).step == 200
