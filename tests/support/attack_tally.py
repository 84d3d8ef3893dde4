"""What attackers tried, and how often a promise was broken: one table at the end of a session.

``make attack`` runs the same tests in their full size; the suite runs a small one.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from tests.support.fault_tally import sum_counts
from tests.support.tally import TableOfTests

ATTACKS = (
    "requests with chosen reply subjects",
    "hostile messages",
    "hostile recordings",
    "hostile metric pages",
    "hostile answers of the API server",
    "silent and many connections",
    "probe and echo packets",
    "clocks one hour off",
    "stops of 30 s",
    "disk full and room again",
    "descriptors used up",
    "Pods of a large cluster",
    "targets of a large cluster",
    "soak",
    "other builds' messages and records",
)
"""Every attack that some test makes, in the order of the table."""
ATTACK = "attack"
"""The property of a test's report that carries its exported tally."""
FULL = "SLUICE_FULL_ATTACKS"
"""Set to 1: the attacks' full size."""
JSON = "SLUICE_ATTACKS_JSON"
"""Where to write the table as JSON."""


def resize(small: int, full: int) -> int:
    """The size of an attack in this run."""
    return full if os.environ.get(FULL) == "1" else small


class Row(Struct):
    """One attack's line of the table."""

    tried: list[str] = []
    broken: int = 0
    safe_s: float | None = None
    """The longest time from the attack until what was promised held again, seconds."""
    peak_mib: float | None = None
    """The largest resident memory of the attacked service."""

    def merge(self, more: "Row") -> None:
        """Add the results of another test."""
        self.tried += more.tried
        self.broken += more.broken
        self.safe_s = max((one for one in (self.safe_s, more.safe_s) if one is not None), default=None)
        self.peak_mib = max((one for one in (self.peak_mib, more.peak_mib) if one is not None), default=None)


class Attacks(TableOfTests[Row]):
    """Collects the results of attacks."""

    names = ATTACKS
    row_type = Row

    def add(
        self, attack: str, tried: str, broken: int = 0, *, safe_s: float | None = None, peak_mib: float | None = None
    ) -> None:
        """Record an attack; fail if a promise was broken.

        Args:
            attack: one of ``ATTACKS``.
            tried: counts of what was tried: ``300 messages, 4 users``.
            broken: promises that did not hold.
            safe_s: how long it took until what was promised held again, seconds.
            peak_mib: the attacked service's largest resident memory.
        """
        self.count(attack, Row([tried], int(broken), safe_s, peak_mib))
        assert not broken, (attack, tried, broken)

    def write(self, path: Path) -> None:
        """Write the table as JSON."""
        rows = {
            attack: {
                "tried": sum_counts(row.tried),
                "promises broken": row.broken,
                "safe after, s": row.safe_s,
                "peak, MiB": row.peak_mib,
            }
            for attack, row in self.rows.items()
        }
        path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")

    def lines(self) -> Iterator[str]:
        """The lines of the table; none if nothing was attacked."""
        if not self.rows:
            return
        yield f"{'':38}{'broken':>7}{'safe after':>12}{'peak':>12}   tried"
        for attack in ATTACKS:
            row = self.rows.get(attack)
            if row is None:
                yield f"{attack:38}{'-':>7}{'-':>12}{'-':>12}   not in this session"
                continue
            safe = "-" if row.safe_s is None else f"{row.safe_s:.2f} s"
            peak = "-" if row.peak_mib is None else f"{row.peak_mib:.1f} MiB"
            yield f"{attack:38}{row.broken:>7}{safe:>12}{peak:>12}   {sum_counts(row.tried)}"
