"""Measures the reaction time: from the true crossing of the SLO to a safe limit in force.

The player of a scenario, in real time or not, feeds it with the plant's events in order.
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from services.plant.scenario import Event
from services.plant.workloads import Apps


class Reaction(Struct, frozen=True):
    """One crossing that the control had to answer; UTC ns."""

    crossed: int
    sampled: int
    """End of the window that showed it to the decision that made it safe."""
    decided: int
    """When that decision was taken."""
    in_force: int


class ReactionTimer:
    """Tracks whether the limits are safe, and since when they have not been."""

    def __init__(self, apps: Apps) -> None:
        """Begin with these apps."""
        self.reactions: list[Reaction] = []
        self._apps = apps
        self._crossed: int | None = None

    def is_safe(self, limits: Iterable[int | None]) -> bool:
        """Whether limits (kbit/s a pod) keep the queue empty, whatever the targets send."""
        most = self._apps.capacity
        return sum(most if limit is None else limit for limit in limits) <= self._apps.safe_budget()

    def on_event(self, event: Event, limits: Iterable[int | None]) -> None:
        """Record a change of load or capacity; a crossing that it made harmless needs no reaction."""
        self._apps = self._apps.with_loads(event.loads, event.capacity)
        if self.is_safe(limits):
            self._crossed = None

    def on_crossings(self, times: Sequence[int], limits: Iterable[int | None]) -> None:
        """Record when the latency rose above the SLO; bursts under safe limits need no reaction."""
        if times and self._crossed is None and not self.is_safe(limits):
            self._crossed = times[0]

    def on_limit(self, at: int, sampled: int, decided: int, limits: Iterable[int | None]) -> None:
        """Record a limit in force since ``at``, decided at ``decided`` on a window that ended at ``sampled``."""
        if self._crossed is not None and self.is_safe(limits):
            self.reactions.append(Reaction(self._crossed, sampled, decided, at))
            self._crossed = None
