"""The times in a report during which something held: an SLO broken, or no data."""

from collections import deque
from dataclasses import dataclass

_KEPT = 400
_GAP_PERIODS = 3
"""Windows further apart than this do not belong to one spell."""


@dataclass
class Spell:
    """One such time.  Times are UTC ns, ends of windows."""

    begin: int
    end: int
    worst: float
    """The largest ratio of a latency figure to its SLO; 0 where there was none."""
    what: str
    """Which figure that was; or why there was no data."""
    period: int
    """Between windows, ns."""
    windows: int = 0
    answered: int | None = None
    """From the end of its first window to the first lower limit in force, ns."""

    @property
    def lasted(self) -> int:
        """How long it lasted, ns: one window says so of the period that it ends."""
        return self.end - self.begin + self.period


class Spells:
    """Spells in order; the latest are kept, all are counted."""

    def __init__(self, period: int) -> None:
        """``period`` is the time between windows, ns."""
        self._period = period
        self.kept: deque[Spell] = deque(maxlen=_KEPT)
        self.count = 0
        self.worst: Spell | None = None
        self.longest: Spell | None = None

    def add(self, end: int, worst: float, what: str) -> Spell:
        """A window in which it held; gives the spell that it belongs to."""
        if not self.kept or end - self.kept[-1].end > _GAP_PERIODS * self._period:
            self.kept.append(Spell(end, end, worst, what, self._period))
            self.count += 1
        spell = self.kept[-1]
        spell.end = end
        spell.windows += 1
        if worst > spell.worst:
            spell.worst, spell.what = worst, what
        if self.worst is None or spell.worst > self.worst.worst:
            self.worst = spell
        if self.longest is None or spell.lasted > self.longest.lasted:
            self.longest = spell
        return spell
