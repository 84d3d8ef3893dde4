"""Part of an audit's third check: does an action's limit fit its target, and do the Pods fit the action?

A limit for all replicas together is divided evenly.  The number of replicas is not on the bus, but a
share reveals it, and it does not change for one action alone.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping

from msgspec import Struct

from schemas.domain import Target
from schemas.messages import Action
from schemas.units import Rate

_FITTING: Mapping[str, Collection[str]] = {
    "applied": ("applied", "skipped"),
    "failed": ("applied", "skipped", "failed"),
    "skipped": ("skipped",),
    "dry-run": ("dry-run",),
    "unchanged": (),
}
"""By an action's outcome, the outcomes its Pods can have: the action's is the worst of theirs and the Deployment's."""
_MOVING = ("decision", "dead-man", "start")
"""Causes that change the limit, and not the number of Pods."""


class DividedLimit(Struct, frozen=True):
    """A limit that was divided among Pods."""

    action: Action
    share: int
    """The limit of each Pod, kbit/s."""

    @property
    def pods(self) -> set[str]:
        """The uids of the Pods that the action names."""
        return {pod.uid for pod in self.action.pods}

    @property
    def counts(self) -> range:
        """Among how many Pods the limit can have been divided: there may be more than the action names."""
        limit, share = self.action.limit, self.share
        least = max(limit // (share + 1) + 1, len(self.action.pods))
        # A share is never nothing, however small the limit.
        most = limit // share if share > 1 else max(limit, len(self.action.pods))
        return range(least, most + 1)


class LimitAudit:
    """Checks one target's limits, and those of its Pods."""

    def __init__(self, target: Target | None) -> None:
        """Begin; without the target's configuration, limits are not checked."""
        self._target = target
        self._least, self._most, self._safe = (
            (0, 0, 0) if target is None else (int(target.min), int(target.max), int(target.fail_safe))
        )
        self._last: deque[DividedLimit] = deque(maxlen=3)

    def define(self, target: Target) -> None:
        """Take the target's next definition: until another one, limits may lie within the bounds before, too."""
        before = self._target or target
        self._least, self._most = min(before.min, target.min), max(before.max, target.max)
        self._safe = max(before.fail_safe, target.fail_safe)
        self._target = target

    def check(self, action: Action) -> Iterator[tuple[str, str]]:
        """Check the next action; yield the rules that it breaks, and how."""
        target = self._target
        if target is not None and action.cause != "restore" and action.outcome != "skipped":
            if not self._least <= action.limit <= self._most:
                bounds = f"{Rate(self._least)} to {Rate(self._most)}"
                yield "bounds", f"action {action.id}: {action.limit} kbit/s is outside {bounds}"
            if action.decision is None and action.limit > self._safe:
                text = f"action {action.id} ({action.cause}): {action.limit} kbit/s is above the fail-safe limit"
                yield "bounds", text
        strange = sorted({pod.outcome for pod in action.pods} - set(_FITTING[action.outcome]))
        if strange:
            yield "cause", f"action {action.id} is {action.outcome}, and of its pods some are {', '.join(strange)}"
        shares = {pod.limit for pod in action.pods if pod.limit is not None and pod.outcome == "applied"}
        if target is None or not shares:
            return
        one = DividedLimit(action, max(shares))
        fits = one.share == action.limit if target.scope == "per-pod" else one.share > 0 and bool(one.counts)
        if len(shares) > 1 or not fits:
            given = ", ".join(str(share) for share in sorted(shares))
            text = f"action {action.id}: its pods were given {given} kbit/s, which is no share of {action.limit}"
            yield "bounds", text
            return
        self._last.append(one)
        # The last action but one must be divided among the same number of Pods as its neighbours.
        if len(self._last) < 3 or any(one.action.cause not in _MOVING for one in self._last):
            return
        before, one, after = self._last
        same = _intersect(before.counts, after.counts)
        if before.pods == one.pods == after.pods and same and not _intersect(same, one.counts):
            text = f"action {one.action.id}: its pods were given {one.share} kbit/s each of {one.action.limit}"
            yield "bounds", f"{text}, and those around it were divided among {same[0]} to {same[-1]} pods"


def _intersect(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))
