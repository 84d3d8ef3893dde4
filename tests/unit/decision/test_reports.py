"""What reports tell of what is in force."""

from typing import Any

import pytest

from schemas.domain import Critical, Domain, Target
from schemas.messages import InForce
from schemas.units import Rate
from services.decision.domain_log import Enforcement, ReportHead

KEY = "default/app"
DOMAIN = Domain(
    "line", (Critical("robot"),), (Target(deployment="app", min=Rate(5_000), max=Rate(80_000), fail_safe=Rate(10_000)),)
)


def report(limit: int, outcome: str = "applied", **more: Any) -> ReportHead:
    """A report of the actuator."""
    return ReportHead("line", KEY, more.pop("cause", "decision"), outcome, limit, **more)  # type: ignore[arg-type]


def known_after(*reports: ReportHead) -> InForce | None:
    """What is known after some reports, each a second after the one before."""
    enforcement = Enforcement([DOMAIN])
    for second, one in enumerate(reports):
        enforcement.take(one, 100 + second)
    return enforcement.find_news("line", {}).get(KEY)


@pytest.mark.parametrize(
    ("reports", "known"),
    [
        ([], None),
        ([report(50_000)], InForce(50_000)),
        ([report(50_000), report(60_000, "failed", partial=True)], InForce(50_000)),
        ([report(50_000), report(60_000, "skipped")], InForce(50_000)),
        ([report(50_000), report(60_000, partial=True)], InForce(50_000, unsettled=True)),
        ([report(50_000), report(10_000, cause="dead-man", partial=True)], InForce(10_000, unsettled=True)),
        ([report(50_000), report(60_000, partial=True), report(60_000, "unchanged")], InForce(60_000)),
        ([report(50_000), report(60_000, "skipped", paused=True)], InForce(50_000, unsettled=True)),
        ([report(50_000), report(0, cause="restore")], InForce(50_000, unsettled=True)),
        ([report(0, cause="restore")], None),
        ([report(50_000), report(60_000, "dry-run")], None),
        ([report(50_000, applied=90), report(20_000, applied=80)], InForce(50_000)),
        ([report(50_000, applied=900), report(20_000, applied=80)], InForce(20_000)),
        ([report(50_000), report(60_000, v=2)], InForce(50_000)),
    ],
)
def test_what_a_report_tells(reports: list[ReportHead], known: InForce | None) -> None:
    """Whole reports count, partial ones only lower; late ones and those of another version tell nothing."""
    assert known_after(*reports) == known


def test_only_news_is_reported() -> None:
    """What the last decision was told already is none; what is no longer known is."""
    enforcement = Enforcement([DOMAIN])
    enforcement.take(report(50_000), 100)
    assert enforcement.find_news("line", {KEY: InForce(50_000)}) == {}
    enforcement.take(report(50_000, "dry-run"), 101)
    assert enforcement.find_news("line", {KEY: InForce(50_000)}) == {KEY: None}
    enforcement.take(ReportHead("line", "default/other", "decision", "applied", 1), 102)
    assert set(enforcement.find_news("line", {})) <= {KEY}
