"""Drops flows that Relay replays after a reconnection, so that none is counted twice.

    relay_client -> flow_reader -> *replay_filter* -> pairing -> metrics

Relay replays from a given time on.  Each node's flows come in the order of its own clock, so a flow is new
if it is later than the node's latest, or as late but not among those seen at that time.

Relay also replays a node in the middle of a stream: when it loses its connection to the node, it requests
all flows again from the stream's start.  It reports that ten seconds later, if at all, when the replay is
over.  So a node whose flows go back as far as the stream's start is taken as replayed.  If they stay there,
its clock was set back.
"""

from collections import OrderedDict
from collections.abc import Hashable

_NODES = 5000
"""More than any cluster has."""
_AT_ONCE = 64
"""How many flows with the same time are remembered."""
_REPLAY_NS = 30_000_000_000
"""A replay is over by then; flows that still look old come from a clock that was set back."""
_BACK_NS = 100_000_000
"""A synchronized clock is set back by less."""
_REACH_NS = 15_000_000_000
"""How far before the cut a replay starts at most: Relay delays flows to sort them, and clocks differ."""


class _NodeMark:
    """The latest flow of one node."""

    __slots__ = ("dropping", "seen", "time", "until")

    def __init__(self, time: int, flow: Hashable) -> None:
        self.move(time, flow)

    def move(self, time: int, flow: Hashable) -> None:
        """A new flow arrived, so no replay is under way."""
        self.time = time
        self.seen = [flow]
        self.until = 0
        self.dropping = False

    def expect(self, until: int) -> None:
        """Expect a replay until then (monotonic, ns)."""
        self.until = until
        self.dropping = False


class ReplayFilter:
    """Distinguishes new flows from replayed ones, node by node."""

    def __init__(self) -> None:
        """Start without flows."""
        self._marks: OrderedDict[str, _NodeMark] = OrderedDict()
        self._began: int | None = None
        self._since: int | None = None
        self._last = 0
        self.repeated = 0
        """Flows dropped as replayed."""

    def start_stream(self, wall: int, now: int) -> int | None:
        """Prepare for a new stream.

        Args:
            wall: the time now, UTC ns.
            now: the time now, monotonic, ns.

        Returns:
            The time to replay flows from, UTC ns; None for the first stream.
        """
        if self._began is None:
            self._began = wall
            return None
        self._since = self._began
        if self._marks:
            for mark in self._marks.values():
                mark.expect(now + _REPLAY_NS)
            cut = wall - (now - self._last)
            # A node that has long been quiet must not extend the replay back to its last flow.
            self._since = min(max(min(mark.time for mark in self._marks.values()), cut - _REACH_NS), wall)
        return self._since

    def is_new(self, node: str, time: int, flow: Hashable, now: int) -> bool:
        """Whether a flow has not been seen before.

        Args:
            node: that saw the flow.
            time: of the flow by that node's clock, UTC ns.
            flow: its identity.
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
        if time == mark.time:
            if flow not in mark.seen:
                if len(mark.seen) < _AT_ONCE:
                    mark.seen.append(flow)
                return True
        else:
            # A flow that is older than the last one may be part of a replay.
            if now >= mark.until:
                if mark.dropping:
                    # All flows were old for half a minute: the clock was set back.
                    mark.move(time, flow)
                    return True
                if self._since is None or not self._since <= time < mark.time - _BACK_NS:
                    return True
                mark.expect(now + _REPLAY_NS)
            mark.dropping = True
        self.repeated += 1
        return False
