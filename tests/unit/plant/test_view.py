"""The views of a run, with and without a terminal, and its results."""

import time
from io import StringIO

from rich.console import Console

from schemas.messages import Action, Decision, State, TargetDecision
from services.bus.bus import Received
from services.bus.envelope import RawMessage
from services.plant.harness.bandwidth_agent import EnforcedLimit
from services.plant.harness.results import ScenarioResults, build_table
from services.plant.harness.run import ScenarioRun
from services.plant.harness.view import LogView, TerminalView, select_view
from services.plant.scenario import SCENARIOS, Event
from services.plant.simulated.plant import SimulatedPlant
from services.plant.simulated.realtime import RealtimePlant
from services.plant.topology import SCANNER, TELEMETRY

S = 10**9
SCENARIO = SCENARIOS["demo"].stretch_to(6)


def two_runs() -> list[ScenarioRun]:
    """Build a run without control and one under a safe limit; six seconds have passed."""
    runs = []
    for title, limit in (("no control", None), ("proportional", 40_000)):
        model = SimulatedPlant.for_apps(SCENARIO.apps, start=time.time_ns() - 6 * S)
        if limit is not None:
            model.set_limit("telemetry-upload-0", limit)
            model.set_limit("erp-dashboard-0", 6_000)
        plant = RealtimePlant(model)
        run = ScenarioRun(title, SCENARIO, SCENARIO.domain(), plant, controlled=limit is not None)
        run.begin(model.now)
        model.advance(6 * S)
        runs.append(run)
    return runs


def build_cut(run: ScenarioRun) -> Decision:
    """Build a decision that cuts a limit."""
    target = TargetDecision(TELEMETRY, 20_000, 20_000, "cut", 40_000)
    state = State(1, 1, 1, {}, "proportional/1")
    return Decision(
        run.domain.name, "floor:1", 1, 2, (target,), "latency at 1.70 of its limit", state, "proportional/1"
    )


def test_the_terminal_shows_each_run_and_its_last_decision() -> None:
    """The worst latency, the limit, the bad seconds, the last decision and its action."""
    runs = two_runs()
    out = StringIO()
    console = Console(file=out, force_terminal=True, width=110, height=30)
    view = select_view(console, runs)
    assert isinstance(view, TerminalView)
    runs[1].on_decision(Received(build_cut(runs[1]), RawMessage("", {}, b"", 1, 1)))
    runs[1].action = Action(
        "1", "floor", TELEMETRY, "decision", "applied", 20_000, "", was=40_000, sampled=S, applied=S + 80_000_000
    )
    with view:
        view.say("Starting")
        view.show_page("http://127.0.0.1:9970/")
        view.show(0.0)
        for run in runs:
            run.observe()
        view.show(3.0)
    shown = out.getvalue()
    assert "in a browser: http://127.0.0.1:9970/" in shown
    assert "safety-scanner 50M on 100M" in shown
    assert "none" in shown
    assert "46.0M" in shown
    assert "latency at 1.70 of its limit [cut]" in shown
    assert "telemetry-upload 40.0M -> 20.0M, applied, 80 ms" in shown


def test_without_a_terminal_a_line_is_printed_every_15_seconds() -> None:
    """It has each run's bad seconds so far and its best effort now, in plain text, and no time after the end."""
    runs = two_runs()
    for run in runs:
        run.scenario = SCENARIO.stretch_to(20)
        run.observe()
    out = StringIO()
    view = select_view(Console(file=out, width=80), runs)
    assert isinstance(view, LogView)
    with view:
        for at in range(121):
            view.show(at / 4)
    lines = out.getvalue().splitlines()
    assert [line.split(" of ")[0].strip() for line in lines] == ["15", "20"]
    bad = [run.count_bad_seconds() for run in runs]
    assert bad[0] > 3
    assert bad[1] == 0
    for line in lines:
        assert f"no control: SLO broken {bad[0]} s, best effort" in line
        assert "proportional: SLO broken 0 s, best effort" in line


def test_a_run_counts_patches_and_reactions_from_its_start_on() -> None:
    """A limit that came into force before the scenario is not counted; a crossing has one reaction."""
    run = two_runs()[0]
    assert run.started is not None
    run.on_limit_change(EnforcedLimit(run.started - S, TELEMETRY, "telemetry-upload-0", 40_000, run.started - S))
    run.apply_event(Event(at=1.0, loads={SCANNER: 30_000}))
    run.observe()
    for pod, kbit in (("telemetry-upload-0", 30_000), ("erp-dashboard-0", 1_000)):
        run.plant.set_limit(pod, kbit)
        at = run.started + 7 * S
        run.on_limit_change(EnforcedLimit(at, TELEMETRY, pod, kbit, at))
    score = run.score()
    assert score.patches == 2
    assert score.reaction is not None


def test_results_are_a_table_and_json() -> None:
    """Every run has a column; the JSON has the same figures under their names."""
    runs = two_runs()
    for run in runs:
        run.observe()
    results = ScenarioResults("demo", "simulated", 6.0, {run.title: run.score() for run in runs})
    out = StringIO()
    Console(file=out, width=80).print(build_table(results, SCENARIO))
    assert "pod restarts" in out.getvalue()
    assert "…" not in out.getvalue()
    tree = results.as_json()
    assert set(tree["runs"]) == {"no control", "proportional"}
    assert tree["runs"]["no control"]["violation"] == 1.0
    assert tree["runs"]["proportional"]["violation_seconds"] == 0
