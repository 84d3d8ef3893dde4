"""The bench on real packets, without packets: its plan, the arithmetic of its goals, its tables and its JSON."""

import io
import json

import msgspec
import pytest
from rich.console import Console

from services.bench.goals import Goal, goals_table
from services.bench.policies.learned_goals import judge_real
from services.bench.policies.real import PUBLISHED, QUICK, Selection, plan, select_missing
from services.bench.policies.real_cases import EXTRA
from services.bench.policies.real_runs import (
    BY_NAME,
    BenchConditions,
    EarlierRuns,
    count_false_alarms,
    scenario_of,
    signal_of,
)
from services.bench.policies.results import (
    SUBJECT,
    UNCONTROLLED,
    Cell,
    Outcome,
    Part,
    ScenarioSummary,
    judge,
    summarize_scenarios,
)
from services.bench.policies.tables import encode_results, scenarios_table
from services.plant.harness.run import ScenarioRun
from services.plant.scenario import SCENARIOS
from services.plant.simulated.plant import SimulatedPlant
from services.plant.simulated.realtime import RealtimePlant

S = 10**9
PART = Part(100, 0, 0, 0, 0, 0.97, 3.0)


def run(
    scenario: str = "steady", seed: int = 0, period: float = 0.5, contender: str = SUBJECT, **parts: object
) -> Outcome:
    """A run with these figures in its steady part."""
    part = msgspec.structs.replace(PART, **parts)
    return Outcome(Cell(contender, scenario, seed, period), learning=PART, steady=part)


def goals_of(outcomes: list[Outcome]) -> dict[str, Goal]:
    """The goals by the first words of their names."""
    return {goal.name: goal for goal in judge_real(summarize_scenarios(outcomes))}


def render(*tables: object) -> str:
    """The printed tables."""
    console = Console(file=io.StringIO(), width=200)
    console.print(*tables)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_default_plan_has_what_the_goals_need_and_fits_into_half_an_hour() -> None:
    """The plan covers every goal, and a baseline, a published policy and no control; the first seeds come first."""
    cells = plan(Selection())
    assert {one.contender for one in cells} == {UNCONTROLLED, "proportional", PUBLISHED, SUBJECT}
    assert all(one.contender == UNCONTROLLED or one.contender in BY_NAME for one in cells)
    assert [one.seed for one in cells] == sorted(one.seed for one in cells)
    assert len({one for one in cells if one.scenario == "steady" and one.contender == SUBJECT}) == 3
    figures = [
        Outcome(cell, PART, msgspec.structs.replace(PART, steps=3), reactions=(1.0,), drains=(0.2,)) for cell in cells
    ]
    assert all(goal.seen is not None for goal in judge_real(summarize_scenarios(figures)))
    assert sum(scenario_of(cell, BenchConditions()).seconds + 10 for cell in cells) < 30 * 60


def test_a_choice_is_played_in_every_combination() -> None:
    """Policies, scenarios, signals and seeds; a run without control has no signal."""
    cells = plan(Selection(("learned", UNCONTROLLED), ("step",), (0.25, 1.0), seeds=2))
    assert len(set(cells)) == len(cells) == 6
    assert {one.period for one in cells if one.contender == UNCONTROLLED} == {0.5}
    assert len(plan(Selection(quick=True))) == 4


def test_a_step_is_a_quarter_of_the_capacity_at_moments_that_the_seed_shifts() -> None:
    """This holds for any bottleneck; a signal's window is four of its periods."""
    for conditions in (BenchConditions(), QUICK):
        scenario = scenario_of(Cell(SUBJECT, "step"), conditions)
        scanner = next(one.load for one in scenario.apps.critical if one.workload in scenario.events[0].loads)
        (load,) = scenario.events[0].loads.values()
        assert load is not None
        assert load - scanner == conditions.capacity / 4
    moments = {
        tuple(event.at for event in scenario_of(Cell(SUBJECT, "step", seed), BenchConditions()).events)
        for seed in (1, 2)
    }
    assert len(moments) == 2
    steady = scenario_of(Cell(SUBJECT, "steady"), BenchConditions())
    assert (steady.seconds, steady.learning) == (210, 60)
    assert signal_of(0.25).window == S


def test_the_further_scenarios_are_what_users_reported() -> None:
    """A load that swings by half in 20 s, two greedy targets, and BBR.  Only what was played is a goal."""
    sine, neighbours, bbr = (scenario_of(Cell(SUBJECT, name), BenchConditions()) for name in EXTRA)
    loads = [load for event in sine.events for load in event.loads.values() if load is not None]
    assert (min(loads), max(loads), len(loads)) == (12_500, 37_500, sine.seconds)
    assert [one.load for one in neighbours.apps.targets] == [None, None]
    assert [one.congestion for one in bbr.apps.targets] == ["bbr"]
    assert {one.learning for one in (sine, neighbours, bbr)} == {60}
    goals = goals_of([run("sine", violation_seconds=1, goodput=0.92), run("bbr", goodput=0.91)])
    seen = {name: goal.met for name, goal in goals.items() if name.startswith(EXTRA)}
    assert seen == {
        "sine: SLO violation": False,
        "sine: goodput of the oracle's": True,
        "bbr: SLO violation": True,
        "bbr: goodput of the oracle's": False,
    }


def test_false_alarms_are_counted_over_all_that_ran_under_control() -> None:
    """A run that failed tells nothing; one that the machine disturbed does."""
    alarmed = msgspec.structs.replace(run(), overruns=3)
    runs = [alarmed, run(invalid=100), run(contender=UNCONTROLLED), Outcome(Cell(SUBJECT, "step"), failed="x")]
    assert count_false_alarms(runs) == (500 / 60, 3)


def test_medians_are_taken_over_the_runs_that_count() -> None:
    """Failed runs and runs that the machine disturbed are counted, but do not affect the medians."""
    outcomes = [
        run(seed=0, violation_seconds=0, goodput=0.96, patches=2.0),
        run(seed=1, violation_seconds=2, goodput=0.98, patches=5.0),
        run(seed=2, violation_seconds=1, goodput=0.90, patches=3.0),
        run(seed=3, violation_seconds=90, invalid=80),
        Outcome(Cell(SUBJECT, "steady", 4), failed="NotReady: nats"),
    ]
    assert outcomes[3].is_disturbed
    (line,) = summarize_scenarios(outcomes)
    assert (line.runs, line.left_out) == (3, 2)
    assert (line.violation, line.worst_violation) == (0.01, 0.02)
    assert (line.goodput, line.goodput_from, line.goodput_to, line.patches) == (0.96, 0.90, 0.98, 3.0)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("steady: SLO violation", run(violation_seconds=0), run(violation_seconds=1)),
        ("steady: goodput of the oracle's", run(goodput=0.95), run(goodput=0.949)),
        ("steady: patches a minute and pod", run(patches=4.0), run(patches=4.1)),
        (
            "step, 500 ms signal: bad seconds each",
            run("step", steps=2, step_violation_seconds=4),
            run("step", steps=2, step_violation_seconds=5),
        ),
        (
            "step, 1000 ms signal: bad seconds each",
            run("step", period=1.0, steps=2, step_violation_seconds=6),
            run("step", period=1.0, steps=2, step_violation_seconds=7),
        ),
        ("demo: goodput of the switching oracle's", run("demo", goodput=0.88), run("demo", goodput=0.87)),
    ],
)
def test_a_goal_is_met_up_to_its_bound(name: str, good: Outcome, bad: Outcome) -> None:
    """On the bound it is met; beyond it is missed; without a run the result is unknown."""
    assert goals_of([good])[name].met is True
    assert goals_of([bad])[name].met is False
    assert goals_of([])[name].met is None
    assert goals_of([run(good.cell.scenario, contender="proportional")])[name].met is None


def test_a_reaction_may_take_two_periods_and_the_drain() -> None:
    """P95 of all runs' reactions together is compared with each signal's own bound."""
    slow = msgspec.structs.replace(run("step", period=1.0, steps=1), reactions=(2.3,), drains=(0.4,))
    fast = [
        msgspec.structs.replace(run("step", seed, steps=1), reactions=(0.5, late), drains=(0.2, 0.2))
        for seed, late in enumerate((0.9, 1.3))
    ]
    goal = goals_of([slow, *fast])
    assert goal["step, 1000 ms signal: reaction, P95"].bound == "<= 2.40 s"
    assert goal["step, 1000 ms signal: reaction, P95"].met is True
    assert goal["step, 500 ms signal: reaction, P95"].bound == "<= 1.20 s"
    assert goal["step, 500 ms signal: reaction, P95"].seen == pytest.approx(1.24)
    assert goal["step, 500 ms signal: reaction, P95"].met is False


def test_tables_show_results_and_missing_runs() -> None:
    """A missed goal is marked; a goal without a run is not met."""
    outcomes = [run(violation_seconds=3), run("demo", contender="proportional", goodput=0.5)]
    lines = summarize_scenarios(outcomes)
    output = render(scenarios_table(lines), goals_table("Goals", judge_real(lines)))
    assert "3.00%" in output
    assert "50.0%" in output
    assert "NO" in output
    assert "not measured" in output


def test_the_json_has_runs_summary_and_goals_and_can_be_gone_on_from() -> None:
    """The file reads back to the same runs; failed and disturbed runs are repeated."""
    outcomes = [run(), run(seed=1, invalid=90), Outcome(Cell(SUBJECT, "steady", 2), failed="TimeoutError: ")]
    lines = summarize_scenarios(outcomes)
    text = encode_results(outcomes, lines, judge_real(lines), BenchConditions())
    tree = json.loads(text)
    assert [one["cell"]["seed"] for one in tree["runs"]] == [0, 1, 2]
    assert tree["summary"][0]["goodput"] == 0.97
    assert tree["goals"]["steady: goodput of the oracle's"]["met"] is True
    before = msgspec.json.decode(text, type=EarlierRuns)
    assert list(before.runs) == outcomes
    cells, kept = select_missing(plan(Selection((SUBJECT,), ("steady",))), before, BenchConditions())
    assert [one.seed for one in cells] == [1, 2]
    assert kept == outcomes[:1]
    with pytest.raises(ValueError, match="other conditions"):
        select_missing(cells, before, QUICK)


def test_a_run_is_judged_before_and_after_its_learning_time() -> None:
    """On seconds of the simulated plant the two parts add up, and drains count from the limit in force."""
    scenario = msgspec.structs.replace(SCENARIOS["steady"], seconds=6.0, learning=2.0)
    model = SimulatedPlant.for_apps(scenario.apps, None, 1, 1_800_000_000 * S)
    one = ScenarioRun("x", scenario, scenario.domain(), RealtimePlant(model), controlled=True)
    one.begin(model.now)
    model.advance(9 * S)
    one.observe()
    cell = Cell(SUBJECT, "steady")
    result = judge(cell, scenario, (one.score(), one.score(since=2.0)), 1, one.reactions(since=2.0))
    assert result.learning is not None
    assert result.steady is not None
    whole = one.score()
    assert result.learning.seconds + result.steady.seconds == whole.seconds > 3
    assert result.learning.violation_seconds + result.steady.violation_seconds == whole.violation_seconds
    assert result.steady.goodput == round(one.score(since=2.0).share, 5)
    assert cell.title == "learned on steady, 500 ms, seed 0"


def test_lines_keep_the_signals_apart() -> None:
    """A line has one contender, one scenario and one signal."""
    lines: list[ScenarioSummary] = summarize_scenarios([run("step"), run("step", period=1.0), run("step", seed=1)])
    assert [(one.period, one.runs) for one in lines] == [(0.5, 2), (1.0, 1)]
