"""Which faults the tests injected, and how often a promise was broken: one table at the end of a session."""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct, structs

from schemas.messages import Action
from tests.support.kube.write_trail import Verdict
from tests.support.tally import TableOfTests

FAULTS = (
    "kill -9 at injected points",
    "kill -9 at random",
    "nats-server killed and restarted",
    "nats-server wiped",
    "JetStream cluster loses a node",
    "bus away",
    "API server down",
    "Prometheus or exporter down",
    "sampler silent",
    "clocks jump",
    "malformed and adversarial messages",
    "duplicated and reordered delivery",
    "pods churn while limits change",
    "foreign owner",
)
"""Every fault that some test injects, in the order of the table."""
LATE_S = 15.0
"""A fail-safe limit that takes longer than this after it is due is late.  On an idle machine all come within a second;
on one with ten times the work that it can do, some took seven.  Tests with a virtual clock are exact."""


class Broken(Struct, frozen=True):
    """How often each promise was broken; None if a fault does not test it."""

    lost: int | None = None
    """Acknowledged samples that were never answered, or never delivered."""
    older: int | None = None
    """Limits that replaced a newer one."""
    outside: int | None = None
    """Limits out of the target's bounds."""
    late: int | None = None
    """Fail-safe limits more than ``LATE_S`` after they were due."""
    unreported: int | None = None
    """Patches without a report."""

    def __add__(self, other: "Broken") -> "Broken":
        """Both together."""
        both = zip(structs.astuple(self), structs.astuple(other), strict=True)
        return Broken(*(None if a is None and b is None else (a or 0) + (b or 0) for a, b in both))


class Row(Struct):
    """One fault's line of the table."""

    tried: list[str]
    broken: Broken = Broken()
    worst: float | None = None
    """The longest delay of a fail-safe limit after it was due, seconds; negative: it came before."""

    def merge(self, more: "Row") -> None:
        """Add the results of another test."""
        self.tried += more.tried
        self.broken += more.broken
        self.worst = max((one for one in (self.worst, more.worst) if one is not None), default=None)


class Tally(TableOfTests[Row]):
    """Collects the results of fault tests."""

    names = FAULTS
    row_type = Row

    def add(self, fault: str, tried: str, broken: Broken, after: float | None = None) -> None:
        """Record a fault that a test injected; fail if a promise was broken.

        Args:
            fault: one of ``FAULTS``.
            tried: counts of what was injected: ``3 kills, 120 samples``.
            broken: the promises that were tested.
            after: the delay of a fail-safe limit after it was due, seconds.
        """
        if after is not None:
            broken += Broken(late=int(after > LATE_S))
        self.count(fault, Row([tried], broken, after))
        assert not any(structs.astuple(broken)), (fault, tried, broken, after)

    def lines(self) -> Iterator[str]:
        """The lines of the table; none if no fault test ran."""
        if not self.rows:
            return
        yield f"{'':36}{'lost':>6}{'older':>7}{'outside':>9}{'late':>6}{'worst':>9}{'unreported':>12}   tried"
        for fault in FAULTS:
            row = self.rows.get(fault, Row([]))
            lost, older, outside, late, unreported = (_format(count) for count in structs.astuple(row.broken))
            worst = "-" if row.worst is None else f"{row.worst:+.2f} s"
            figures = f"{fault:36}{lost:>6}{older:>7}{outside:>9}{late:>6}{worst:>9}{unreported:>12}"
            yield f"{figures}   {sum_counts(row.tried) or 'not in this session'}"


def _format(count: Any) -> str:
    return "-" if count is None else str(count)


def sum_counts(tried: list[str]) -> str:
    """Sum counts: ``2 kills, 5 writes`` and ``1 kills, 7 samples`` give ``3 kills, 5 writes, 7 samples``."""
    sums: dict[str, int] = {}
    for text in tried:
        for part in text.split(", "):
            count, _, what = part.partition(" ")
            sums[what] = sums.get(what, 0) + int(count)
    return ", ".join(f"{count:,} {what}" for what, count in sums.items())


def judge(*verdicts: Verdict, lost: int | None = None) -> Broken:
    """The verdict on the trails of several targets."""
    return Broken(
        lost,
        sum(one.older for one in verdicts),
        sum(one.outside for one in verdicts),
        unreported=sum(one.unreported for one in verdicts),
    )


def lateness(action: Action, due: int) -> float:
    """The delay of a fail-safe limit after it was ``due`` (UTC ns), seconds by the actuator's clock."""
    assert action.applied is not None
    return (action.applied - due) / 1e9


FAULT = "fault"
"""The property of a test's report that carries its exported tally."""
