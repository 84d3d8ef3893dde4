"""After an outage of any part no SLO is broken that would not have been without it.

``python -m tests.closed_loop`` prints the figures.
"""

from functools import cache

import pytest

from services.actuator.desired_limit import HELD_BACK
from tests.closed_loop.outages import AT, OUTAGES, Outcome, run_outage
from tests.closed_loop.virtual import S, replay


@cache
def undisturbed(policy: str) -> Outcome:
    """The same run without an outage."""
    return run_outage(policy, None)


@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("policy", AT)
def test_no_outage_breaks_an_slo_afterwards(policy: str, outage: str) -> None:
    """Latency and bad seconds are those of a run without it, and the limit rises by no more than in a period."""
    run, back = run_outage(policy, outage), AT[policy] + OUTAGES[outage]
    bad, worst, rise = run.since(back)
    usual = undisturbed(policy).since(AT[policy])
    assert bad <= usual[0]
    assert worst <= max(usual[1], 1.0) * 1.05
    domain = run.loop.domain
    period_rise = 0.2 * (int(domain.targets[0].max) - int(domain.targets[0].min)) / 2
    assert rise <= period_rise + 1
    assert replay(domain, run.loop.decider.samples, run.loop.bus.decisions), "a replay differs"


def test_the_test_sees_an_open_loop() -> None:
    """Without reports and without the actuator's own bound the leap breaks the SLO by far."""
    bad, worst, rise = run_outage("proportional", "API away", closed=False).since(100.0)
    usual = undisturbed("proportional").since(60.0)
    assert rise > 30_000
    assert worst > 4 * usual[1]
    assert bad > 0


def test_decisions_do_not_rise_while_nothing_can_be_enforced() -> None:
    """Forty seconds without the API server: one rise is decided, and nothing above it until it is in force."""
    run = run_outage("proportional", "API away")
    start = run.loop.decider.samples[0].end
    meanwhile = [
        decision.targets[0] for decision, _ in run.loop.bus.decisions if 62 * S < decision.end - start < 99 * S
    ]
    limits = [one.limit for one in meanwhile]
    assert limits == sorted(limits, reverse=True)
    assert 0 < limits[0] - meanwhile[0].was < 9_900
    assert "hold" in {one.rule for one in meanwhile}
    assert not any(HELD_BACK in action.reason for action in run.loop.bus.actions)
