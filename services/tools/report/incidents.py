"""The incidents in a report: times during which an SLO was broken, or there was no data."""

from collections import deque
from dataclasses import dataclass

_KEPT = 400
_GAP_PERIODS = 3
"""Windows further apart than this belong to two incidents."""


@dataclass
class Incident:
    """One incident.  Times are UTC ns, ends of windows."""

    begin: int
    end: int
    worst: float
    """The largest ratio of a latency figure to its SLO; 0 where there was none."""
    what: str
    """The figure with that ratio; or why there was no data."""
    period: int
    """Between windows, ns."""
    windows: int = 0
    response: int | None = None
    """From the end of its first window to the first lower limit in force, ns."""

    @property
    def duration(self) -> int:
        """How long it lasted, ns: each window stands for the period that it ends."""
        return self.end - self.begin + self.period


class IncidentLog:
    """Incidents in order; the latest are kept, all are counted."""

    def __init__(self, period: int) -> None:
        """``period`` is the time between windows, ns."""
        self._period = period
        self.kept: deque[Incident] = deque(maxlen=_KEPT)
        self.count = 0
        self.worst: Incident | None = None
        self.longest: Incident | None = None

    def add(self, end: int, worst: float, what: str) -> Incident:
        """Add a window; return the incident that it belongs to."""
        if not self.kept or end - self.kept[-1].end > _GAP_PERIODS * self._period:
            self.kept.append(Incident(end, end, worst, what, self._period))
            self.count += 1
        incident = self.kept[-1]
        incident.end = end
        incident.windows += 1
        if worst > incident.worst:
            incident.worst, incident.what = worst, what
        if self.worst is None or incident.worst > self.worst.worst:
            self.worst = incident
        if self.longest is None or incident.duration > self.longest.duration:
            self.longest = incident
        return incident
