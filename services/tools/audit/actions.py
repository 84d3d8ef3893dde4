"""Third check of an audit: has every action its cause, and was every decision that moved a limit acted on?

Every action contains the limit that it found.  So the actions on a target form a chain, and one that is
missing, or was never reported, leaves a limit without a cause.
"""

from collections import deque

from msgspec import Struct

from schemas.domain import Target
from schemas.messages import Action, Decision, TargetDecision
from services.tools.audit.limits import LimitAudit
from services.tools.audit.streams import Breach, forget_oldest
from services.tools.common.recording import RecordedMessage
from services.tools.common.time_options import format_time

_LATE_NS = 10 * 10**9
"""How long after its decision expired a patch may be acknowledged: patches are slow, and clocks differ."""
_EARLIER = 8
"""Limits that an actuator may be behind."""
_MOST_OTHERWISE = 10
"""Actions under a definition that is not stored yet: it is, moments later."""
_KEEPING = ("drift", "new-pod", "rescale")
"""Causes that restore a limit that is in force already."""
_PAUSED = "paused: "
"""How the reason begins where the actuator leaves a target alone; it is reported once, until that changes."""
_READ_BACK = "read back from the objects"
"""How the reason begins where a report was made after a crash: the Deployment itself may not have been written."""
_HELD_BACK = "raised no further than"
"""Part of the reason if the actuator put less in force than was decided, so that no rise is a leap."""
_PODS_ONLY = "; Pods only so far"
"""How the reason ends where the Deployment was not written: it had changed, or another order came first."""


class IssuedLimit(Struct, frozen=True, gc=False):
    """The part of a decision that is about one target."""

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


class TargetAudit:
    """Checks one target's actions."""

    def __init__(self, name: str, target: Target | None) -> None:
        """Begin.

        Args:
            name: ``namespace/deployment``.
            target: its configuration; None leaves out what only it can tell.
        """
        self.name = name
        self._target = self._target_before = target
        self._otherwise: list[tuple[int, int, Breach]] = []
        """Actions since the last definition that set something else than was decided: both limits, and the breach."""
        self._issued: dict[str, IssuedLimit] = {}
        self._forgot = False
        """Whether some decisions of the range have been forgotten."""
        self._begins = False
        """Whether the range has the first decision of all."""
        self._pending: IssuedLimit | None = None
        """The oldest decision that asks for another limit than the one in force, and has not been acted on."""
        self._undone: list[IssuedLimit] = []
        """Decisions that moved the limit before any action at all."""
        self._alone = False
        """Whether the target is left alone: paused, or restored."""
        self._in_force: Action | None = None
        self._earlier: deque[int] = deque(maxlen=_EARLIER)
        """Limits that were in force before it."""
        self._missing: tuple[int, int | None, Breach] | None = None
        """The action last missed: the limit that it found and left, and its breach, unless its report comes late."""
        self._may_differ = False
        self._newest: Action | None = None
        self._limits = LimitAudit(target)
        self.breaches: list[Breach] = []
        self.notes: list[str] = []
        self.actions = 0
        self.unchecked = 0
        """Actions whose decision lies before the range, or has been forgotten."""

    def define(self, target: Target) -> None:
        """Take the target's next definition.

        The actuator acts by it before it is stored, and what it was writing under the one before is reported after it.
        """
        self._target_before, self._target = self._target, target
        for limit, decided, breach in self._otherwise:
            if limit == _clamp(target, decided):
                self.breaches.remove(breach)
        self._otherwise.clear()
        self._limits.define(target)

    def release(self) -> None:
        """The target is no longer one: nothing that was decided need be done any more, and it is restored."""
        self._pending, self._in_force, self._missing = None, None, None
        self._undone.clear()
        self._alone = self._may_differ = True

    def add_decision(self, decision: Decision, part: TargetDecision, recorded: RecordedMessage) -> None:
        """Add the next decision, and its part about this target."""
        one = IssuedLimit(
            id=decision.id,
            limit=part.limit,
            blind=decision.forbids_raise(part),
            moved=part.limit != part.was,
            epoch=decision.epoch,
            seq=decision.seq,
            end=decision.end,
            expires=decision.expires,
            published=recorded.time,
        )
        self._begins |= not self._issued and one.seq == 1
        self._issued[one.id] = one
        self._forgot |= forget_oldest(self._issued)
        self._check_overdue(recorded.time)
        if self._alone or one.published >= one.expires:
            return  # no actuator has to apply it
        if self._in_force is None:
            asks = one.moved and not one.blind
        else:
            limit = _clamp(self._target, one.limit)
            # Without data the actuator does not raise what is in force.
            asks = (min(limit, self._in_force.limit) if one.blind else limit) != self._in_force.limit
            self._pending = self._pending if asks else None
        if asks:
            self._pending = self._pending or one

    def check_action(self, action: Action, recorded: RecordedMessage, first: int | None) -> None:
        """Check the next action; ``first`` is the end of its domain's first sample, UTC ns; None without one."""
        self.actions += 1
        self._check_cause(action, recorded, first)
        self.breaches += [Breach(rule, self.name, what, recorded.time) for rule, what in self._limits.check(action)]
        is_outdated = self._saw_earlier(action)
        if not is_outdated:
            self._check_chain(action, recorded)
        if action.cause == "decision" and action.outcome == "applied" and action.sampled is not None:
            newest = self._newest
            if newest is None or newest.sampled is None or action.sampled >= newest.sampled:
                self._newest = action
            elif (action.applied or 0) > (newest.applied or 0):
                text = f"action {action.id} put an older decision in force over that of {newest.id}"
                self._add_breach("fence", text, recorded.time)
        self._pending = None
        if action.cause == "restore":
            self.notes.append(f"{self.name} was restored at {format_time(recorded.time)}: {action.outcome}")
            self._alone, self._in_force = True, None
        elif is_outdated:
            self._alone = False
        elif action.outcome in ("applied", "failed") and not self._is_late(action):
            self._earlier += [] if self._in_force is None else [self._in_force.limit]
            # The Deployment may still have the limit that the action found.
            pods_only = action.reason.startswith(_READ_BACK) or action.reason.endswith(_PODS_ONLY)
            self._may_differ = action.outcome == "failed" or pods_only
            self._alone, self._in_force = False, action
        elif action.outcome != "skipped":
            self._alone = False
        elif action.reason.startswith(_PAUSED):
            self._alone, self._in_force = True, None

    def finish(self, now: int, *, acted: bool) -> list[Breach]:
        """Finish, and return the breaches.

        Args:
            now: when the last message of all was stored, UTC ns.
            acted: whether there is any action at all, on whatever target.
        """
        self._check_overdue(now)
        if acted and self._undone and not self.actions:
            one = self._undone[0]
            text = f"its limit moved, first to {one.limit} kbit/s, and there is no action on it at all"
            if self._begins:
                self._add_breach("cause", text, one.published)
            else:
                self.notes.append(
                    f"{self.name}: {text}: it was left alone since before the range, or actions are missing"
                )
        return self.breaches

    def _add_breach(self, rule: str, what: str, time: int) -> None:
        self.breaches.append(Breach(rule, self.name, what, time))

    def _check_overdue(self, now: int) -> None:
        """Check that a decision that moves the limit is acted on, or a newer one is, before it expires."""
        one = self._pending
        if one is None or now <= one.expires + _LATE_NS:
            return
        self._pending = None
        if not self.actions:
            self._undone = self._undone or [one]
            return
        text = f"decision {one.id} set {one.limit} kbit/s, and no action followed"
        self._add_breach("cause", text, one.published)

    def _check_cause(self, action: Action, recorded: RecordedMessage, first: int | None) -> None:
        if action.cause == "restore":
            return
        if action.decision is None:
            self._check_uncaused(action, recorded)
            return
        decided = self._issued.get(action.decision)
        if decided is None:
            sampled = action.sampled or 0
            # A limit may have been in force for longer than decisions are kept.
            forgotten = self._forgot and sampled < next(iter(self._issued.values())).end
            if first is None or sampled < first or forgotten:
                self.unchecked += 1
            else:
                text = f"action {action.id} names {action.decision}: there is no such decision"
                self._add_breach("cause", text, recorded.time)
            return
        if (action.epoch, action.seq, action.sampled) != (decided.epoch, decided.seq, decided.end):
            text = f"action {action.id} has another epoch, sequence or sample than decision {decided.id}"
            self._add_breach("cause", text, recorded.time)
        asked = {_clamp(one, decided.limit) for one in (self._target, self._target_before)}
        before = self._in_force
        keeps = action.cause in _KEEPING and before is not None and action.limit in (before.limit, before.was)
        # A report that was read back after a crash, or made when nothing was left to write, may be of a step, too.
        reported_later = action.outcome == "unchanged" or action.reason.startswith(_READ_BACK)
        held_back = _HELD_BACK in action.reason or reported_later
        may_be_lower = decided.blind or keeps or held_back
        if action.limit not in asked and not (may_be_lower and action.limit < max(asked)):
            text = f"action {action.id} set {action.limit} kbit/s, and decision {decided.id} {decided.limit}"
            self._add_breach("cause", text, recorded.time)
            self._otherwise = [*self._otherwise, (action.limit, decided.limit, self.breaches[-1])][-_MOST_OTHERWISE:]
        if action.applied is not None and action.cause == "decision" and action.applied > decided.expires + _LATE_NS:
            late = (action.applied - decided.expires) / 1e9
            text = f"action {action.id} was applied {late:.1f} s after its decision expired"
            self._add_breach("fence", text, recorded.time)

    def _saw_earlier(self, action: Action) -> bool:
        """Return whether an action changed nothing, and found what was in force earlier: its view was outdated.

        So does an actuator that cannot read the Lease, and tries beside the one in charge.
        """
        before = self._in_force
        has_failed = action.outcome == "failed" and not any(pod.outcome == "applied" for pod in action.pods)
        return has_failed and before is not None and action.was != before.limit and action.was in self._earlier

    def _is_late(self, action: Action) -> bool:
        """Return whether an action was applied before the one reported before it: it was read back after a crash."""
        before = self._in_force.applied if self._in_force is not None else None
        read_back = action.reason.startswith(_READ_BACK)
        return read_back and action.applied is not None and before is not None and action.applied < before

    def _check_uncaused(self, action: Action, recorded: RecordedMessage) -> None:
        """Check an action without a decision: it sets a fail-safe limit, or restores the limit in force."""
        if action.cause == "decision":
            self._add_breach("cause", f"action {action.id} comes from a decision, and names none", recorded.time)
        before = self._in_force
        if action.cause not in _KEEPING or before is None or action.outcome not in ("applied", "failed"):
            return
        if action.limit not in (before.limit, action.was) and not (self._may_differ and action.limit == before.was):
            text = f"action {action.id} ({action.cause}) set {action.limit} kbit/s, and {before.limit} were in force"
            self._add_breach("cause", text, recorded.time)

    def _check_chain(self, action: Action, recorded: RecordedMessage) -> None:
        before = self._in_force
        if before is None or action.outcome not in ("applied", "failed", "dry-run"):
            return
        if self._is_late(action):
            if self._missing is not None and (action.was, action.limit) == self._missing[:2]:
                self.breaches.remove(self._missing[2])
                self._missing = None
            return
        found = action.was
        if found == before.limit or (self._may_differ and found == before.was):
            return
        if found is None and action.cause in ("drift", "start", "restore"):
            return
        if found == before.was and _get_order(action) == _get_order(before):
            return  # the rest of the same order
        text = (
            f"action {action.id} found {found} kbit/s, and the one before it, {before.id}, had left "
            f"{before.limit}: an action is missing, or another client wrote"
        )
        self._add_breach("chain", text, recorded.time)
        self._missing = before.limit, found, self.breaches[-1]


def _clamp(target: Target | None, limit: int) -> int:
    return limit if target is None else int(min(max(limit, target.min), target.max))


def _get_order(action: Action) -> tuple[str, str | None, int]:
    """Return what identifies the order that an action carries out, perhaps in part."""
    return action.cause, action.decision, action.limit
