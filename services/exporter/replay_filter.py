"""Second station of a flow: after a reconnection, what was seen before is not counted again.

    Relay -> wire -> *resume* -> pairing -> metrics

Relay replays from a given time on.  Each node's flows come in the order of its own clock, so the
highest time seen of a node, and what was seen at exactly that time, tells old from new.

A node is also replayed in the midst of a stream: when Relay loses its own connection to it, it asks the
node again for all that the stream was to begin with.  It says so ten seconds later, if at all, when
the replay is over.  But a node whose flows go back to where the stream began to resume is replayed; a
clock that was set back is told by its staying there.
"""

from collections import OrderedDict
from collections.abc import Hashable

_NODES = 5000
"""More than a cluster has."""
_AT_ONCE = 64
"""How many flows of one nanosecond are told apart."""
_REPLAY_NS = 30_000_000_000
"""A replay is over by then; what still looks old comes from a clock that stepped back."""
_BACK_NS = 100_000_000
"""A clock that is kept right goes back by less."""
_REACH_NS = 15_000_000_000
"""How far before the cut a replay begins at most: Relay holds flows back for sorting, clocks differ."""


class _NodeMark:
    """The end of what was seen of one node."""

    __slots__ = ("dropping", "seen", "time", "until")

    def __init__(self, time: int, flow: Hashable) -> None:
        self.move(time, flow)

    def move(self, time: int, flow: Hashable) -> None:
        """Nothing is replayed; a flow was seen."""
        self.time = time
        self.seen = [flow]
        self.until = 0
        self.dropping = False

    def expect(self, until: int) -> None:
        """A replay may come until then (monotonic, ns)."""
        self.until = until
        self.dropping = False


class ReplayFilter:
    """Where each node's stream was left."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._marks: OrderedDict[str, _NodeMark] = OrderedDict()
        self._began: int | None = None
        self._since: int | None = None
        self._last = 0
        self.repeated = 0
        """Flows that were dropped because they had been seen before."""

    def start_stream(self, wall: int, now: int) -> int | None:
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
        self._since = self._began
        if self._marks:
            for mark in self._marks.values():
                mark.expect(now + _REPLAY_NS)
            cut = wall - (now - self._last)
            # A node that has been quiet for long must not drag the whole replay back to its day.
            self._since = min(max(min(mark.time for mark in self._marks.values()), cut - _REACH_NS), wall)
        return self._since

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
            self._marks[node] = _NodeMark(time, flow)
            return True
        if time > mark.time:
            mark.move(time, flow)
            return True
        repeated = self._is_replay(mark, time, flow, now) if time < mark.time else flow in mark.seen
        if repeated:
            self.repeated += 1
        elif time == mark.time and len(mark.seen) < _AT_ONCE:
            mark.seen.append(flow)
        return not repeated

    def _is_replay(self, mark: _NodeMark, time: int, flow: Hashable, now: int) -> bool:
        """Whether a flow that is older than the last one is part of a replay."""
        if now >= mark.until:
            if mark.dropping:
                # For half a minute all was old: the clock was set back.
                mark.move(time, flow)
                return False
            if self._since is None or not self._since <= time < mark.time - _BACK_NS:
                return False
            mark.expect(now + _REPLAY_NS)
        mark.dropping = True
        return True
