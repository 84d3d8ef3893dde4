"""Third check of an audit: has every action its cause, and did every decision that moved a limit get one?

Every action says what limit it found.  So the actions on a target form a chain, and one that is
missing, or was never reported, leaves a limit that nobody set.
"""

from msgspec import Struct

from schemas.domain import Target
from schemas.messages import Action, Decision
from services.tools.audit_streams import Break, bounded
from services.tools.recording import Line

_LATE_NS = 10 * 10**9
"""A patch may be acknowledged that long after its decision was still good, and clocks may differ."""
_CHANGING = ("decision", "dead-man", "start")


class Decided(Struct, frozen=True, gc=False):
    """A decision about one target."""

    id: str
    limit: int
    epoch: int
    seq: int
    end: int
    expires: int
    published: int


class Actions:
    """One target's actions."""

    def __init__(self, name: str, target: Target | None) -> None:
        """Begin.

        Args:
            name: ``namespace/deployment``.
            target: its configuration; None leaves out what only it can tell.
        """
        self.name = name
        self._target = target
        self._decided: dict[str, Decided] = {}
        self._open: Decided | None = None
        """The newest decision that asks for another limit than the one in force."""
        self._in_force: Action | None = None
        self._may_differ = False
        self._newest: Action | None = None
        self.breaks: list[Break] = []
        self.actions = 0
        self.unchecked = 0
        """Actions whose decision lies before the stretch, or too far back in it."""

    def decision(self, decision: Decision, limit: int, line: Line) -> None:
        """The next decision's part about this target."""
        one = Decided(decision.id, limit, decision.epoch, decision.seq, decision.end, decision.expires, line.time)
        self._decided[one.id] = one
        bounded(self._decided)
        self._overdue(line.time)
        asked = self._clamped(limit)
        if self._in_force is None or self._in_force.limit != asked:
            self._open = self._open or one
        else:
            self._open = None

    def action(self, action: Action, line: Line) -> None:
        """The next action."""
        self.actions += 1
        self._check_cause(action, line)
        self._check_bounds(action, line)
        self._check_chain(action, line)
        self._check_fence(action, line)
        self._open = None
        if action.outcome in ("applied", "failed"):
            self._may_differ = action.outcome == "failed"
            self._in_force = action

    def end(self, now: int) -> list[Break]:
        """No more messages; ``now`` (UTC ns) is when the last one of all was stored."""
        self._overdue(now)
        return self.breaks

    def _broken(self, rule: str, what: str, time: int) -> None:
        self.breaks.append(Break(rule, self.name, what, time))

    def _clamped(self, limit: int) -> int:
        target = self._target
        return limit if target is None else int(min(max(limit, target.min), target.max))

    def _overdue(self, now: int) -> None:
        """A decision that moves the limit has its action, or a newer one's, before it expires."""
        one = self._open
        if one is None or not self.actions or now <= one.expires + _LATE_NS:
            return
        told = f"decision {one.id} set {one.limit} kbit/s, and no action says that anything was done about it"
        self._broken("cause", told, one.published)
        self._open = None

    def _check_cause(self, action: Action, line: Line) -> None:
        if action.decision is None:
            if action.cause == "decision":
                self._broken("cause", f"action {action.id} comes from a decision, and names none", line.time)
            return
        decided = self._decided.get(action.decision)
        if decided is None:
            # A limit may have been in force for longer than decisions are kept here.
            oldest = next(iter(self._decided.values()), None)
            if oldest is None or (action.sampled or 0) < oldest.end:
                self.unchecked += 1
            else:
                self._broken(
                    "cause", f"action {action.id} names {action.decision}: there is no such decision", line.time
                )
            return
        if (action.epoch, action.seq, action.sampled) != (decided.epoch, decided.seq, decided.end):
            self._broken("cause", f"action {action.id} says another place than decision {decided.id} has", line.time)
        if action.cause in _CHANGING and action.limit != self._clamped(decided.limit):
            told = f"action {action.id} set {action.limit} kbit/s, and decision {decided.id} {decided.limit}"
            self._broken("cause", told, line.time)
        if action.applied is not None and action.cause == "decision" and action.applied > decided.expires + _LATE_NS:
            late = (action.applied - decided.expires) / 1e9
            self._broken("fence", f"action {action.id} was applied {late:.1f} s after its decision expired", line.time)

    def _check_bounds(self, action: Action, line: Line) -> None:
        target = self._target
        if target is None or action.outcome == "skipped":
            return
        if action.cause != "restore" and not target.min <= action.limit <= target.max:
            told = f"action {action.id}: {action.limit} kbit/s is outside {target.min} to {target.max}"
            self._broken("bounds", told, line.time)
        if action.cause in ("dead-man", "start") and action.limit > target.fail_safe:
            told = f"action {action.id} ({action.cause}): {action.limit} kbit/s is above the fail-safe limit"
            self._broken("bounds", told, line.time)
        limits = [pod.limit for pod in action.pods if pod.limit is not None and pod.outcome == "applied"]
        total = max(limits, default=0) if target.scope == "per-pod" else sum(limits)
        # A share is never nothing, however small the limit.
        if action.cause != "restore" and total > max(action.limit, len(limits)):
            told = f"action {action.id}: its pods were given {total} kbit/s of {action.limit}"
            self._broken("bounds", told, line.time)

    def _check_chain(self, action: Action, line: Line) -> None:
        before = self._in_force
        if before is None or action.outcome not in ("applied", "failed", "dry-run"):
            return
        found = action.was
        if found == before.limit or (self._may_differ and found == before.was):
            return
        if found is None and action.cause in ("drift", "start"):
            return
        if found == before.was and _order(action) == _order(before):
            return  # the rest of it: an object that had changed meanwhile is written a moment later
        told = (
            f"action {action.id} found {found} kbit/s, and the one before it, {before.id}, had left "
            f"{before.limit}: an action is missing, or somebody else wrote"
        )
        self._broken("chain", told, line.time)

    def _check_fence(self, action: Action, line: Line) -> None:
        if action.cause != "decision" or action.outcome != "applied" or action.sampled is None:
            return
        newest = self._newest
        if newest is None or newest.sampled is None or action.sampled >= newest.sampled:
            self._newest = action
        elif (action.applied or 0) > (newest.applied or 0):
            told = f"action {action.id} put an older decision in force over that of {newest.id}"
            self._broken("fence", told, line.time)


def _order(action: Action) -> tuple[str, str | None, int]:
    """What an action carries out, perhaps in part."""
    return action.cause, action.decision, action.limit
