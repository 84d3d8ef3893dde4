"""When to ask the API server again after it refused a patch: one rule for every refusal, whatever its kind.

An object that was not refused yet is patched at once, unless the Pods that were tried last for the first time were all
refused: then the workload's own limit waits, too.  Objects that were refused, or not sent because others were, are
tried one at a time, with growing delays that neither a new decision nor a change of the objects shortens: at most ten
requests a minute.  A limit lower than the refused one may be tried in between.  After one of them succeeded,
twice as many are tried.  That other objects were patched proves nothing about those that were refused.
Times are seconds by a steady clock.
"""

import random
from collections.abc import Collection, Mapping, Sequence

from services.actuator.plan import Plan, Write
from services.kube.objects import Pod, Unavailable

_REFUSED_S = (4.0, 25.0)
"""First and longest delay where the API server answers, and refuses."""
_SILENT_S = (4.0, 15.0)
"""The same if it takes a patch, and does not answer."""
_UNREACHED_S = (0.2, 10.0)
"""The same if there is no connection: another attempt to connect adds no load."""
_MOST_RETRY_AFTER_S = 60.0
"""A longer delay that the server asks for is not kept: the fail-safe limit must not wait for it."""
_LOWER_S = 12.0
"""Between two lower limits that are tried in between."""
_FORGET_S = 60.0
"""A refusal no longer counts so long after the next try was due."""
_MOST_KEPT = 10_000
"""Of more objects the first are forgotten: Pods come and go."""

_FULL_S = 1.0
"""How long raises wait for reports to go out."""


class Refusals:
    """One target's objects whose patches failed."""

    def __init__(self) -> None:
        """Begin with none."""
        self._failed: dict[str, int] = {}
        """By uid, the bandwidth that was refused, kbit/s; the longest ago first."""
        self._not_before = 0.0
        self._delay_s = 0.0
        self._at_once = 1
        self._lower_at = float("-inf")
        self._spares_new = False
        """Whether objects that were not refused yet wait, too: the Pods tried last for the first time were refused."""
        self._kinds: set[object] = set()
        """Of the failures since the last success: each is news once, however they alternate."""
        self.reason: str | None = None
        """Why patches fail; None while they do not."""

    @property
    def refused(self) -> Collection[str]:
        """Uids of the objects whose patches failed."""
        return self._failed.keys()

    def select(self, plan: Plan, now: float) -> tuple[Plan, float]:
        """Once some failed: the writes of a plan that may be sent now, and in how many seconds to ask for the rest."""
        writes = {write.obj.uid: write for write in plan.writes}
        held = sorted((writes[uid] for uid in self._failed if uid in writes), key=lambda write: not write.is_cut)
        unseen = [write for write in plan.writes if write.obj.uid not in self._failed]
        chosen = unseen
        if self._spares_new and any(isinstance(write.obj, Pod) for write in plan.writes):
            # The workload would say what no Pod has.
            chosen, held = [], [write for write in unseen if isinstance(write.obj, Pod)] + held
        lower = [write for write in held if write.rate < self._failed.get(write.obj.uid, 0)]
        if now >= self._not_before:
            chosen += held[: self._at_once]
        elif lower and now - self._lower_at >= _LOWER_S:
            self._lower_at = now
            chosen.append(lower[0])
        sent = {write.obj.uid for write in chosen}
        part = Plan(tuple(write for write in plan.writes if write.obj.uid in sent), plan.reasons)
        if any(write.is_cut and write.obj.uid not in sent for write in held):
            part = part.without_raises()  # what these would take is not released yet
        waits = [self._not_before - now, *([self._lower_at + _LOWER_S - now] if lower else [])]
        return part, max(min(waits), 0.0)

    def count(
        self, writes: Sequence[Write], failures: Mapping[str, Exception], now: float, unsent: Sequence[Write] = ()
    ) -> bool:
        """Take note of how a round of writes ended.

        Args:
            writes: those that were answered.
            failures: by uid, why a write failed.
            now: by the steady clock.
            unsent: those that were not sent because others were refused.

        Returns:
            Whether a failure is news: of a kind that was not seen since the last success.
        """
        if not writes:
            return False  # none was sent: a newer decision came first
        was_failing = bool(self._failed)
        new = [write.obj.uid for write in writes if write.obj.uid not in self._failed and isinstance(write.obj, Pod)]
        if new or not failures:
            self._spares_new = bool(new) and all(uid in failures for uid in new)
        tried = [self._failed.pop(write.obj.uid) for write in writes if write.obj.uid in self._failed]
        if not failures and self._failed and not tried:
            return False  # that others were patched says nothing of those that were refused
        if not failures:
            self._at_once *= 2
            if not self._failed:
                self._delay_s = 0.0  # else the next refusal waits longer than the last: some objects stay refused
            self._not_before = now
            return False
        refused = [write for write in writes if write.obj.uid in failures]
        self._failed |= {write.obj.uid: write.rate for write in (*refused, *unsent)}
        for uid in list(self._failed)[: max(len(self._failed) - _MOST_KEPT, 0)]:
            del self._failed[uid]
        errors = tuple(failures.values())
        error = errors[0]
        self.reason = str(error)
        self._at_once = 1
        is_unreached = all(isinstance(one, Unavailable) and one.is_unreached for one in errors)
        is_silent = all(isinstance(one, Unavailable) and one.status is None for one in errors)
        first_s, most_s = _UNREACHED_S if is_unreached else _SILENT_S if is_silent else _REFUSED_S
        self._delay_s = min(max((3 if is_unreached else 2) * self._delay_s, first_s), most_s)
        retry_after_s = min(max(getattr(one, "retry_after_s", None) or 0.0 for one in errors), _MOST_RETRY_AFTER_S)
        delay_s = self._delay_s * random.uniform(0.75, 1.0)  # noqa: S311 - spreads load
        self._not_before = now + max(delay_s, retry_after_s)
        kind = (type(error), getattr(error, "status", None))
        if not was_failing:
            self._kinds.clear()
        is_news = kind not in self._kinds
        self._kinds.add(kind)
        return is_news

    def settle(self, now: float) -> None:
        """Nothing is left to write.  What was refused a short time ago may be wanted again with the next decision."""
        self.reason = None
        if self._failed and now - self._not_before > _FORGET_S:
            self._failed.clear()
            self._delay_s, self._at_once, self._spares_new = 0.0, 1, False


class DriftBackOff:
    """Delays corrections of values that another client changes repeatedly.  Times are seconds by a steady clock.

    Two who correct each other must not keep the API server busy.
    """

    _FIRST_S, _MOST_S = 0.2, 10.0
    """Between two corrections at first, and at most."""
    _CUT_S = 0.5
    """At most this long where an object may send more than it should."""

    def __init__(self) -> None:
        """Begin with nothing corrected."""
        self._gap_s = self._FIRST_S
        self._last = float("-inf")

    def next_wait(self, now: float, *, has_cut: bool) -> float:
        """How long the next correction has to wait; not positive: not at all."""
        gap_s = min(self._gap_s, self._CUT_S) if has_cut else self._gap_s
        return self._last + gap_s - now

    def count(self, now: float) -> None:
        """Count a correction."""
        is_repeated = now - self._last < 4 * self._gap_s
        self._gap_s = min(2 * self._gap_s, self._MOST_S) if is_repeated else self._FIRST_S
        self._last = now


def select_writes(
    plan: Plan, refusals: Refusals, drift: DriftBackOff, now: float, *, is_full: bool
) -> tuple[Plan, float]:
    """The writes of a plan that may be sent now, and after how many seconds to ask for the others.

    Args:
        plan: all that is to be written.
        refusals: what was refused, and waits.
        drift: when the next correction is due.
        now: by the steady clock.
        is_full: so many reports wait that raises should not add more.
    """
    if plan.has_backlog:
        plan = plan.without_raises()
    has_cut = any(write.is_cut for write in plan.writes)
    if not plan.writes or (is_full and not has_cut):
        return plan.without_raises(), _FULL_S
    if all(write.record.cause == "drift" for write in plan.writes):
        wait_s = drift.next_wait(now, has_cut=has_cut)
        if wait_s > 0:
            return Plan((), {}), wait_s
    return refusals.select(plan, now) if refusals.refused else (plan, 0.0)
