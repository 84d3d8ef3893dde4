"""``learned`` on difficult plants and signals: it stays safe, and it recovers."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from schemas.domain import Domain
from schemas.inherited import Inherited
from schemas.messages import Decision, Sample, State
from schemas.units import Rate
from services.control import Controller
from services.control.controller import NOTHING_REPORTED, Reported
from services.plant.scenario import SCENARIOS, Event, Scenario
from services.plant.simulated.closed_loop import Run, play
from services.plant.topology import ERP, SCANNER, TELEMETRY
from services.plant.workloads import Apps, TargetApp

CALM = Scenario(name="calm", text="Nothing changes.", seconds=200)


class Altered(Controller):
    """Alters the samples before the step; the function gets the seconds into the run at which they end."""

    def __init__(self, domain: Domain, alter: Callable[[Sample, float], Sample]) -> None:
        """Take the function that alters a sample."""
        super().__init__(domain)
        self._alter = alter
        self._begun: int | None = None

    def step(
        self,
        state: State | None,
        sample: Sample,
        fault: str | None = None,
        reported: Reported = NOTHING_REPORTED,
        inherited: Inherited | None = None,
    ) -> Decision:
        """One step on the altered sample."""
        self._begun = self._begun or sample.end
        seconds = (sample.end - self._begun) / 1e9
        altered = sample if sample.no_data else self._alter(sample, seconds)
        return super().step(state, altered, fault, reported, inherited)


def run_scenario(scenario: Scenario, domain: Domain | None = None) -> Run:
    """The scenario under ``learned``."""
    domain = domain or scenario.domain()
    return play(scenario, domain, Controller(domain))


def goodput(run: Run, since: float) -> float:
    """From a time on, as a share of the oracle's."""
    return run.score(since).share


@pytest.mark.parametrize("rise", [0.00035, 0.0005])
def test_latency_that_rose_for_good_is_a_new_base(rise: float) -> None:
    """A critical pod moved to a farther node: there is no queue, and no reason to reduce bandwidth."""

    def farther(sample: Sample, at: float) -> Sample:
        if at < 80:
            return sample
        moved = (
            replace(one, p95=(one.p95 or 0) + rise, recent_p50=(one.recent_p50 or 0) + rise) for one in sample.critical
        )
        return replace(sample, critical=tuple(moved))

    domain = CALM.domain()
    run = play(CALM, domain, Altered(domain, farther))
    assert any(one.reason.startswith("latency rose") for one in run.decisions)
    assert goodput(run, 90) > 0.9


@pytest.mark.parametrize("gap", [3, 10])
def test_a_load_that_is_not_measured_for_a_while_is_not_gone(gap: float) -> None:
    """No limit rises meanwhile, and afterwards the limits are as before."""

    def unseen(sample: Sample, at: float) -> Sample:
        if not 100 < at < 100 + gap:
            return sample
        blank = (replace(one, throughput=None, recent=None) for one in sample.critical)
        return replace(sample, critical=tuple(blank))

    domain = CALM.domain()
    run = play(CALM, domain, Altered(domain, unseen))
    began = run.decisions[0].end
    before, after = (
        [one.targets[0].limit for one in run.decisions if (one.end - began > 100e9) is late] for late in (False, True)
    )
    assert max(after[: int(2 * gap) + 4]) <= before[-1]
    assert run.score(60).violation_seconds == 0
    assert goodput(run, 100) > 0.95


def test_after_a_dip_the_room_is_found_again_under_a_load_that_never_rests() -> None:
    """The scanner's load changes every 12 s; the capacity falls to 60 % for half a minute."""
    moves = [Event(at=20.3 + 12 * number, loads={SCANNER: 25_000 if number % 2 else 30_000}) for number in range(48)]
    dip = [Event(at=150.4, capacity=60_000, unpredicted=True), Event(at=180.0, capacity=100_000)]
    scenario = Scenario(
        name="dip", text="", seconds=600, events=tuple(sorted([*moves, *dip], key=lambda event: event.at))
    )
    run = run_scenario(scenario)
    assert goodput(run, 500) > 0.75
    assert run.score(185).violation < 0.02


@pytest.mark.parametrize("load", [10_000, 14_000, 16_000, 18_000])
def test_a_target_that_nearly_fills_its_limit_keeps_no_other_down(load: int) -> None:
    """One target sends a constant load; the other takes everything that the first leaves."""
    scenario = replace(CALM, apps=Apps(targets=(TargetApp(TELEMETRY), TargetApp(ERP, load=load))))
    domain = scenario.domain()
    alike = tuple(replace(one, min=Rate(1_000), max=Rate(100_000), fail_safe=Rate(20_000)) for one in domain.targets)
    run = run_scenario(scenario, replace(domain, targets=alike))
    assert goodput(run, 100) > 0.85
    assert run.score(60).violation_seconds == 0


@pytest.mark.parametrize("seed", range(3))
def test_limits_of_one_pod_count_for_all_pods(seed: int) -> None:
    """Three replicas with a limit each, which idle for a while, are as safe as with one limit for all."""
    idle = (Event(at=100.3, loads={TELEMETRY: 0}), Event(at=250.7, loads={TELEMETRY: None}))
    for base in (SCENARIOS["step"], replace(CALM, seconds=330, events=idle)):
        scenario = replace(base, apps=Apps(targets=(TargetApp(TELEMETRY, replicas=3),))).shift(seed)
        domain = scenario.domain()
        each = (replace(domain.targets[0], scope="per-pod", max=Rate(40_000), fail_safe=Rate(13_000)),)
        domain = replace(domain, targets=each)
        score = play(scenario, domain, Controller(domain), seed=seed).score(60)
        assert score.violation_seconds == score.step_violation_seconds
        assert score.share > 0.9


def test_a_nameplate_far_above_the_truth_costs_a_little_only() -> None:
    """1G is configured, 100M is available: steps back and margins are shares of the measured capacity."""
    domain = CALM.domain()
    wide = tuple(replace(one, max=Rate(1_000_000), fail_safe=Rate(20_000)) for one in domain.targets)
    run = run_scenario(CALM, replace(domain, capacity=Rate(1_000_000), targets=wide))
    assert goodput(run, 60) > 0.7
    assert run.score(60).violation < 0.05


def test_best_effort_at_its_maximum_tests_nothing() -> None:
    """The knee is not assumed to be above the last step."""
    domain = CALM.domain()
    run = run_scenario(CALM, replace(domain, targets=(replace(domain.targets[0], max=Rate(40_000)),)))
    (limit,) = {one.targets[0].limit for one in run.decisions[-100:]}
    assert limit == 40_000
    assert run.decisions[-1].state.memory.knee.total < 73_000


def test_pods_that_are_not_seen_for_a_while_are_as_many_as_before() -> None:
    """The number of pods decides how much of the capacity each pod's limit takes."""

    def unseen(sample: Sample, at: float) -> Sample:
        if not 100 < at < 120:
            return sample
        return replace(
            sample, targets=tuple(replace(one, throughput=None, recent=None, pods=None) for one in sample.targets)
        )

    scenario = replace(CALM, apps=Apps(targets=(TargetApp(TELEMETRY, replicas=3),)))
    domain = scenario.domain()
    each = (replace(domain.targets[0], scope="per-pod", max=Rate(40_000), fail_safe=Rate(13_000)),)
    domain = replace(domain, targets=each)
    run = play(scenario, domain, Altered(domain, unseen))
    assert run.score(60).violation_seconds == 0
    assert goodput(run, 100) > 0.9
