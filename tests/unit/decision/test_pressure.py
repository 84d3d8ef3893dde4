"""How long targets have filled their limits, as metrics."""

from math import isnan

from prometheus_client import REGISTRY

from schemas.domain import Critical, Domain, Target
from schemas.messages import Decision, Sample, State, TargetDecision, TargetMeasure
from schemas.units import Rate
from services.decision.metrics import PressureGauges

S = 10**9
TARGET = Target(deployment="app", min=Rate(5_000), max=Rate(80_000), fail_safe=Rate(10_000))
DOMAIN = Domain("pressed", (Critical("robot"),), (TARGET,))


def follow(gauges: PressureGauges, second: int, sent: int | None, limit: int) -> tuple[float, float]:
    """What the metrics show after a second in which so much was sent: at the limit, and at the minimum."""
    end = second * S
    sample = Sample("pressed", end - S, end, S, "test", (), (TargetMeasure(TARGET.key, sent, sent),))
    part = TargetDecision(TARGET.key, limit, limit, "none", limit)
    state = State(0, second, end, {}, "static/1")
    gauges.follow(sample, Decision("pressed", sample.id, end, end + S, (part,), "", state, "static/1"))
    labels = {"domain": "pressed", "target": TARGET.key}
    found = [
        REGISTRY.get_sample_value(name, labels)
        for name in ("sluice_target_at_limit_seconds", "sluice_target_starved_seconds")
    ]
    assert found[0] is not None
    assert found[1] is not None
    return found[0], found[1]


def test_the_seconds_at_the_limit_and_at_the_minimum_are_counted() -> None:
    """Each as long as it holds without a break; a target that has gone has no metric."""
    gauges = PressureGauges(DOMAIN)
    assert [follow(gauges, at, 20_000, 20_000) for at in (1, 2, 3)] == [(0, 0), (1, 0), (2, 0)]
    assert [follow(gauges, at, 5_000, 5_000) for at in (4, 5)] == [(3, 0), (4, 1)]
    assert follow(gauges, 6, 1_000, 5_000) == (0, 0)
    assert follow(gauges, 7, 5_000, 5_000) == (0, 0)
    gauges.define(())
    assert REGISTRY.get_sample_value("sluice_target_at_limit_seconds", {"domain": "pressed"}) is None


def test_throughput_that_is_missing_is_neither_an_end_nor_zero() -> None:
    """The metrics are not known, and go on where they were."""
    gauges = PressureGauges(DOMAIN)
    follow(gauges, 1, 5_000, 5_000)
    assert all(isnan(value) for value in follow(gauges, 2, None, 5_000))
    assert follow(gauges, 3, 5_000, 5_000) == (2, 2)
