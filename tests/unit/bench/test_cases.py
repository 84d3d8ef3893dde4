"""The cases of the bench: each can be played, each seed gives the same one again, and each is as hard as it says."""

from statistics import mean

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from services.bench.policies.case import HELD_OUT, BenchCase, Prepared, pace_of
from services.bench.policies.case_tables import better_rivals
from services.bench.policies.catalogue import CASES
from services.bench.policies.results import Cell, Outcome, Part, summarize_scenarios
from services.bench.policies.simulated import command, plan
from services.control import Controller
from services.plant.scenario import SCENARIOS
from services.plant.simulated.closed_loop import Run, play


def play_short(prepared: Prepared, seconds: float = 12.0) -> Run:
    """The first seconds of a case, under a fixed limit that is safe."""
    scenario = replace(prepared.scenario, seconds=seconds)
    domain = prepared.domain("static")
    delays = prepared.delays("meter")
    return play(scenario, domain, Controller(domain), delays=delays, seed=1, parameters=prepared.parameters)


@pytest.mark.parametrize("name", list(CASES))
def test_a_case_can_be_prepared_and_is_the_same_for_the_same_seed(name: str) -> None:
    """Its oracle has a safe budget in every phase, and its configuration is valid."""
    case = CASES[name]
    one = case.prepare(3)
    assert one == case.prepare(3)
    assert one.domain().targets
    phases = one.scenario.phases()
    assert min(phase.budget for phase in phases) > 0
    assert phases[-1].end == one.scenario.seconds
    times = [event.at for event in one.scenario.events]
    assert times == sorted(times)


@pytest.mark.parametrize("name", ["bursts-irregular", "walk-gentle", "radio", "stalls-5s", "neighbours"])
def test_each_seed_draws_its_own_course(name: str) -> None:
    """No policy can learn a course by heart."""
    assert CASES[name].prepare(1).scenario.events != CASES[name].prepare(2).scenario.events or (
        CASES[name].prepare(1).parameters != CASES[name].prepare(2).parameters
    )


def test_held_out_seeds_are_played_at_paces_of_their_own() -> None:
    """All other seeds are played at the usual pace."""
    assert {pace_of(seed) for seed in range(5)} == {1.0}
    paces = {pace_of(HELD_OUT + number) for number in range(5)}
    assert len(paces) == 5
    assert 1.0 not in paces
    usual, held_out = CASES["step"].prepare(0), CASES["step"].prepare(HELD_OUT)
    assert usual.scenario.seconds == SCENARIOS["step"].seconds != held_out.scenario.seconds


def test_hosts_that_stall_break_the_slo_whatever_the_limits_are() -> None:
    """The same with one of two hosts; without stalls nothing is broken."""
    steady = CASES["steady"].prepare(1)
    assert play_short(steady).score().violation == 0
    for name in ("stalls-5s", "stalls-one-host"):
        played = play_short(CASES[name].prepare(1))
        assert 1 <= played.score().violation_seconds <= 5
    assert play_short(CASES["outliers-4"].prepare(1)).score().violation_seconds >= 1


def test_meters_are_as_wrong_as_the_case_says() -> None:
    """The truth stays the same; only what is measured differs."""

    def measured(name: str) -> tuple[float, float, float]:
        samples = play_short(CASES[name].prepare(1)).samples[8:]
        targets = [one.targets[0].throughput or 0 for one in samples]
        return mean(targets), mean(one.critical[1].throughput or 0 for one in samples), max(targets) - min(targets)

    target, critical, spread = measured("steady")
    low = measured("throughput-low")
    assert low[:2] == pytest.approx((0.8 * target, 0.8 * critical), rel=0.01)
    assert measured("critical-high")[:2] == pytest.approx((target, 1.2 * critical), rel=0.01)
    assert measured("throughput-noisy")[2] > 5 * spread


def test_without_a_capacity_greedy_targets_may_have_more_than_the_link() -> None:
    """The fail-safe limit stays what it was."""
    with_it, without = CASES["step"].prepare(0).domain(), CASES["unconfigured-step"].prepare(0).domain()
    assert without.capacity is None
    assert without.targets[0].max == 4 * with_it.targets[0].max
    assert without.targets[0].fail_safe == with_it.targets[0].fail_safe


def test_rivals_play_every_case_and_references_the_shipped_ones() -> None:
    """A policy that is asked for by name plays everything; shipped scenarios have more seeds."""
    cells = plan((), (), None, 0)
    assert {one.scenario for one in cells if one.contender == "learned"} == set(CASES)
    assert {one.scenario for one in cells if one.contender == "greedy"} == set(SCENARIOS)
    assert len([one for one in cells if one.contender == "aimd" and one.scenario == "step"]) == 5
    assert len([one for one in cells if one.contender == "aimd" and one.scenario == "radio"]) == 3
    assert len(plan(("radio",), ("greedy",), 2, 0)) == 2


def test_a_rival_is_as_safe_and_delivers_more() -> None:
    """Neither less violation alone nor more goodput alone is enough."""

    def line(contender: str, bad: int, goodput: float) -> Outcome:
        return Outcome(Cell(contender, "steady"), steady=Part(100, 0, bad, 0, 0, goodput, 0.0))

    outcomes = [line("learned", 2, 0.8), line("safe", 0, 0.7), line("greedy", 3, 0.9), line("better", 2, 0.85)]
    rivals = better_rivals({one.contender: one for one in summarize_scenarios(outcomes)})
    assert [one.contender for one in rivals] == ["better"]


def test_the_command_prints_a_row_for_each_case() -> None:
    """Held-out seeds too."""
    chosen = ["--policy", "static 40 %", "--scenario", "demo", "--seeds", "1", "--no-speed", "--held-out"]
    result = CliRunner().invoke(command, chosen)
    assert result.exit_code == 0, result.output
    assert "demo" in result.output
    assert "static 40 %" in result.output


def test_a_case_says_what_it_would_be_without_the_disturbance() -> None:
    """Such a case names another one."""
    disturbed: list[BenchCase] = [one for one in CASES.values() if one.without]
    assert len(disturbed) >= 6
    assert all(one.without in CASES for one in disturbed)
