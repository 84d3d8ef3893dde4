"""Limits that are not enforced are found, and sound ones are not blamed."""

import pytest
from msgspec.structs import replace

from schemas.domain import Critical, Domain, Target
from schemas.messages import CriticalMeasure, Decision, InForce, Sample, TargetMeasure
from schemas.units import Rate
from services.bench.policies.enforcement import count_false_alarms, play_fault
from services.control import Controller
from services.control.observation import LONG_NS, fills

S = 10**9
PERIOD = S // 2
BEGIN = 1_800_000_000 * S


def make_domain(scope: str = "aggregate") -> Domain:
    """One target under a fixed limit of 20 Mbit/s."""
    target = Target(
        deployment="upload", min=Rate(1_000), max=Rate(100_000), fail_safe=Rate(20_000), scope=scope,  # type: ignore[arg-type]
    )  # fmt: skip
    return Domain(
        name="floor",
        critical=(Critical(workload="robot"),),
        targets=(target,),
        policy="static",
        parameters={"share": 0.2},
        capacity=Rate(100_000),
    )


def make_sample(number: int, sent: int | None, *, recent: bool = True, pods: int | None = None) -> Sample:
    """A sample with good latency."""
    end = BEGIN + number * PERIOD
    measure = TargetMeasure("default/upload", sent, sent if recent else None, pods)
    critical = CriticalMeasure("default/robot", jitter=0.0001, p95=0.0005, observations=200)
    return Sample("floor", end - 4 * PERIOD, end, PERIOD, "test", (critical,), (measure,))


def decide(
    samples: list[Sample], domain: Domain | None = None, reported: dict[int, InForce] | None = None
) -> list[Decision]:
    """The decisions on some samples; ``reported``: what is in force from some of them on."""
    controller, decisions = Controller(domain or make_domain()), list[Decision]()
    for number, sample in enumerate(samples):
        news = {"default/upload": reported[number]} if reported and number in reported else {}
        decisions.append(controller.step(decisions[-1].state if decisions else None, sample, reported=news))
    return decisions


def first_overrun(decisions: list[Decision]) -> int | None:
    """The number of the first decision that names one."""
    return next((number for number, one in enumerate(decisions) if one.overruns), None)


def test_a_target_over_its_limit_is_named_after_four_seconds() -> None:
    """With what it sends, what it may send, and since when."""
    decisions = decide([make_sample(n, 20_000) for n in range(10)] + [make_sample(n, 60_000) for n in range(10, 30)])
    first = first_overrun(decisions)
    assert first is not None
    (overrun,) = decisions[first].overruns
    assert (overrun.target, overrun.sent, overrun.limit) == ("default/upload", 60_000, 20_000)
    assert decisions[first].end - overrun.since == LONG_NS
    assert overrun.since == BEGIN + 9 * PERIOD


@pytest.mark.parametrize("sent", [[22_000] * 40, [60_000] * 6 + [20_000] * 30, ([60_000] * 7 + [20_000]) * 5])
def test_bursts_and_a_limit_that_takes_a_while_are_no_overrun(sent: list[int]) -> None:
    """A tenth more, and more for less than four seconds, however often."""
    assert first_overrun(decide([make_sample(n, rate) for n, rate in enumerate(sent)])) is None


def test_throughput_that_is_not_known_names_nobody() -> None:
    """A gap begins the count anew: what was sent meanwhile is not known."""
    sent = [60_000] * 7 + [None] + [60_000] * 7
    assert first_overrun(decide([make_sample(n, rate) for n, rate in enumerate(sent)])) is None


@pytest.mark.parametrize("pods", [None, 3])
def test_what_is_not_known_takes_no_overrun_back(pods: int | None) -> None:
    """Neither a meter that is missing, nor a number of pods; the first sample below the limit does."""
    domain = make_domain("aggregate" if pods is None else "per-pod")
    over = [make_sample(n, 90_000, pods=pods) for n in range(12)]
    unknown = [make_sample(n, None if pods is None else 90_000) for n in range(12, 20)]
    known = [make_sample(20, 90_000, pods=pods), make_sample(21, 20_000, pods=pods)]
    decisions = decide(over + unknown + known, domain)
    assert all(not one.overruns and "default/upload" in one.state.over for one in decisions[12:20])
    assert decisions[20].overruns
    assert not decisions[21].state.over


def test_a_gap_between_samples_begins_the_count_anew() -> None:
    """While the bus is away nobody sees what is sent."""
    assert first_overrun(decide([make_sample(n, 60_000) for n in (*range(7), *range(30, 37))])) is None


@pytest.mark.parametrize("recent", [True, False])
def test_a_cut_that_the_api_server_does_not_take_is_no_overrun(recent: bool) -> None:
    """What counts is what is in force, or several limits; once the cut is in force, it counts."""
    samples = [make_sample(n, 50_000, recent=recent) for n in range(70)]
    in_force = {0: InForce(Rate(50_000)), 30: InForce(Rate(20_000), unsettled=True), 50: InForce(Rate(20_000))}
    decisions = decide(samples, reported=in_force)
    assert decisions[-1].targets[0].limit <= 20_000
    assert first_overrun(decisions) == 50 + (LONG_NS // PERIOD) - 1


def test_a_limit_for_each_pod_counts_as_often_as_there_are_pods() -> None:
    """Three pods may send three times the limit; without their number nothing is judged."""
    domain = make_domain("per-pod")
    for sent, pods, found in ((60_000, 3, False), (80_000, 3, True), (80_000, None, False)):
        decisions = decide([make_sample(n, sent, pods=pods) for n in range(20)], domain)
        assert (first_overrun(decisions) is not None) == found


def test_a_mean_over_the_window_is_judged_once_it_lies_after_the_last_change() -> None:
    """A source that knows no last period still sees the traffic from before."""
    domain = replace(make_domain(), parameters={"share": 0.1})
    decisions = decide([make_sample(n, 60_000, recent=False) for n in range(20)], domain)
    first = first_overrun(decisions)
    assert first is not None
    changed = max(one.end for one in decisions if one.targets[0].limit != one.targets[0].was)
    assert decisions[first].end - changed >= 4 * PERIOD + LONG_NS - PERIOD


def test_a_target_fills_its_limit_from_nine_tenths_on() -> None:
    """Where its throughput is not known, neither is that."""
    target = make_domain().targets[0]
    filled = {sent: fills(target, make_sample(0, sent), 20_000) for sent in (None, 17_000, 18_000, 20_000)}
    assert filled == {None: None, 17_000: False, 18_000: True, 20_000: True}


@pytest.mark.parametrize(("scenario", "kind"), [("steady", "off"), ("step", "stuck")])
def test_an_agent_that_silently_stops_is_found_within_ten_seconds(scenario: str, kind: str) -> None:
    """Virtual time: limits that are lifted, and limits that stay when lower ones are asked for."""
    found = play_fault(scenario, kind, 1)  # type: ignore[arg-type]
    assert found.early == 0
    assert found.seconds is not None
    assert found.seconds < 10


@pytest.mark.parametrize("scenario", ["flapping", "capacity"])
def test_sound_runs_raise_no_alarm(scenario: str) -> None:
    """Ten minutes of them; ``sluice bench enforcement`` plays hours."""
    seconds, alarms = count_false_alarms(scenario, 5)
    assert seconds > 200
    assert alarms == 0
