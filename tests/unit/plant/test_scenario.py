"""Scenarios as data, and the oracle that follows from them."""

import pytest

from services.plant.scenario import SCENARIOS, Event, Scenario
from services.plant.topology import SCANNER, TELEMETRY
from services.plant.workloads import Apps, TargetApp


def test_the_safe_budget_is_the_capacity_less_the_critical_load_on_the_wire() -> None:
    """100 Mbit/s less scanner, robot and two probe streams, headers included."""
    expected = 100_000 - 25_000 * 1514 / 1448 - 2_000 * 242 / 200 - (250 + 100) * 242 * 8 / 1000
    assert Apps().safe_budget() == int(expected)


def test_a_critical_overload_leaves_nothing_but_not_less() -> None:
    """The budget is never negative."""
    assert Apps(capacity=20_000).safe_budget() == 0


def test_phases_cover_the_scenario_and_follow_the_load() -> None:
    """The demo has three phases; in the middle one the scanner's doubled load reduces the budget."""
    before, busy, after = SCENARIOS["demo"].phases()
    assert (before.start, before.end, busy.end, after.end) == (0, 25, 50, 75)
    assert before.budget == after.budget
    assert before.budget - busy.budget == pytest.approx(25_000 * 1514 / 1448, abs=1)


def test_a_burst_begins_no_phase_but_lowers_its_budget() -> None:
    """An event without a phase of its own counts for the whole phase that contains it."""
    burst = Event(at=4, loads={SCANNER: 40_000}, phase=False)
    over = Event(at=4.2, loads={SCANNER: 25_000}, phase=False)
    (phase,) = Scenario(name="x", text="", seconds=10, events=(burst, over)).phases()
    assert phase.budget == Apps().with_loads({SCANNER: 40_000}).safe_budget()


def test_goodput_is_no_more_than_what_is_wanted() -> None:
    """Without a greedy target the oracle delivers the load, not the capacity."""
    assert Apps(targets=(TargetApp(TELEMETRY, load=3_000, replicas=2),)).goodput(70_000) == 6_000


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios_hold_together(name: str) -> None:
    """Events lie in order inside the scenario, and name existing workloads; the domain is valid."""
    scenario = SCENARIOS[name]
    times = [event.at for event in scenario.events]
    assert times == sorted(times)
    assert not times or times[-1] < scenario.seconds
    there = {one.workload for one in scenario.apps.critical} | {one.target for one in scenario.apps.targets}
    assert {workload for event in scenario.events for workload in event.loads} <= there
    assert {target.key for target in scenario.domain().targets} <= there
    phases = scenario.phases()
    assert sum(phase.end - phase.start for phase in phases) == pytest.approx(scenario.seconds)


def test_scaling_keeps_the_shape() -> None:
    """Half of the bottleneck means half of every rate at the same times."""
    whole, half = SCENARIOS["step"], SCENARIOS["step"].scale(0.5)
    assert half.apps.capacity == 50_000
    assert [event.loads[SCANNER] for event in half.events] == [
        (event.loads[SCANNER] or 0) // 2 for event in whole.events
    ]
    assert [event.at for event in half.events] == [event.at for event in whole.events]
