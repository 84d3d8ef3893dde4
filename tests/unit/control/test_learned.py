"""What ``learned`` learns from each kind of evidence, and what it proposes."""

import itertools
from typing import Any

import msgspec
import pytest

from schemas.domain import Critical, Domain, Target
from schemas.units import Rate
from services.control.observation import Observation
from services.control.policies.learned.memory import LearnedMemory
from services.control.policies.learned.policy import Learned
from services.control.policy import Bounds, Proposal

PERIOD = 10**9 // 2
DOMAIN = Domain(
    "d",
    (Critical("robot"),),
    (Target(deployment="up", min=Rate(1_000), max=Rate(100_000), fail_safe=Rate(40_000)),),
    capacity=Rate(100_000),
)
QUIET, QUEUE = 0.1, 0.6
"""Median latency without and with a beginning queue, as a ratio to the SLO."""


def observe(index: int, load: int | None = 28_000, effort: int | None = None, **changes: Any) -> Observation:
    """One observation; by default calm, with best effort filling the limit of the loop."""
    figures: dict[str, Any] = {
        "end": index * PERIOD, "window": 4 * PERIOD, "period": PERIOD, "jitter": 0.1, "p95": 0.2, "lost": 0.0,
        "critical_throughput": load, "critical_recent": load, "target_throughput": effort, "target_recent": effort,
        "missing": None, "stress": 0.2, "violated": False, "recent_by_target": (effort,), "pods": (None,),
    }  # fmt: skip
    median = changes.pop("recent_p50", QUIET)
    figures["medians"] = None if median is None else (median,)
    figures |= changes
    # A single workload feels what there is.
    return Observation(**({"shared_p95": figures["stress"], "queued": median is None or median > 0.5} | figures))


class Loop:
    """The policy, with every proposal applied unchanged."""

    def __init__(self, policy: Learned | None = None, limit: int = 40_000) -> None:
        """Start at a limit."""
        self.policy = policy or Learned(DOMAIN)
        self.memory: LearnedMemory = LearnedMemory()
        self.limit = limit
        self.index = 10

    def step(self, load: int | None = 28_000, **changes: Any) -> Proposal:
        """One period."""
        self.index += 1
        effort = changes.pop("effort", self.limit)
        observation = observe(self.index, load, effort, **changes)
        full = effort is None or effort > 0.9 * self.limit
        bounds = Bounds(1_000, 100_000, 40_000, self.limit, self.limit, full, full and self.limit < 100_000)
        proposal = self.policy.propose(self.memory, observation, bounds)
        assert type(proposal.memory) is LearnedMemory
        self.memory, self.limit = proposal.memory, min(proposal.budget, 100_000)
        return proposal

    def explore_until_touch(self, knee: int = 99_000) -> Proposal:
        """Explore a plant whose queue begins above ``knee``."""
        for _ in range(200):
            total = 28_000 + self.limit
            proposal = self.step(recent_p50=QUEUE if total > knee else QUIET)
            if total > knee:
                return proposal
        raise AssertionError("never touched")


def test_it_explores_fast_where_the_knee_is_far_and_slowly_where_it_may_be_near() -> None:
    """Steps of 8 % a second at first, and of a quarter of a per cent from 90 % of the nameplate on."""
    loop = Loop()
    limits = [loop.limit, *(loop.step().budget for _ in range(30))]
    rises = [after - before for before, after in itertools.pairwise(limits)]
    assert max(rises) > 3_500
    assert max(rise for limit, rise in zip(limits, rises, strict=False) if limit + 28_000 > 90_000) < 300


def test_a_touch_is_taken_back_and_remembered() -> None:
    """Without a violation, the limit goes below the knee and stays there."""
    loop = Loop()
    touched = loop.explore_until_touch()
    assert touched.reason.startswith("touched")
    assert 0.96 * 99_000 < touched.budget + 28_000 < 99_000
    rest = {loop.step().budget for _ in range(50)}
    assert rest == {touched.budget}


def test_probes_become_rarer_while_they_find_nothing_new() -> None:
    """Each probe that finds no change doubles the time to the next."""
    loop = Loop()
    touches: list[int] = []
    while len(touches) < 4:
        total = 28_000 + loop.limit
        reason = loop.step(recent_p50=QUEUE if total > 99_000 else QUIET).reason
        if reason.startswith("touched"):
            touches.append(loop.index)
    gaps = [after - before for before, after in itertools.pairwise(touches)]
    assert gaps[1] > 1.6 * gaps[0]
    assert gaps[2] > 1.6 * gaps[1]


def test_new_room_is_found_and_taken() -> None:
    """After the capacity grew by a fifth, the next probe continues until it touches the new knee."""
    loop = Loop()
    loop.explore_until_touch(80_000)
    for _ in range(300):
        loop.step(recent_p50=QUEUE if 28_000 + loop.limit > 96_000 else QUIET)
    assert 93_000 < loop.limit + 28_000 < 96_000


def test_a_knee_that_falls_is_followed_down() -> None:
    """If it was touched twice at rest, it is expected to go on falling: the limit falls ahead of it, then holds."""
    loop = Loop()
    loop.explore_until_touch()
    for _ in range(8):
        loop.step()
    loop.step(recent_p50=QUEUE)
    for _ in range(8):
        loop.step()
    again = loop.step(recent_p50=QUEUE)
    ahead = [loop.step().budget for _ in range(12)]
    assert loop.memory.knee.falls > 0
    assert ahead[-1] < again.budget - 1_000
    later = [loop.step().budget for _ in range(40)]
    assert min(later) == later[-1]


def test_a_climb_is_no_faster_than_a_touch_can_take_back() -> None:
    """A step builds up less than an SLO of queue before it shows; after eight without a queue it is twice as large."""
    loop = Loop()
    loop.explore_until_touch(80_000)
    totals = [28_000 + loop.limit]
    for _ in range(200):
        loop.step()
        totals.append(28_000 + loop.limit)
    steps = [(after - before) / after for before, after in itertools.pairwise(totals)]
    assert totals[-1] > 90_000
    climb = [step for step in steps if step > 0.0001]
    assert max(climb[:8]) * 0.5 < 0.002
    assert 0.003 < max(climb) < 0.0051


def test_expected_load_is_reserved() -> None:
    """When the critical load rises, best effort falls by as much, and a little more while the rise continues."""
    loop = Loop()
    loop.explore_until_touch()
    before = loop.step().budget
    rising = loop.step(31_000).budget
    risen = loop.step(31_000).budget
    assert rising < risen
    assert before - 3_500 < risen <= before - 2_500


def test_limits_rise_only_after_the_peak_was_held() -> None:
    """A fall of the load is ignored for two seconds."""
    loop = Loop()
    loop.explore_until_touch()
    calm = loop.step().budget
    loop.step(40_000)
    loop.step(40_000)
    held = [loop.step().budget for _ in range(4)]
    assert max(held) < calm - 10_000
    assert [loop.step().budget for _ in range(20)][-1] == pytest.approx(calm, rel=0.02)


def test_a_surge_does_not_change_the_knee() -> None:
    """The load is higher than expected, which explains the violation."""
    loop = Loop()
    loop.explore_until_touch()
    knee = loop.memory.knee.total
    surge = loop.step(50_000, violated=True, stress=20.0, recent_p50=5.0)
    assert surge.reason.startswith("load surged")
    assert surge.budget <= 35_000
    assert loop.memory.knee.total == knee


def test_a_stalled_host_is_ignored() -> None:
    """P95 is above its SLO, but there is no queue and no raise: the limit returns to its former value."""
    loop = Loop()
    loop.explore_until_touch()
    before = loop.step().budget
    spike = loop.step(27_000, violated=True, stress=1.7)
    assert spike.reason.startswith("spike")
    assert spike.budget <= before / 2
    for _ in range(6):
        loop.step(violated=True, stress=1.7)
    after = [loop.step().budget for _ in range(10)]
    assert after[-1] == pytest.approx(before, rel=0.02)


def test_a_queue_behind_a_spike_shows_that_the_capacity_fell() -> None:
    """The P95 showed it first; the limit does not return to a value that would break the SLO again."""
    loop = Loop()
    loop.explore_until_touch()
    assert loop.step(violated=True, stress=23.0).reason.startswith("spike")
    fell = loop.step(violated=True, stress=107.0, recent_p50=60.0)
    assert fell.reason.startswith("fell")
    for _ in range(6):
        loop.step(violated=True, stress=107.0)
    assert max(loop.step().budget for _ in range(10)) < 45_000


def test_a_queue_that_stays_shows_the_capacity() -> None:
    """If a cut does not help, the measured throughput is the capacity."""
    loop = Loop()
    loop.explore_until_touch()
    loop.step(27_000, violated=True, stress=50.0, recent_p50=30.0)
    loop.step(12_000, effort=36_000, violated=True, stress=50.0, recent_p50=31.0)
    reason = loop.step(12_000, effort=36_000, violated=True, stress=50.0, recent_p50=31.0).reason
    assert "a queue stays" in reason or loop.memory.knee.total < 50_000
    assert 40_000 < loop.memory.knee.total < 50_000


def test_bursts_widen_the_margin() -> None:
    """A surge that ends at once leaves a wider margin, up to a maximum."""
    loop = Loop()
    loop.explore_until_touch()
    margins = [loop.memory.margin]
    for _ in range(20):
        loop.step(40_000, violated=True, stress=3.0)
        for _ in range(12):
            loop.step()
        margins.append(loop.memory.margin)
    assert margins[1] > margins[0]
    assert margins[-1] <= 25_000


def test_a_burst_that_nearly_broke_an_slo_widens_the_margin_too() -> None:
    """A window's P95 hides bad seconds, so a P95 near the SLO counts."""
    loop = Loop()
    loop.explore_until_touch()
    before = loop.step().memory.margin
    loop.step(33_000, stress=0.9, p95=0.9)
    after = loop.step(p95=0.9).memory.margin
    assert after == pytest.approx(before + 1_000, abs=1)


def test_a_short_burst_widens_the_margin_by_what_it_was_too_small() -> None:
    """A queue of 10 ms that grew within a quarter of a second: 4 % too much."""
    loop = Loop()
    loop.explore_until_touch()
    before = loop.step().memory.margin
    loop.step(40_000, violated=True, stress=5.0, p95=5.0)
    after = loop.step(stress=5.0, p95=5.0, violated=True).memory.margin
    assert after == pytest.approx(before + 0.04 * loop.memory.knee.total, abs=1)


def test_spikes_in_a_row_are_the_loads_doing() -> None:
    """Two stalls are ignored; the third within a minute shows that this load is too much in bursts."""
    loop = Loop()
    loop.explore_until_touch()
    known = loop.step().memory.knee.total
    for number in range(3):
        reason = loop.step(violated=True, stress=1.5).reason
        assert reason.startswith("crossed" if number == 2 else "spike")
        for _ in range(12):
            loop.step()
    assert loop.memory.knee.total < known


def test_a_burst_that_could_be_followed_adds_the_least() -> None:
    """If a surge lasts more than two periods, the margin is not the cause."""
    loop = Loop()
    loop.explore_until_touch()
    before = loop.step().memory.margin
    for _ in range(3):
        loop.step(40_000, violated=True, stress=5.0, p95=5.0)
    after = loop.step(stress=5.0, p95=5.0, violated=True).memory.margin
    assert after == pytest.approx(before + 1_000, abs=1)


@pytest.mark.parametrize("end", ["a touch", "a minute"])
def test_unrelated_spikes_are_ignored(end: str) -> None:
    """A touch of the knee in between explains them, and after a minute they are forgotten."""
    loop = Loop()
    loop.explore_until_touch()
    for _ in range(2):
        assert loop.step(violated=True, stress=1.5).reason.startswith("spike")
        for _ in range(12):
            loop.step()
    if end == "a touch":
        assert loop.step(recent_p50=QUEUE).reason.startswith("touched")
        for _ in range(12):
            loop.step()
    else:
        for _ in range(125):
            loop.step(effort=100)
    assert loop.step(violated=True, stress=1.5).reason.startswith("spike")


def test_a_stall_while_the_knee_is_unknown_is_not_the_knee() -> None:
    """Without a queue the knee was not crossed: the search continues."""
    loop = Loop()
    loop.step()
    assert loop.step(violated=True, stress=1.5).reason.startswith("spike")
    assert not loop.memory.knee.met


def test_a_probe_that_crosses_is_not_soon_repeated() -> None:
    """If a probe's bursts broke an SLO, the next probe waits twice as long."""
    loop = Loop()
    loop.explore_until_touch()
    while not loop.memory.knee.step:
        loop.step()
    assert loop.step(violated=True, stress=1.5).reason.startswith("crossed")
    assert loop.memory.knee.rest == 60.0


def test_touches_that_grow_are_a_queue_and_no_new_base() -> None:
    """A higher base latency stays constant; a queue under too high a load grows."""
    loop = Loop()
    loop.explore_until_touch()
    reasons = [
        loop.step(recent_p50=median).reason.partition(":")[0] for median in (0.6, 0.6, 0.8, 0.8, 1.0, 1.0, 0.7, 0.7)
    ]
    assert reasons.count("touched") >= 3
    assert "latency rose" not in reasons


def test_a_queue_while_the_critical_load_is_not_seen_is_no_measure_of_the_capacity() -> None:
    """The throughput of best effort alone is not the link's capacity."""
    loop = Loop()
    loop.explore_until_touch()
    reasons = [loop.step(None, effort=36_000, violated=True, stress=50.0, recent_p50=31.0).reason for _ in range(4)]
    assert not [reason for reason in reasons if reason.startswith("a queue stays")]


def test_idle_best_effort_is_ignored() -> None:
    """Without traffic, the limit neither explores nor probes."""
    loop = Loop()
    limits = {loop.step(effort=100).budget for _ in range(200)}
    assert max(limits) <= 62_000
    assert not loop.memory.knee.met


def test_without_throughput_the_safe_limit_itself_is_learned() -> None:
    """The reduced form: the critical load is unknown, and the knee is one of the limit."""
    loop = Loop()
    for _ in range(300):
        loop.step(None, effort=None, recent_p50=QUEUE if loop.limit > 70_000 else QUIET)
    assert 65_000 < loop.limit <= 70_000


def test_without_the_last_periods_median_the_stress_replaces_it() -> None:
    """A source such as Prometheus measures no median: the knee is still touched, by the P95."""
    loop = Loop()
    for _ in range(100):
        queued = loop.limit > 70_000
        loop.step(recent_p50=None, stress=0.8 if queued else 0.2)
    assert 65_000 < loop.limit <= 70_500


def test_memory_survives_the_wire_bit_for_bit() -> None:
    """It is serialized as JSON at every step of a varied run, and stays small."""
    loop = Loop()
    for index in range(400):
        load = 28_000 + 12_000 * (index // 20 % 2)
        loop.step(load, recent_p50=QUEUE if load + loop.limit > 97_000 else QUIET, stress=0.3 + index % 7 / 10)
        body = msgspec.json.encode(loop.memory)
        assert msgspec.json.decode(body, type=LearnedMemory) == loop.memory
        assert len(body) < 2_000


def test_parameters_are_read_and_checked() -> None:
    """Nested ones too; an unknown one is named."""
    policy = Learned(msgspec.structs.replace(DOMAIN, parameters={"margin": 0.05, "knee": {"rest": 10.0}}))
    assert Loop(policy).step().memory.margin == 5_000
    with pytest.raises(ValueError, match="patience"):
        Learned(msgspec.structs.replace(DOMAIN, parameters={"knee": {"patience": 1}}))


def test_noise_in_the_load_is_worth_no_patch() -> None:
    """A load that seems half a per cent higher because of a late reading changes nothing, not even in a probe."""
    loop = Loop()
    loop.explore_until_touch()
    for _ in range(6):
        rest = loop.step().budget
    assert {loop.step(load).budget for load in (28_000, 27_600, 28_450, 28_000, 28_000)} == {rest}
    while not loop.step().reason.startswith("probes"):
        assert loop.index < 1_000
    climbing = [loop.limit, *(loop.step(load).budget for load in (28_000, 28_400, 28_000, 28_000))]
    assert climbing == sorted(climbing)
    assert climbing[-1] > climbing[0]


def test_a_queue_just_after_a_rise_of_the_load_is_no_touch() -> None:
    """The limit that makes room for it is not in force yet, so the knee is not updated."""
    loop = Loop()
    loop.explore_until_touch()
    for _ in range(8):
        loop.step()
    knee = loop.memory.knee.total
    loop.step(31_200)
    loop.step(31_200, recent_p50=QUEUE)
    assert loop.memory.knee.total == knee


def test_a_rise_to_a_known_load_does_not_change_the_knee() -> None:
    """A load that returns within the held peak and breaks an SLO explains the queue by its rise."""
    loop = Loop()
    loop.explore_until_touch()
    for _ in range(8):
        loop.step()
    loop.step(48_000, violated=True, stress=20.0, recent_p50=5.0)
    for _ in range(8):
        loop.step(48_000)
    for _ in range(5):
        loop.step()
    knee = loop.memory.knee.total
    assert loop.step(42_000, violated=True, stress=1.4, recent_p50=QUEUE).reason.startswith("load rose")
    loop.step(48_000, violated=True, stress=2.0, recent_p50=QUEUE)
    assert loop.memory.knee.total == knee


def test_a_queue_that_some_workload_does_not_feel_is_no_queue() -> None:
    """One of two hosts stalls: that teaches nothing, and the decision's reason names it."""
    loop = Loop()
    loop.explore_until_touch()
    for _ in range(8):
        loop.step(medians=(QUIET, QUIET))
    known = loop.memory
    for _ in range(5):
        proposal = loop.step(violated=True, stress=2.6, p95=2.6, shared_p95=0.2, medians=(QUIET, 2.4))
        assert proposal.reason.startswith("host stalled")
    assert loop.memory.knee == known.knee
    assert loop.memory.margin == pytest.approx(known.margin, rel=0.01)


def test_violations_that_lower_loads_do_not_change_are_not_the_loads_doing() -> None:
    """All hosts stall again and again, all alike: after three the knee is what it was, and the next is ignored."""
    loop = Loop()
    loop.explore_until_touch()
    for _ in range(8):
        loop.step()
    known, reasons = loop.memory.knee.total, []
    for _ in range(4):
        reasons.append(loop.step(violated=True, stress=2.6, p95=2.6, recent_p50=2.4).reason.partition(":")[0])
        for _ in range(16):
            loop.step()
    assert reasons == ["touched", "touched", "not the load", "spike"]
    assert loop.memory.knee.total == pytest.approx(known, rel=0.01)


def test_a_meter_that_misses_a_fifth_is_found_out() -> None:
    """The limit is lowered a little, once; what is seen falls with it, so the limit was filled."""
    loop = Loop()
    for _ in range(60):
        loop.step(22_400, effort=int(0.8 * loop.limit))
    assert loop.memory.gain.value == pytest.approx(0.8, abs=0.01)
    assert loop.limit > 60_000


def test_a_target_that_wants_no_more_is_no_meter_that_misses_bytes() -> None:
    """What it sends stays the same when the limit is lowered."""
    loop = Loop()
    sent = int(0.8 * loop.limit)
    for _ in range(200):
        loop.step(effort=sent)
    assert loop.memory.gain.value == 1.0


def test_a_steady_rise_is_followed_ahead() -> None:
    """A load that rises by half a per cent of the capacity each period gets its next rises in advance."""
    loop = Loop()
    loop.explore_until_touch()
    for step in range(1, 12):
        proposal = loop.step(28_000 + 500 * step)
    assert proposal.link is not None
    assert 28_000 + 500 * 12 < proposal.link.expected < 28_000 + 500 * 15


def test_without_a_capacity_the_load_itself_is_the_scale() -> None:
    """Targets may have 1G; the search rises by a share of what flows, and stops at the knee of 100M."""
    (target,) = DOMAIN.targets
    wide = msgspec.structs.replace(DOMAIN, capacity=None, targets=(msgspec.structs.replace(target, max=Rate(10**6)),))
    loop = Loop(Learned(wide))
    limits = [loop.limit]
    for _ in range(30):
        proposal = loop.step(recent_p50=QUEUE if 28_000 + loop.limit > 99_000 else QUIET)
        limits.append(loop.limit)
        if proposal.reason.startswith("touched"):
            break
    assert max(after - before for before, after in itertools.pairwise(limits)) < 0.08 * 99_000
    assert loop.memory.knee.met


def test_by_slow_signals_heracles_decides() -> None:
    """A window of a minute without medians: the knee cannot be touched without crossing it."""
    loop = Loop()
    proposal = loop.step(window=120 * PERIOD, recent_p50=None)
    assert proposal.budget == 100_000 - 28_000 - 5_000
    assert proposal.reason.startswith("slow signals")
