"""Third check of an audit: has every action its cause, and did every decision that moved a limit get one?

Every action says what limit it found.  So the actions on a target form a chain, and one that is
missing, or was never reported, leaves a limit that nobody set.
"""

from msgspec import Struct

from schemas.domain import Target
from schemas.messages import Action, Decision, TargetDecision
from services.tools.audit.pods import Pods
from services.tools.audit.streams import Break, bounded
from services.tools.common.recording import Line
from services.tools.common.time_options import clock

_LATE_NS = 10 * 10**9
"""A patch may be acknowledged that long after its decision was still good, and clocks may differ."""
_KEEPING = ("drift", "new-pod", "rescale")
"""Causes that put back what is in order already."""
_PAUSED = "paused: "
"""How the reason begins where the actuator leaves a target alone; it says so once, until that changes."""


_READ_BACK = "read back from the objects"
"""How the reason begins where a report was made after a crash: the Deployment itself may not have been written."""
_PODS_ONLY = "; Pods only so far"
"""How it ends where the Deployment was not: it had changed meanwhile, or another order came first."""


def _of_pods(action: Action) -> bool:
    """Whether the Deployment may still have the limit that the action found."""
    return action.reason.startswith(_READ_BACK) or action.reason.endswith(_PODS_ONLY)


class Decided(Struct, frozen=True, gc=False):
    """A decision about one target."""

    id: str
    limit: int
    blind: bool
    """Decided without data, or in violation: the actuator does not raise a limit on such grounds."""
    moved: bool
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
        self._forgot = False
        """Whether decisions of the stretch are not kept here any more."""
        self._begins = False
        """Whether the stretch has the first decision of all."""
        self._open: Decided | None = None
        """The oldest decision that asks for another limit than the one in force, and was not acted on."""
        self._undone: list[Decided] = []
        """Decisions that moved the limit, before any action at all."""
        self._alone = False
        """Whether the target is left alone: paused, or restored."""
        self._in_force: Action | None = None
        self._missing: tuple[int, int | None, Break] | None = None
        """The link last missed: the limit found and left by it, and the break that it is unless its report comes."""
        self._may_differ = False
        self._newest: Action | None = None
        self._pods = Pods(target)
        self.breaks: list[Break] = []
        self.notes: list[str] = []
        self.actions = 0
        self.unchecked = 0
        """Actions whose decision lies before the stretch, or too far back in it."""

    def decision(self, decision: Decision, part: TargetDecision, line: Line) -> None:
        """The next decision, and its part about this target."""
        one = _decided(decision, part, line.time)
        self._begins |= not self._decided and one.seq == 1
        self._decided[one.id] = one
        self._forgot |= bounded(self._decided)
        self._overdue(line.time)
        if self._alone or one.published >= one.expires:
            return  # nobody is to put it in force
        if self._in_force is None:
            asks = one.moved and not one.blind
        else:
            asks = self._asked(one) != self._in_force.limit
            self._open = self._open if asks else None
        if asks:
            self._open = self._open or one

    def action(self, action: Action, line: Line, first: int | None) -> None:
        """The next action; ``first`` is where the window of its domain's first sample ends, None without one."""
        self.actions += 1
        self._check_cause(action, line, first)
        self._check_bounds(action, line)
        self.breaks += [Break(rule, self.name, what, line.time) for rule, what in self._pods.take(action)]
        self._check_chain(action, line)
        self._check_fence(action, line)
        self._open = None
        if action.cause == "restore":
            self.notes.append(f"{self.name} was restored at {clock(line.time)}: {action.outcome}")
            self._alone, self._in_force = True, None
        elif action.outcome in ("applied", "failed") and not self._is_late(action):
            self._may_differ = action.outcome == "failed" or _of_pods(action)
            self._alone, self._in_force = False, action
        elif action.outcome != "skipped":
            self._alone = False
        elif action.reason.startswith(_PAUSED):
            self._alone, self._in_force = True, None

    def end(self, now: int, *, acted: bool) -> list[Break]:
        """No more messages.

        Args:
            now: when the last one of all was stored, UTC ns.
            acted: whether there is any action at all, on whatever target.
        """
        self._overdue(now)
        if acted and self._undone and not self.actions:
            one = self._undone[0]
            told = f"its limit moved, first to {one.limit} kbit/s, and there is no action on it at all"
            if self._begins:
                self._broken("cause", told, one.published)
            else:
                self.notes.append(f"{self.name}: {told}: left alone since before the stretch, or they are missing")
        return self.breaks

    def _broken(self, rule: str, what: str, time: int) -> None:
        self.breaks.append(Break(rule, self.name, what, time))

    def _clamped(self, limit: int) -> int:
        target = self._target
        return limit if target is None else int(min(max(limit, target.min), target.max))

    def _asked(self, one: Decided) -> int:
        """What a decision asks of the actuator, given what is in force."""
        limit, before = self._clamped(one.limit), self._in_force
        return limit if before is None or not one.blind else min(limit, before.limit)

    def _overdue(self, now: int) -> None:
        """A decision that moves the limit has its action, or a newer one's, before it expires."""
        one = self._open
        if one is None or now <= one.expires + _LATE_NS:
            return
        self._open = None
        if not self.actions:
            self._undone = self._undone or [one]
            return
        told = f"decision {one.id} set {one.limit} kbit/s, and no action says that anything was done about it"
        self._broken("cause", told, one.published)

    def _check_cause(self, action: Action, line: Line, first: int | None) -> None:
        if action.cause == "restore":
            return
        if action.decision is None:
            self._check_kept(action, line)
            return
        decided = self._decided.get(action.decision)
        if decided is None:
            if self._lies_before(action, first):
                self.unchecked += 1
            else:
                self._broken(
                    "cause", f"action {action.id} names {action.decision}: there is no such decision", line.time
                )
            return
        if (action.epoch, action.seq, action.sampled) != (decided.epoch, decided.seq, decided.end):
            self._broken("cause", f"action {action.id} says another place than decision {decided.id} has", line.time)
        asked = self._clamped(decided.limit)
        if action.limit != asked and not (decided.blind and action.limit < asked):
            told = f"action {action.id} set {action.limit} kbit/s, and decision {decided.id} {decided.limit}"
            self._broken("cause", told, line.time)
        if action.applied is not None and action.cause == "decision" and action.applied > decided.expires + _LATE_NS:
            late = (action.applied - decided.expires) / 1e9
            self._broken("fence", f"action {action.id} was applied {late:.1f} s after its decision expired", line.time)

    def _is_late(self, action: Action) -> bool:
        """Whether an action was carried out before the one that was reported before it: read back after a crash."""
        before = self._in_force.applied if self._in_force is not None else None
        read_back = action.reason.startswith(_READ_BACK)
        return read_back and action.applied is not None and before is not None and action.applied < before

    def _lies_before(self, action: Action, first: int | None) -> bool:
        """Whether the decision that an action names lies before the stretch, or too far back to be kept here."""
        sampled = action.sampled or 0
        if first is None or sampled < first:
            return True
        # A limit may have been in force for longer than decisions are kept.
        return self._forgot and sampled < next(iter(self._decided.values())).end

    def _check_kept(self, action: Action, line: Line) -> None:
        """An action without a decision is a fail-safe limit, or keeps one up that is in force."""
        if action.cause == "decision":
            self._broken("cause", f"action {action.id} comes from a decision, and names none", line.time)
        before = self._in_force
        if action.cause not in _KEEPING or before is None or action.outcome not in ("applied", "failed"):
            return
        if action.limit not in (before.limit, action.was) and not (self._may_differ and action.limit == before.was):
            told = f"action {action.id} ({action.cause}) set {action.limit} kbit/s, and {before.limit} were in force"
            self._broken("cause", told, line.time)

    def _check_bounds(self, action: Action, line: Line) -> None:
        target = self._target
        if target is None or action.outcome == "skipped":
            return
        if action.cause != "restore" and not target.min <= action.limit <= target.max:
            told = f"action {action.id}: {action.limit} kbit/s is outside {target.min} to {target.max}"
            self._broken("bounds", told, line.time)
        if action.decision is None and action.cause != "restore" and action.limit > target.fail_safe:
            told = f"action {action.id} ({action.cause}): {action.limit} kbit/s is above the fail-safe limit"
            self._broken("bounds", told, line.time)

    def _check_chain(self, action: Action, line: Line) -> None:
        before = self._in_force
        if before is None or action.outcome not in ("applied", "failed", "dry-run"):
            return
        if self._is_late(action):
            if self._missing is not None and (action.was, action.limit) == self._missing[:2]:
                self.breaks.remove(self._missing[2])
                self._missing = None
            return
        found = action.was
        if found == before.limit or (self._may_differ and found == before.was):
            return
        if found is None and action.cause in ("drift", "start", "restore"):
            return
        if found == before.was and _order(action) == _order(before):
            return  # the rest of it
        told = (
            f"action {action.id} found {found} kbit/s, and the one before it, {before.id}, had left "
            f"{before.limit}: an action is missing, or somebody else wrote"
        )
        self._broken("chain", told, line.time)
        self._missing = before.limit, found, self.breaks[-1]

    def _check_fence(self, action: Action, line: Line) -> None:
        if action.cause != "decision" or action.outcome != "applied" or action.sampled is None:
            return
        newest = self._newest
        if newest is None or newest.sampled is None or action.sampled >= newest.sampled:
            self._newest = action
        elif (action.applied or 0) > (newest.applied or 0):
            told = f"action {action.id} put an older decision in force over that of {newest.id}"
            self._broken("fence", told, line.time)


def _decided(decision: Decision, part: TargetDecision, published: int) -> Decided:
    return Decided(
        id=decision.id,
        limit=part.limit,
        blind=decision.forbids_raise(part),
        moved=part.limit != part.was,
        epoch=decision.epoch,
        seq=decision.seq,
        end=decision.end,
        expires=decision.expires,
        published=published,
    )


def _order(action: Action) -> tuple[str, str | None, int]:
    """What an action carries out, perhaps in part."""
    return action.cause, action.decision, action.limit
