"""Times the loop: from the moment the latency really crossed the SLO to a safe limit in force.

Fed with what happens to a plant, in the order it happens; whoever plays a scenario, in real time or
not, feeds it.
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


class Watch:
    """Knows what is safe now, and since when it has not been."""

    def __init__(self, apps: Apps) -> None:
        """Begin with these apps."""
        self.reactions: list[Reaction] = []
        self._apps = apps
        self._crossed: int | None = None

    def is_safe(self, limits: Iterable[int | None]) -> bool:
        """Whether limits (kbit/s a pod) keep the queue empty, whatever the targets send."""
        most = self._apps.capacity
        return sum(most if limit is None else limit for limit in limits) <= self._apps.safe_budget()

    def happened(self, event: Event, limits: Iterable[int | None]) -> None:
        """A load or the capacity changed; a crossing that this made harmless needs no answer."""
        self._apps = self._apps.changed(event.loads, event.capacity)
        if self.is_safe(limits):
            self._crossed = None

    def crossed(self, times: Sequence[int], limits: Iterable[int | None]) -> None:
        """The latency rose above the SLO at these times; bursts under safe limits are nobody's to answer."""
        if times and self._crossed is None and not self.is_safe(limits):
            self._crossed = times[0]

    def enforced(self, at: int, sampled: int, decided: int, limits: Iterable[int | None]) -> None:
        """A limit came into force at ``at``, decided at ``decided`` on a window that ended at ``sampled``."""
        if self._crossed is not None and self.is_safe(limits):
            self.reactions.append(Reaction(self._crossed, sampled, decided, at))
            self._crossed = None
