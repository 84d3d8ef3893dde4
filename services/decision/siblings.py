"""What a new instance of a definition begins with: what another instance has learned, as its last decision has it.

An instance is a domain ``<definition>@<place>``.  Its first decision carries what it took over and from where, so that
a replay decides the same.
"""

from collections.abc import Iterable, Mapping

from schemas.domain import Domain
from schemas.inherited import Inherited
from schemas.messages import Decision
from services.bus.bus import Bus, Unreadable
from services.bus.partitions import find_partition
from services.definitions.follower import Defined

_MOST = 8
"""How many are asked."""


def find_siblings(domain: Domain, names: Iterable[str], most: int = _MOST) -> list[str]:
    """Other instances of the same definition: always the same ones for a domain, and different ones for another."""
    definition, _, place = domain.name.rpartition("@")
    others = [one for one in names if definition and one != domain.name and one.rpartition("@")[0] == definition]
    # Any order will do that does not let a thousand instances ask the same few.
    return sorted(others, key=lambda one: find_partition(f"{place}/{one}", 2**32))[:most]


class Siblings:
    """The instances that are there, and their last decisions on the bus."""

    def __init__(self, bus: Bus, defined: Mapping[str, Defined]) -> None:
        """Take the definitions in effect by name."""
        self._bus = bus
        self._defined = defined

    async def find_inherited(self, domain: Domain, policy: str) -> Inherited | None:
        """What to begin with under a policy of that version; None: no other instance has met its knee.

        Of those that are asked, it is the one whose knee is in the middle, as a share of its capacity: neither a place
        that is worse than the others nor one that is better misleads it.
        """
        found: list[tuple[float, Inherited]] = []
        for name in find_siblings(domain, self._defined):
            capacity = self._defined[name].domain.capacity
            try:
                last = await self._bus.get_last(Decision, self._bus.subjects.decision(name))
            except Unreadable:
                continue
            link = None if last is None else last.message.link
            if last is None or link is None or not link.met or last.message.state.policy != policy:
                continue
            ratio = domain.capacity / capacity if domain.capacity and capacity else 1.0
            memory = last.message.state.memory
            found.append((link.safe * ratio, Inherited(name, last.seq, policy, memory, ratio)))
        found.sort(key=lambda one: (one[0], one[1].domain))
        return found[(len(found) - 1) // 2][1] if found else None
