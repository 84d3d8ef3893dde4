"""One step of control, case by case."""

from typing import Any

import pytest
from msgspec.structs import replace

from schemas.domain import Critical, Domain, Shield, Target
from schemas.messages import CriticalMeasure, Decision, Sample, TargetMeasure, decode, encode
from schemas.units import Rate
from services.control import Controller, StaleSample, make_policy
from services.control.observation import Observation
from services.control.policy import Bounds, CutMemory, Proposal

PERIOD = 10**9 // 2
DOMAIN = Domain(
    "factory",
    (Critical("robot"), Critical("scanner")),
    (
        Target(deployment="telemetry", min=Rate(1000), max=Rate(90_000), fail_safe=Rate(20_000), weight=3),
        Target(deployment="backup", min=Rate(1000), max=Rate(30_000), fail_safe=Rate(5_000)),
    ),
    "proportional",
)


def sample(index: int, latency: float | None = 0.0005, **fields: Any) -> Sample:
    """Sample number ``index`` of the factory: two workloads with the same latency, seconds."""
    measures = tuple(CriticalMeasure(one.key, latency, latency, 500, 0.0, 1000) for one in DOMAIN.critical)
    targets = tuple(TargetMeasure(one.key) for one in DOMAIN.targets)
    whole = Sample("factory", (index - 4) * PERIOD, index * PERIOD, PERIOD, "test", measures, targets)
    return replace(whole, **fields)


def run(controller: Controller, *samples: Sample) -> list[Decision]:
    """Step through samples, with the state serialized as JSON in between."""
    decisions: list[Decision] = []
    for one in samples:
        state = decode(Decision, encode(decisions[-1])).state if decisions else None
        decisions.append(controller.step(state, one))
    return decisions


def limits(decision: Decision) -> list[int]:
    """The targets' limits, kbit/s."""
    return [one.limit for one in decision.targets]


class Fixed:
    """A policy that gives a fixed answer, or raises it."""

    version = "fixed/1"
    memory_type = CutMemory

    def __init__(self, answer: Any) -> None:
        """Take the answer."""
        self.answer = answer

    def propose(self, memory: CutMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Return the answer."""
        if isinstance(self.answer, Exception):
            raise self.answer
        if isinstance(self.answer, int):
            return Proposal(self.answer, "fixed", memory)
        return self.answer  # type: ignore[no-any-return]


def test_a_run_begins_at_the_fail_safe_limits() -> None:
    """The first decision raises no limit, whatever the policy proposes."""
    (first,) = run(Controller(DOMAIN, Fixed(10**9)), sample(10))
    assert limits(first) == [20_000, 5_000]
    assert (first.epoch, first.seq) == (10 * PERIOD, 1)


def test_slack_raises_and_a_violation_cuts() -> None:
    """The loop in its simplest form."""
    decisions = run(Controller(DOMAIN), *(sample(i) for i in range(10, 20)), sample(20, 0.05))
    assert sum(limits(decisions[-2])) > sum(limits(decisions[0]))
    assert decisions[-1].violated
    assert sum(limits(decisions[-1])) <= sum(limits(decisions[-2])) / 2


def test_one_violation_cuts_once() -> None:
    """The shield does not repeat a policy's own cut while the window still contains the violation."""
    controller = Controller(DOMAIN)
    rise = [sample(i) for i in range(10, 20)]
    late = [sample(20 + i, 0.05) for i in range(4)]  # windows of four periods, all started before the cut took effect
    decisions = run(controller, *rise, *late)
    assert len({tuple(limits(one)) for one in decisions[-4:]}) == 1
    again = run(controller, *rise, *late, sample(25, 0.05))
    assert sum(limits(again[-1])) <= sum(limits(decisions[-1])) / 2


def test_loss_is_a_violation_even_without_latency() -> None:
    """Loss counts without a quantile."""
    lossy = sample(11, None)
    lossy = replace(lossy, critical=tuple(replace(one, lost=1.0, missing="too few") for one in lossy.critical))
    before, after = run(Controller(DOMAIN), sample(10), lossy)
    assert after.violated
    assert after.stress is None
    assert sum(limits(after)) <= sum(limits(before)) / 2


@pytest.mark.parametrize(
    ("what", "bad"),
    [
        ("no_data", replace(sample(30), no_data="timeout")),
        ("missing", replace(sample(30), critical=())),
        ("nan", sample(30, float("nan"))),
        ("infinite", sample(30, float("inf"))),
        ("negative", sample(30, -1.0)),
        ("backwards", replace(sample(30), start=31 * PERIOD)),
        ("no period", replace(sample(30), period=0)),
        ("too long", replace(sample(30), start=-(10**18))),
        ("few", replace(sample(30), critical=tuple(replace(m, observations=99) for m in sample(30).critical))),
    ],
)
def test_no_data_lowers_toward_the_fail_safe_limit(what: str, bad: Sample) -> None:
    """Every kind of missing data gives no rise, but a fall and a reason in words."""
    decisions = run(Controller(DOMAIN), *(sample(i) for i in range(10, 30)), bad)
    assert sum(limits(decisions[-1])) < sum(limits(decisions[-2]))
    assert decisions[-1].reason.startswith("no data: "), what
    assert {one.rule for one in decisions[-1].targets} == {"no-data"}


def test_without_data_the_fail_safe_limit_is_reached_within_decay_and_kept() -> None:
    """From max, within ten samples of half a second, and no further."""
    controller = Controller(DOMAIN, Fixed(10**9))
    full = run(controller, *(sample(i) for i in range(10, 100)))
    assert limits(full[-1]) == [90_000, 30_000]
    unmeasured = run(controller, *(sample(i) for i in range(10, 100)), *(sample(i, None) for i in range(100, 115)))
    assert limits(unmeasured[-6]) == [20_000, 5_000] == limits(unmeasured[-1])


def test_a_gap_longer_than_the_dead_man_time_goes_on_from_the_fail_safe_limit() -> None:
    """Meanwhile the actuator applied it on its own."""
    decisions = run(Controller(DOMAIN, Fixed(10**9)), *(sample(i) for i in range(10, 60)), sample(200))
    assert limits(decisions[-1]) == [20_000, 5_000]
    assert decisions[-1].seq == decisions[-2].seq + 1


def test_a_sample_is_stepped_on_once() -> None:
    """A repeated sample, and an older one, are refused."""
    controller = Controller(DOMAIN)
    (first,) = run(controller, sample(10))
    for index in (10, 9):
        with pytest.raises(StaleSample, match="not newer"):
            controller.step(first.state, sample(index))


def test_limits_never_add_up_to_more_than_the_capacity() -> None:
    """With 60M of capacity for targets of 90M and 30M."""
    decisions = run(
        Controller(replace(DOMAIN, capacity=Rate(60_000)), Fixed(10**9)), *(sample(i) for i in range(10, 120))
    )
    assert max(sum(limits(one)) for one in decisions) == 60_000


@pytest.mark.parametrize(
    "answer",
    [
        RuntimeError("no idea"), RecursionError(), None, "much", object(),
        Proposal(float("nan"), "", CutMemory()), Proposal(1e9, "", CutMemory()), Proposal(True, "", CutMemory()),  # type: ignore[arg-type]
        Proposal(5, None, CutMemory()), Proposal(5, "", {"mine": 1}),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_a_broken_learner_is_replaced_for_the_step(answer: Any) -> None:
    """Whatever it raises or answers, ``proportional`` decides, and the decision gives the reason."""
    decision = run(Controller(DOMAIN, Fixed(answer)), sample(10), sample(14))[-1]
    assert decision.fault is not None
    assert decision.fault.startswith("fixed/1 ")
    assert "stands in" in decision.reason
    assert sum(limits(decision)) > 25_000


def test_the_stand_in_cuts_once_a_window_too() -> None:
    """A policy that always fails must not turn every late window into another cut."""
    controller = Controller(DOMAIN, Fixed(RuntimeError()))
    rise = [sample(i) for i in range(10, 30)]
    decisions = run(controller, *rise, *(sample(30 + i, 0.05) for i in range(4)))
    assert len({tuple(limits(one)) for one in decisions[-4:]}) == 1


def test_a_recorded_fault_takes_the_same_branch() -> None:
    """A replay with the recorded fault gives the decision again, even if the policy would answer now."""
    live = Controller(DOMAIN, Fixed(10**6)).step(None, sample(10), fault="took 80 ms")
    assert live.fault == "took 80 ms"
    assert Controller(DOMAIN, Fixed(10**6)).step(None, sample(10), fault=live.fault) == live


def test_small_rises_add_up_under_the_deadband() -> None:
    """A policy with steps below the deadband is slowed to the deadband's pace, but not frozen."""
    slow = replace(DOMAIN, parameters={"k_up": 0.002}, shield=Shield(deadband=0.01))
    decisions = run(Controller(slow), *(sample(i) for i in range(10, 300)))
    rises = {tuple(limits(one)) for one in decisions}
    assert sum(limits(decisions[-1])) > 40_000
    assert len(rises) < 60


def test_shadow_policies_are_recorded() -> None:
    """Their proposals and limits are recorded beside the live ones, and change nothing."""
    shadowed = Controller(replace(DOMAIN, shadow=("aimd",)))
    with_shadow = run(shadowed, *(sample(i) for i in range(10, 20)))
    alone = run(Controller(DOMAIN), *(sample(i) for i in range(10, 20)))
    assert [limits(one) for one in with_shadow] == [limits(one) for one in alone]
    assert {one.policy for decision in with_shadow for one in decision.shadow} == {"aimd/1"}
    shadowed_step = with_shadow[-1].shadow[0]
    assert shadowed_step.proposal > sum(one.was for one in with_shadow[-1].targets)


def test_a_limit_differs_from_its_proposal_where_the_shield_changed_it() -> None:
    """A proposal of max is changed; one that keeps the limits is not."""
    greedy = run(Controller(DOMAIN, Fixed(10**9)), sample(10))[-1]
    assert all(one.limit != one.proposal for one in greedy.targets)
    single = replace(DOMAIN, targets=DOMAIN.targets[:1])
    assert all(one.limit == one.proposal for one in run(Controller(single, Fixed(20_000)), sample(10))[-1].targets)


def test_a_changed_configuration_is_entered_in_bounds() -> None:
    """Limits from the state are brought within new bounds; a new target starts at its fail-safe limit."""
    state = run(Controller(DOMAIN, Fixed(10**9)), *(sample(i) for i in range(10, 100)))[-1].state
    tight = replace(
        DOMAIN, targets=(replace(DOMAIN.targets[0], max=Rate(50_000)), replace(DOMAIN.targets[1], deployment="x"))
    )
    decision = Controller(tight, Fixed(10**9)).step(state, sample(100))
    assert limits(decision) == [50_000, 5_000]


def test_another_policys_memory_is_not_read() -> None:
    """A changed policy starts with empty memory; so does one whose own memory is unreadable."""
    state = run(Controller(DOMAIN), sample(10))[-1].state
    assert Controller(DOMAIN, Fixed(5)).step(state, sample(11)).state.memory == CutMemory()
    odd = replace(state, memory={"quiet_until": "never"})
    assert Controller(DOMAIN).step(odd, sample(11)).state.memory == CutMemory()


def test_unknown_policies_and_parameters_are_named() -> None:
    """The error names the domain, the policy, and the policies that exist."""
    with pytest.raises(ValueError, match=r"'factory'.*no policy 'magic'; there are .*proportional"):
        make_policy(replace(DOMAIN, policy="magic"))
    with pytest.raises(ValueError, match=r"'factory': policy 'proportional': .*k_sideways"):
        make_policy(replace(DOMAIN, parameters={"k_sideways": 1.0}))


def test_shield_settings_are_checked() -> None:
    """A deadband above the rise of a second would freeze the limit."""
    with pytest.raises(ValueError, match="no rise would ever be large enough"):
        Shield(rise_per_second=0.01, deadband=0.02)


def test_a_rise_that_is_kept_back_goes_to_the_other_targets() -> None:
    """A target that may rise only slowly to its share pulls no other below its share of the budget."""
    targets = (
        Target(deployment="telemetry", min=Rate(1000), max=Rate(100_000), fail_safe=Rate(40_000)),
        Target(deployment="dashboard", min=Rate(60), max=Rate(6_000), fail_safe=Rate(2_400)),
    )
    domain = replace(DOMAIN, targets=targets, shield=Shield(rise_per_second=0.05))
    controller = Controller(domain, Fixed(Proposal(42_400, "keep", CutMemory())))
    first = controller.step(None, sample(10))
    again = Controller(domain, Fixed(Proposal(43_000, "rise", CutMemory()))).step(first.state, sample(12))
    telemetry, dashboard = again.targets
    assert dashboard.rule == "rise"
    assert dashboard.limit < dashboard.proposal == 6_000
    assert telemetry.limit >= telemetry.was
    assert 42_400 < telemetry.limit + dashboard.limit <= 43_000


@pytest.mark.parametrize("late", ["telemetry", "backup"])
def test_a_rise_that_waits_for_the_deadband_moves_no_other_target(late: str) -> None:
    """Another target neither gets the bandwidth that waits, nor is cut step by step for it."""
    idle = Target(deployment="backup", min=Rate(10), max=Rate(6_000), fail_safe=Rate(120))
    apart = replace(
        DOMAIN,
        targets=(Target(deployment="telemetry", min=Rate(1000), max=Rate(90_000), fail_safe=Rate(45_000)), idle),
        shield=Shield(deadband=0.01),
    )
    fixed = Fixed(Proposal(45_120, "", CutMemory()))
    controller = Controller(apart, fixed)

    def sent(index: int, backup: int) -> Sample:
        sends = (TargetMeasure("default/telemetry", 45_000, 45_000), TargetMeasure("default/backup", backup, backup))
        return sample(index, targets=sends)

    settled = run(controller, *(sent(index, 0) for index in range(10, 40)))[-1]
    assert limits(settled) == [45_000, 120]
    if late == "telemetry":
        fixed.answer = Proposal(45_420, "", CutMemory())
    state = settled.state
    rules = set()
    for index in range(40, 60):
        decision = controller.step(state, sent(index, 40 if late == "backup" else 0))
        assert limits(decision) == [45_000, 120], index
        rules |= {one.rule for one in decision.targets if one.target.endswith(late)}
        state = decision.state
    assert rules == {"deadband"}


def test_a_target_that_idles_below_its_minimum_does_not_keep_the_others_down() -> None:
    """The dashboard may send 5M and sends 1M; telemetry fills its limit, and gets more."""
    upload = Target(deployment="telemetry", min=Rate(5_000), max=Rate(90_000), fail_safe=Rate(20_000), weight=4)
    idle = Target(deployment="dashboard", min=Rate(5_000), max=Rate(10_000), fail_safe=Rate(5_000))
    controller = Controller(replace(DOMAIN, policy="learned", targets=(upload, idle), capacity=Rate(100_000)))
    state, limit = None, 20_000
    for index in range(10, 90):
        sent = (TargetMeasure(upload.key, limit, recent=limit), TargetMeasure(idle.key, 1_000, recent=1_000))
        decision = controller.step(state, sample(index, targets=sent))
        state = decision.state
        limit = decision.targets[0].limit
        assert sum(one.limit for one in decision.targets) <= 100_000
    assert limit == upload.max
