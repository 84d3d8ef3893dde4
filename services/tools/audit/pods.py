"""Part of an audit's third check: do the Pods that an action names fit what it says of the whole target?

A limit for all replicas together is divided evenly.  How many there are stands nowhere on the bus, but a
share tells it, and it does not change for one action alone.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping

from msgspec import Struct

from schemas.domain import Target
from schemas.messages import Action

_FITTING: Mapping[str, Collection[str]] = {
    "applied": ("applied", "skipped"),
    "failed": ("applied", "skipped", "failed"),
    "skipped": ("skipped",),
    "dry-run": ("dry-run",),
    "unchanged": (),
}
"""By an action's outcome, those that its Pods can have: it is the worst of them and the Deployment's."""
_MOVING = ("decision", "dead-man", "start")
"""Causes that are about the limit, and not about the number of Pods."""


class Divided(Struct, frozen=True):
    """A limit that was divided among Pods."""

    action: Action
    share: int
    """What each was given, kbit/s."""

    @property
    def pods(self) -> set[str]:
        """Those that the action names."""
        return {pod.uid for pod in self.action.pods}

    @property
    def counts(self) -> range:
        """Among how many Pods it can have been divided: there may be more of them than are named."""
        limit, share = self.action.limit, self.share
        least = max(limit // (share + 1) + 1, len(self.action.pods))
        # A share is never nothing, however small the limit.
        most = limit // share if share > 1 else max(limit, len(self.action.pods))
        return range(least, most + 1)


class Pods:
    """One target's Pods."""

    def __init__(self, target: Target | None) -> None:
        """Begin; without the target's configuration shares are not checked."""
        self._target = target
        self._last: deque[Divided] = deque(maxlen=3)

    def take(self, action: Action) -> Iterator[tuple[str, str]]:
        """The next action; gives the rules that it breaks, and how."""
        strange = sorted({pod.outcome for pod in action.pods} - set(_FITTING[action.outcome]))
        if strange:
            yield "cause", f"action {action.id} is {action.outcome}, and of its pods some are {', '.join(strange)}"
        shares = {pod.limit for pod in action.pods if pod.limit is not None and pod.outcome == "applied"}
        if self._target is None or not shares:
            return
        one = Divided(action, max(shares))
        if len(shares) > 1 or not self._fits(one):
            given = ", ".join(str(share) for share in sorted(shares))
            yield (
                "bounds",
                f"action {action.id}: its pods were given {given} kbit/s, which is no share of {action.limit}",
            )
            return
        self._last.append(one)
        yield from self._outlier()

    def _fits(self, one: Divided) -> bool:
        assert self._target is not None
        return one.share == one.action.limit if self._target.scope == "per-pod" else one.share > 0 and bool(one.counts)

    def _outlier(self) -> Iterator[tuple[str, str]]:
        """The last action but one, where those around it were divided among another number of the same Pods."""
        if len(self._last) < 3 or any(one.action.cause not in _MOVING for one in self._last):
            return
        before, one, after = self._last
        if not before.pods == one.pods == after.pods:
            return
        same = _both(before.counts, after.counts)
        if same and not _both(same, one.counts):
            told = f"action {one.action.id}: its pods were given {one.share} kbit/s each of {one.action.limit}"
            yield "bounds", f"{told}, and those around it were divided among {same[0]} to {same[-1]} pods"


def _both(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))
