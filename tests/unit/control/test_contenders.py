"""The rules of other projects: each does what its source says, and its memory survives a decision's JSON."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from services.control.observation import Observation
from services.control.policies import POLICIES
from services.control.policy import Bounds, Policy, Proposal
from services.plant.scenario import SCENARIOS

S = 10**9
CRITICAL = 27_000
CLEAR = Observation(
    end=100 * S,
    window=2 * S,
    period=S // 2,
    jitter=0.05,
    p95=0.1,
    lost=0.0,
    critical_throughput=CRITICAL,
    critical_recent=CRITICAL,
    target_throughput=40_000,
    target_recent=40_000,
    medians=(0.1,),
    shared_p95=0.1,
    queued=False,
    missing=None,
    stress=0.1,
    violated=False,
    recent_by_target=(40_000,),
    pods=(),
)
BOUNDS = Bounds(1_000, 100_000, 40_000, 40_000, 40_000, full=True, hungry=True)
NAMES = ("bbr", "cake-autorate", "proteus", "sqm-autorate")


def make(name: str, **parameters: Any) -> Policy:
    """A policy with these parameters."""
    return POLICIES[name](SCENARIOS["steady"].domain(name, parameters))


def delayed(seen: Observation, stress: float = 2.0) -> Observation:
    """The same with latency at ``stress`` of its SLO."""
    return replace(
        seen,
        jitter=stress,
        p95=stress,
        medians=(stress,),
        shared_p95=stress,
        queued=stress > 0.5,
        stress=stress,
        violated=stress > 1,
    )


def run(policy: Policy, steps: int, stress: float = 0.1) -> list[Proposal]:
    """Several steps under the limit that was proposed last, which the targets fill."""
    memory, limit, proposals = policy.memory_type(), BOUNDS.limit, []
    for step in range(steps):
        seen = replace(CLEAR, end=CLEAR.end + step * CLEAR.period, target_throughput=limit, target_recent=limit)
        bounds = replace(BOUNDS, limit=limit, level=limit)
        proposal = policy.propose(memory, delayed(seen, stress), bounds)
        memory = msgspec.json.decode(msgspec.json.encode(proposal.memory), type=policy.memory_type)
        assert memory == proposal.memory
        limit = min(max(proposal.budget, BOUNDS.min), BOUNDS.max)
        proposals.append(proposal)
    return proposals


@pytest.mark.parametrize("name", NAMES)
def test_it_rises_while_the_link_is_loaded_and_nothing_is_delayed(name: str) -> None:
    """The targets fill each limit."""
    assert run(make(name), 60)[-1].budget > BOUNDS.limit


@pytest.mark.parametrize("name", NAMES)
def test_it_falls_while_latency_is_high(name: str) -> None:
    """In the end it is lower than it was."""
    assert run(make(name), 60, stress=3.0)[-1].budget < BOUNDS.limit


def test_cake_autorate_cuts_more_for_a_longer_delay_and_then_waits() -> None:
    """Just above the SLO it keeps 99 % of the whole rate, at two SLOs three quarters."""
    policy = make("cake-autorate")
    little = policy.propose(policy.memory_type(), delayed(CLEAR, 1.0001), BOUNDS)
    much = policy.propose(policy.memory_type(), delayed(CLEAR, 5.0), BOUNDS)
    assert little.budget == pytest.approx(0.99 * 67_000 - CRITICAL, abs=10)
    assert much.budget == pytest.approx(0.75 * 67_000 - CRITICAL, abs=10)
    again = policy.propose(much.memory, delayed(replace(CLEAR, end=CLEAR.end + S)), BOUNDS)
    assert again.budget == BOUNDS.limit


def test_cake_autorate_returns_to_its_base_rate_without_load() -> None:
    """From above and from below."""
    policy = make("cake-autorate")
    idle = replace(CLEAR, target_throughput=100, target_recent=100, critical_recent=100)
    above = policy.propose(policy.memory_type(), idle, replace(BOUNDS, limit=60_000, level=60_000))
    below = policy.propose(policy.memory_type(), idle, replace(BOUNDS, limit=20_000, level=20_000))
    assert 40_000 < above.budget < 60_000
    assert 20_000 < below.budget < 40_000


def test_sqm_autorate_returns_to_a_rate_that_was_safe() -> None:
    """One of those that it kept, or nine tenths of the load if that is lower."""
    policy = make("sqm-autorate", history=3)
    memory = run(policy, 10)[-1].memory
    assert len(memory.safe) == 3
    seen = delayed(replace(CLEAR, target_recent=70_000))
    proposal = policy.propose(memory, seen, replace(BOUNDS, limit=70_000, level=70_000))
    assert proposal.budget + CRITICAL in {*memory.safe, int(0.9 * 97_000)}


def test_proteus_moves_along_the_gradient_of_its_utility() -> None:
    """Where the higher rate is the better one it goes up; where it brings jitter, down."""
    policy = make("proteus")
    memory = policy.propose(policy.memory_type(), CLEAR, BOUNDS).memory
    for jitter, up in ((0.05, True), (3.0, False)):
        later = replace(CLEAR, end=CLEAR.end + 3 * S, target_throughput=42_000, jitter=jitter)
        tried = policy.propose(memory, later, BOUNDS).memory
        assert tried.high is not None
        last = replace(CLEAR, end=CLEAR.end + 6 * S, target_throughput=38_000)
        moved = policy.propose(tried, last, BOUNDS).memory
        assert (moved.rate > memory.rate) is up


def test_bbr_probes_in_cycles_around_the_highest_total() -> None:
    """One step above, one below, six at it; a violation takes a part of it."""
    policy = make("bbr", probe=0.1)
    memory = policy.memory_type()
    budgets = []
    for step in range(8):
        proposal = policy.propose(memory, replace(CLEAR, end=CLEAR.end + step * S // 2), BOUNDS)
        memory = proposal.memory
        budgets.append(proposal.budget)
    total = 67_000
    assert budgets == pytest.approx([1.1 * total - CRITICAL, 0.9 * total - CRITICAL, *[total - CRITICAL] * 6], abs=1)
    cut = policy.propose(memory, delayed(replace(CLEAR, end=CLEAR.end + 5 * S)), BOUNDS)
    assert cut.budget == pytest.approx(0.7 * total - CRITICAL, abs=1)
