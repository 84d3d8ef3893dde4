"""What the overview says of a domain: its state, the reason, and who is in charge."""

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import structs

from schemas.definition import Definition, DefinitionSource
from schemas.messages import Action, Decision, Overrun, Sample
from services.tools.common.formatting import decode_message
from services.ui.overview import STATES, TRAIL, BusOverview, Trail
from services.ui.views import DomainView
from tests.support.bus_stream import config, stream

CONFIG = config()
S = 10**9


def messages(count: int = 40) -> tuple[list[Sample], list[Decision]]:
    """Samples and decisions of one domain."""
    found = [decode_message(line) for line in stream(CONFIG, count)]
    return [one for one in found if isinstance(one, Sample)], [one for one in found if isinstance(one, Decision)]


def show(*changes: Any, later: int = 0) -> DomainView:
    """The domain after messages of which the last decides the time."""
    overview = BusOverview(CONFIG.domains)
    for one in changes:
        overview.add(one, getattr(one, "end", 0))
    [view] = overview.build_views(overview.domains["cell-0"].end + later)
    return view


def action(**changes: Any) -> Action:
    """What an actuator did to the first target."""
    target = CONFIG.domains[0].targets[0].key
    one = Action("a", "cell-0", target, "decision", "applied", 5_000, "because")
    return structs.replace(one, **changes)


def calm(decisions: Sequence[Decision]) -> Decision:
    """A decision with data and within its objectives."""
    return next(one for one in decisions if one.stress is not None and one.stress < 0.7)


def test_each_state_has_its_reason() -> None:
    """Broken comes before blind, blind before silent; a pause shows what is in force and why."""
    samples, decisions = messages()
    good = calm(decisions)
    broken = next(one for one in decisions if one.violated)
    blind = next(one for one in decisions if one.stress is None)
    why = next(one for one in samples if one.no_data)
    overrun = structs.replace(good, overruns=(Overrun("cell-0/erp-dashboard", 9_000, 1_000, good.end),))
    paused = action(paused=True, outcome="skipped", reason="kubectl set 70M")
    seen = {
        "waiting": show(),
        "good": show(good),
        "broken": show(broken),
        "unenforced": show(overrun),
        "blind": show(why, blind),
        "silent": show(good, later=9 * S),
        "paused": show(good, paused),
        "near": show(structs.replace(good, stress=0.9)),
        "uncritical": show(
            Definition("cell-0", 1, DefinitionSource(), CONFIG.domains[0], without_critical=True), why, blind
        ),
    }
    assert {name: view.state for name, view in seen.items()} == {name: name for name in STATES}
    assert seen["blind"].reason == "the exporter did not answer"
    assert "kubectl set 70M" in seen["paused"].reason
    assert seen["paused"].in_charge == "somebody else, proportional"
    assert "over its limit of 1.0M" in seen["unenforced"].reason
    assert seen["silent"].reason.startswith("no message for 9 s")


@pytest.mark.parametrize(
    ("cause", "who"), [("dead-man", "fail-safe"), ("restore", "handed back"), ("drift", "proportional")]
)
def test_who_is_in_charge(cause: Any, who: str) -> None:
    """The last action of a target tells."""
    _, decisions = messages()
    assert show(calm(decisions), action(cause=cause)).targets[0].in_charge == who


def test_the_worst_workload_is_shown_beside_its_objective() -> None:
    """And limits and loads are summed up."""
    samples, decisions = messages()
    sample = next(one for one in samples if one.no_data is None)
    view = show(sample, calm(decisions))
    [measure] = sample.critical
    assert view.p95 is not None
    assert measure.p95 is not None
    assert (view.p95.workload, view.p95.objective) == (measure.workload, 2.0)
    assert view.p95.value == pytest.approx(measure.p95 * 1000, abs=0.001)
    assert view.sent == sum(one.throughput or 0 for one in sample.targets)
    assert view.limit == sum(one.limit for one in calm(decisions).targets)


def test_the_worst_come_first() -> None:
    """Equal ones by stress, then by name."""
    overview = BusOverview(config(4).domains)
    _, decisions = messages()
    good, broken = calm(decisions), next(one for one in decisions if one.violated)
    for name, one in (
        ("cell-1", structs.replace(good, stress=0.1)),
        ("cell-2", structs.replace(good, stress=0.5)),
        ("cell-3", broken),
    ):
        overview.add(structs.replace(one, domain=name, end=broken.end), broken.end)
    assert [one.name for one in overview.build_views(broken.end)] == ["cell-3", "cell-0", "cell-2", "cell-1"]


def test_definitions_on_the_bus_configure_domains() -> None:
    """A later one replaces the objectives; a removed domain is not shown."""
    samples, decisions = messages()
    [domain] = CONFIG.domains
    strict = structs.replace(domain, critical=tuple(structs.replace(one, p95=one.p95 // 4) for one in domain.critical))
    overview = BusOverview(())
    for one in (samples[0], Definition("cell-0", 1, DefinitionSource(), strict), samples[1], calm(decisions)):
        overview.add(one, 0)
    [view] = overview.build_views(0)
    assert view.p95 is not None
    assert view.p95.objective == 0.5
    assert overview.configured == (strict,)
    overview.add(Definition("cell-0", 2, DefinitionSource(), strict, removed=True), 0)
    assert overview.build_views(0) == []
    # What was on its way brings it back no more than a definition does.
    overview.add(samples[2], 0)
    assert overview.build_views(0) == []
    overview.add(Definition("cell-0", 3, DefinitionSource(), strict), 0)
    overview.add(samples[3], 0)
    assert [view.name for view in overview.build_views(0)] == ["cell-0"]


def test_the_trail_is_bounded() -> None:
    """It holds the last windows, one point for each."""
    trail = Trail()
    for time in range(10 * TRAIL):
        trail.add(time, 0.5, 1000, None)
    trail.add(10 * TRAIL - 1, 0.75, None, 3)
    points = trail.read(TRAIL)
    assert [one.time for one in points] == list(range(9 * TRAIL, 10 * TRAIL))
    assert (points[-1].stress, points[-1].limit, points[-1].sent) == (0.75, None, 3)
    assert len(trail._times) <= 2 * TRAIL + 1
