"""What a step keeps of the one before, once the domain's definition has changed."""

import random
from typing import Any

from msgspec import structs

from schemas.domain import Critical, Domain, Target
from schemas.messages import CriticalMeasure, Decision, Sample, State
from schemas.units import Rate
from services.control import Controller
from services.control.policies import POLICIES
from services.control.shield import Limits

S = 10**9
PERIOD = S // 2


def make_target(name: str, low: int, safe: int, high: int, **more: Any) -> Target:
    """A target with bounds in kbit/s."""
    return Target(deployment=name, min=Rate(low), fail_safe=Rate(safe), max=Rate(high), **more)


BASE = Domain(name="line", critical=(Critical(workload="robot"),), targets=(make_target("x", 5_000, 20_000, 80_000),))


def sample(number: int, p95: float = 0.0004, **more: Any) -> Sample:
    """A sample, by default of an idle network."""
    end = 1_790_000_000 * S + number * PERIOD
    measure = CriticalMeasure("default/robot", p95, p95, 500, 0.0)
    return Sample("line", end - 4 * PERIOD, end, PERIOD, "test", (measure,), **more)


def run(domain: Domain, state: State | None, numbers: range, **more: Any) -> list[Decision]:
    """Step through samples under one definition."""
    controller, decisions = Controller(domain), []
    for number in numbers:
        decisions.append(controller.step(state, sample(number, **more)))
        state = decisions[-1].state
    return decisions


def with_targets(*targets: Target, **more: Any) -> Domain:
    """The domain with other targets."""
    return structs.replace(BASE, targets=targets, **more)


def test_a_limit_above_a_lowered_maximum_is_cut_at_once() -> None:
    """With the first sample under the new definition."""
    before = run(BASE, None, range(40))[-1]
    assert before.targets[0].limit > 30_000
    after = run(with_targets(make_target("x", 1_000, 2_000, 8_000)), before.state, range(40, 41))[0]
    assert after.targets[0].limit == 8_000
    assert after.state.seq == before.state.seq + 1
    assert after.state.epoch == before.state.epoch


def test_a_limit_below_a_raised_minimum_rises_to_it_within_the_bound() -> None:
    """It does not leap, and without data or in violation it does not rise at all."""
    domain = with_targets(make_target("x", 60_000, 60_000, 80_000))
    before = run(BASE, None, range(2))[-1]
    now = before.targets[0].limit
    rise = Limits.from_target(domain.targets[0], domain).rise
    for decision in run(domain, before.state, range(2, 60)):
        limit = decision.targets[0].limit
        assert now <= limit <= now + rise
        now = limit
    assert now >= 60_000
    blind = run(domain, before.state, range(2, 8), no_data="test")
    broken = run(domain, before.state, range(2, 8), p95=0.01)
    assert {one.targets[0].limit for one in (*blind, *broken)} == {before.targets[0].limit}


def test_a_target_that_comes_begins_at_its_fail_safe_limit_and_one_that_goes_is_forgotten() -> None:
    """What stays goes on from where it was."""
    both = with_targets(BASE.targets[0], make_target("y", 1_000, 3_000, 9_000))
    before = run(BASE, None, range(10))[-1]
    came = run(both, before.state, range(10, 11))[0]
    assert came.targets[0].was == before.targets[0].limit
    assert came.targets[1].was == 3_000
    gone = run(BASE, came.state, range(11, 12))[0]
    assert [one.target for one in gone.targets] == ["default/x"]
    for of in (gone.state.shield, gone.state.demand, gone.state.over, gone.state.in_force):
        assert of.keys() <= {"default/x"}


def test_a_policy_that_stays_keeps_its_memory_and_another_begins_afresh() -> None:
    """The objectives may change meanwhile."""
    before = run(BASE, None, range(10))[-1]
    stricter = structs.replace(BASE, critical=(structs.replace(BASE.critical[0], p95=type(BASE.critical[0].p95)(S)),))
    kept = Controller(stricter).step(before.state, sample(10))
    assert kept.state.memory != Controller(stricter).policy.memory_type()
    other = structs.replace(BASE, policy="proportional")
    fresh = Controller(other).step(before.state, sample(10))
    assert fresh.state.policy == fresh.policy == Controller(other).policy.version
    assert fresh.targets[0].was == before.targets[0].limit


def test_no_change_of_a_definition_lets_a_limit_leap() -> None:
    """Definitions at random, from sample to sample: the rise bound, the maximum and the capacity hold at each."""
    for seed in range(60):
        chance = random.Random(seed)
        state: State | None = None
        before: dict[str, int] = {}
        for number in range(40):
            domain = _draw_domain(chance)
            one = sample(
                number, chance.choice([0.0004, 0.0004, 0.0019, 0.01]), no_data=chance.choice([None] * 6 + ["x"])
            )
            decision = Controller(domain).step(state, one)
            for target, decided in zip(domain.targets, decision.targets, strict=True):
                limits = Limits.from_target(target, domain)
                was = before.get(target.key)
                most = limits.fail_safe if was is None else was
                assert decided.limit <= limits.max
                assert decided.limit >= min(limits.min, most)
                assert decided.limit <= max(most, 0) + limits.rise
                if decision.stress is None or decision.violated:
                    assert decided.limit <= most
            if domain.capacity is not None and all(key in before for key in decision.state.shield):
                total = sum(target.limit for target in decision.targets)
                assert total <= max(domain.capacity, sum(domain.targets[i].min for i in range(len(domain.targets))))
            state = decision.state
            before = {target.target: target.limit for target in decision.targets}


def _draw_domain(chance: random.Random) -> Domain:
    targets = []
    for name in chance.choice([["x"], ["y"], ["x", "y"], ["x", "y", "z"]]):
        low, safe, high = sorted(chance.randint(500, 40_000) for _ in range(3))
        targets.append(make_target(name, low, safe, high, weight=chance.randint(1, 3)))
    capacity = (
        Rate(sum(one.fail_safe for one in targets) + chance.randint(1, 60_000)) if chance.random() < 0.5 else None
    )
    return with_targets(*targets, policy=chance.choice(sorted(POLICIES)), capacity=capacity)
