"""Second station of a flow: after a reconnection, what was seen before is not counted again.

    Relay -> wire -> *resume* -> pairing -> metrics

Relay replays from a given time on.  Each node's flows come in the order of its own clock, so the
highest time seen of a node, and what was seen at exactly that time, tells old from new.  While a
stream runs nothing is dropped: a clock that steps back makes no flow a duplicate.
"""

from collections import OrderedDict
from collections.abc import Hashable

_NODES = 5000
"""More than a cluster has."""
_AT_ONCE = 64
"""How many flows of one nanosecond are told apart."""
_REPLAY_NS = 30_000_000_000
"""A replay is over by then; what still looks old comes from a clock that stepped back."""
_REACH_NS = 15_000_000_000
"""How far before the cut a replay begins at most: Relay holds flows back for sorting, clocks differ."""


class _Mark:
    """The end of what was seen of one node."""

    __slots__ = ("replaying", "seen", "time")

    def __init__(self, time: int, flow: Hashable) -> None:
        self.time = time
        self.seen = [flow]
        self.replaying = False


class Resume:
    """Where each node's stream was left."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._marks: OrderedDict[str, _Mark] = OrderedDict()
        self._began: int | None = None
        self._until = 0
        self._last = 0
        self.repeated = 0
        """Flows that were dropped because they had been seen before."""

    def since(self, wall: int, now: int) -> int | None:
        """Prepare for a new stream.

        Args:
            wall: the time now, UTC ns.
            now: the same moment, monotonic, ns.

        Returns:
            The time from which on flows are to be replayed, UTC ns; None for the first stream.
        """
        if self._began is None:
            self._began = wall
            return None
        if not self._marks:
            return self._began
        for mark in self._marks.values():
            mark.replaying = True
        self._until = now + _REPLAY_NS
        cut = wall - (now - self._last)
        # A node that has been quiet for long must not drag the whole replay back to its day.
        return min(max(min(mark.time for mark in self._marks.values()), cut - _REACH_NS), wall)

    def is_new(self, node: str, time: int, flow: Hashable, now: int) -> bool:
        """Whether a flow was not seen before the stream was cut.

        Args:
            node: who saw it.
            time: when, by that node's clock, UTC ns.
            flow: equal for the same flow only.
            now: when it arrived, monotonic, ns.
        """
        self._last = now
        mark = self._marks.get(node)
        if mark is None:
            if len(self._marks) >= _NODES:
                self._marks.popitem(last=False)
            self._marks[node] = _Mark(time, flow)
            return True
        if mark.replaying:
            if now < self._until and (time < mark.time or (time == mark.time and flow in mark.seen)):
                self.repeated += 1
                return False
            if time > mark.time or now >= self._until:
                mark.replaying = False
        if time > mark.time:
            mark.time = time
            mark.seen = [flow]
        elif time == mark.time and len(mark.seen) < _AT_ONCE:
            mark.seen.append(flow)
        return True
