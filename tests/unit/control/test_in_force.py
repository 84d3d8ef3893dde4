"""Steps from what is in force, with several targets."""

from msgspec.structs import replace

from schemas.domain import Critical, Domain, Target
from schemas.messages import CriticalMeasure, InForce, Sample
from schemas.units import Rate
from services.control import Controller

S = 10**9
ONE, OTHER = (
    Target(deployment=name, min=Rate(1_000), max=Rate(50_000), fail_safe=Rate(20_000)) for name in ("one", "other")
)
DOMAIN = Domain("line", (Critical("robot"),), (ONE, OTHER), policy="proportional", capacity=Rate(60_000))


def sample(second: float, latency: float = 0.0002) -> Sample:
    """A sample of two seconds."""
    end = 1_000 * S + round(second * S)
    return Sample("line", end - 2 * S, end, S // 2, "test", (CriticalMeasure("default/robot", latency, latency, 500),))


def test_nobody_takes_what_a_cut_has_not_released() -> None:
    """One target's cut is not in force: the other is not raised for the dead-man time, and then slowly, by latency."""
    controller = Controller(DOMAIN)
    state = controller.step(None, sample(0)).state
    low = replace(state.shield[ONE.key], limit=5_000, since=state.end)
    state = replace(state, shield={ONE.key: low, OTHER.key: low})
    reported = {ONE.key: InForce(20_000), OTHER.key: InForce(5_000)}
    held = controller.step(state, sample(0.5), None, reported)
    assert {one.target: one.limit for one in held.targets}[OTHER.key] == 5_000
    free = controller.step(state, sample(0.5), None, {**reported, ONE.key: InForce(5_000)})
    assert {one.target: one.limit for one in free.targets}[OTHER.key] > 5_000
    late = controller.step(replace(state, end=state.end + 5 * S), sample(5.5), None, reported)
    assert {one.target: one.limit for one in late.targets}[OTHER.key] > 5_000


def test_without_reports_every_byte_is_as_before() -> None:
    """Nothing reported, and a report that says what was decided, give the same limits."""
    controller = Controller(DOMAIN)
    state = informed = None
    for number in range(20):
        plain = controller.step(state, sample(number / 2))
        known = {one.target: InForce(one.was) for one in plain.targets}
        closed = controller.step(informed, sample(number / 2), None, known)
        assert closed.targets == plain.targets
        assert replace(closed, reported={}, state=replace(closed.state, in_force={})) == plain
        state, informed = plain.state, closed.state
