"""A policy that takes too long is skipped for a while, and the decisions record the reason."""

from typing import Any

import pytest

from schemas.domain import Critical, Domain, Target
from schemas.messages import CriticalMeasure, Sample
from schemas.units import Rate
from services.control.observation import Observation, Observer
from services.control.policies.proportional import Proportional
from services.control.policy import Bounds, Proposal
from services.decision.domain_worker import TimedPolicy

DOMAIN = Domain(
    "line", (Critical("robot"),), (Target(deployment="upload", min=Rate(1000), max=Rate(9000), fail_safe=Rate(2000)),)
)
SEEN = Observer(DOMAIN).observe(
    Sample("line", 0, 10**9, 10**9, "test", (CriticalMeasure("default/robot", 0.001, 0.001, 500),))
)
BOUNDS = Bounds(1000, 9000, 2000, 5000, 5000, full=True, hungry=True)


class Clock:
    """A clock that a test controls: every reading advances it by the configured cost."""

    def __init__(self) -> None:
        """Start at zero."""
        self.now = 0.0
        self.cost = 0.0

    def __call__(self) -> float:
        """The time."""
        self.now += self.cost
        return self.now


def faults(costs_ms: list[float]) -> list[str | None]:
    """The faults of so many steps, if a call of the policy costs so much at a step."""
    clock = Clock()
    policy = TimedPolicy(Proportional(), clock, limit_s=0.02)
    found = []
    for cost in costs_ms:
        fault = policy.fault
        found.append(fault)
        if fault is not None:
            policy.skip_step()
        else:
            clock.cost = cost / 1000
            policy.propose(policy.memory_type(), SEEN, BOUNDS)
    return found


def test_a_policy_in_time_is_always_asked() -> None:
    """No fault without a timeout."""
    assert faults([0.01, 5, 19.9]) == [None, None, None]


def test_one_excess_costs_one_step() -> None:
    """The slow answer is still used; the next step skips the policy, and gives the reason."""
    found = faults([0.01, 25, 0.01, 0.01, 0.01])
    assert found == [None, None, "proportional/1 took 25.0 ms of 20", None, None]


def test_a_policy_that_stays_slow_rests_twice_as_long_each_time() -> None:
    """It takes only a small part of the process's time from the other domains."""
    found = faults([25.0] * 200)
    asked = [step for step, fault in enumerate(found) if fault is None]
    assert asked == [0, 2, 5, 10, 19, 36, 69, 134, 199]


def test_an_answer_in_time_ends_the_rests() -> None:
    """The next timeout costs one step again."""
    found = faults([25, 0, 25, 0, 0, 1, 25, 0, 1])
    assert [fault is not None for fault in found] == [False, True, False, True, True, False, False, True, False]


def test_the_policy_stays_what_it_is() -> None:
    """Version, memory, proposals and errors are the policy's own."""
    inner = Proportional()
    policy = TimedPolicy(inner)
    assert (policy.version, policy.memory_type) == (inner.version, inner.memory_type)
    assert policy.propose(policy.memory_type(), SEEN, BOUNDS) == inner.propose(inner.memory_type(), SEEN, BOUNDS)

    class Broken(Proportional):
        def propose(self, memory: Any, seen: Observation, bounds: Bounds) -> Proposal:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        TimedPolicy(Broken()).propose(policy.memory_type(), SEEN, BOUNDS)
