"""Reports what happens to one target: actions for the bus, Events and notes for people, logs and metrics."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import structlog
from msgspec.structs import replace

from schemas.domain import Domain, Target
from schemas.messages import Action, Decision, Outcome, Overrun, PodOutcome
from schemas.numbers import MOST_RATE
from schemas.units import Rate
from services.actuator import metrics
from services.actuator.desired_limit import LimitOrder
from services.actuator.kube_events import EventRecorder
from services.actuator.outbox import ActionOutbox
from services.actuator.ownership import VERSION, Extent, OwnershipRecord, WriteRecord
from services.actuator.plan import Plan, Write
from services.actuator.restore import RestoreResult
from services.control.observation import allows
from services.kube.objects import KubeObject, Pod, Workload

PODS_ONLY = "Pods only so far"
"""How the reason ends where the workload still has the limit from before."""
_WORST_FIRST: tuple[Outcome, ...] = ("failed", "dry-run", "applied")
"""Of the outcomes of an action's writes the first of these is the action's."""
_EVENT_REASONS = {
    "dead-man": "LimitFailSafe",
    "start": "LimitFailSafe",
    "drift": "LimitCorrected",
    "new-pod": "PodLimited",
    "rescale": "PodLimited",
}
NOT_ENFORCED, ENFORCED = "LimitNotEnforced", "LimitEnforced"
"""Reasons of Events; ``sluice check --cluster`` looks for them."""
_HOST_NETWORK = "its Pods use the host's network, and Cilium limits only those with a network of their own"
_UNKNOWN = (
    "Cilium does not enforce it (`sluice check CONFIG --cluster` names the likely cause), or the Pods send UDP faster "
    "than it: such bytes are counted before Cilium drops them"
)
_HELD_NS = 30 * 10**9
"""A limit that has held for so long is enforced again."""

_log = structlog.get_logger()


def build_action(
    domain: str, target: Target, source: LimitOrder | WriteRecord, action_id: str, outcome: Outcome, **more: Any
) -> Action:
    """Build the report of an action.

    Args:
        domain: the target's domain.
        target: what was acted on.
        source: what holds limit, cause and the decision that they come from.
        action_id: its id.
        outcome: how it ended.
        more: further fields of the action.
    """
    return Action(
        id=action_id,
        domain=domain,
        target=target.key,
        cause=source.cause,
        outcome=outcome,
        limit=min(source.limit, MOST_RATE),
        **source.in_action,
        **more,
    )


def recover_actions(
    domain: Domain,
    target: Target,
    objects: Iterable[KubeObject],
    lost: Mapping[str, Set[str]],
) -> list[Action]:
    """Rebuild the actions whose reports may have been lost from what the objects carry, oldest first.

    Args:
        domain: the target's domain.
        target: what was acted on.
        objects: its objects, or those of a part.
        lost: by an object's uid, the ids of the actions that were not reported for it.
    """
    found: dict[str, tuple[WriteRecord, list[PodOutcome]]] = {}
    extent = Extent.of(domain, target)
    for obj in objects:
        record = extent.find_record(obj)
        for write in record.writes if record else ():
            if write.action in lost.get(obj.uid, ()):
                _, pods = found.setdefault(write.action, (write, []))
                if isinstance(obj, Pod):
                    # Whoever may write a Pod's annotations may have put anything there.
                    limit = Rate.enforced(write.value)
                    known = None if limit is None else min(int(limit), MOST_RATE)
                    pods.append(PodOutcome(pod=obj.metadata.name, uid=obj.uid, outcome="applied", limit=known))
    reason = "read back from the objects: its report may have been lost"
    return [
        build_action(
            domain.name,
            target,
            write,
            write.action,
            "applied",
            reason=reason,
            was=write.was,
            pods=tuple(pods),
            applied=write.at,
        )
        for write, pods in sorted(found.values(), key=lambda pair: pair[0].at)
    ]


class Reporter:
    """Reports on one target, or on a part of it."""

    def __init__(
        self,
        domain: Domain,
        target: Target,
        outbox: ActionOutbox,
        events: EventRecorder,
        set_note: Callable[[str, str | None], None],
        clock: Callable[[], int],
    ) -> None:
        """Report to the bus and to people; ``set_note`` shows a text about a target, ``clock`` gives UTC ns."""
        self._domain = domain.name
        self._target = target
        self._extent = Extent.of(domain, target)
        self._outbox = outbox
        self._events = events
        self._set_note = set_note
        self._clock = clock
        self._last_attempt: tuple[object, ...] = ()
        self.is_unenforced = False
        """Whether people know that the limit in force is not enforced."""
        self._held_since: int | None = None
        """Since when such a limit has held nevertheless, UTC ns."""
        metrics.not_enforced.labels(self._extent.name).set(0)

    def define(self, target: Target) -> None:
        """Report on the target under another definition."""
        self._target = target

    def retire(self) -> None:
        """Show no figures of the target any more."""
        gauges = (metrics.limit, metrics.pod_limit, metrics.paused, metrics.not_enforced)
        # Nodes come and go for ever.
        for one in (*gauges, metrics.dead_man) if self._extent.is_part else gauges:
            if (self._extent.name,) in one._metrics:  # noqa: SLF001 - not every one was set
                one.remove(self._extent.name)

    def report_writes(  # noqa: PLR0913 - each is a part of what is reported
        self,
        order: LimitOrder,
        plan: Plan,
        outcomes: Sequence[tuple[Write, PodOutcome]],
        workload: Workload,
        headers: Mapping[str, str],
        *,
        applied: int | None = None,
        is_news: bool = True,
        partial: bool = False,
    ) -> None:
        """Report the writes of a plan that were made, failed, or would have been made in a dry run.

        Args:
            order: what the plan brings about.
            plan: its reasons, by action.
            outcomes: of its writes.
            workload: as it was before them.
            headers: of the message that caused them.
            applied: when the last one was answered, UTC ns; None: none was sent.
            is_news: whether failures are reported; otherwise only what was written in the same round.
            partial: whether some of the target's objects do not have the limit yet.
        """
        for action_id, why in plan.reasons.items():
            done = [(write, one) for write, one in outcomes if write.record.action == action_id]
            if not done:
                continue
            again = 0
            if not is_news and any(one.outcome == "applied" for _, one in done):
                # The refusals were reported before.
                again = sum(one.outcome == "failed" for _, one in done)
                done = [(write, one) for write, one in done if one.outcome != "failed"]
            kinds = {one.outcome for _, one in done}
            reasons = [why, *([f"{again} still refused"] if again else [])]
            carrier = None if self._extent.is_part else workload
            has_carrier = carrier is None or any(isinstance(write.obj, Workload) for write, _ in done)
            if not has_carrier and workload.limit != order.limit:
                reasons.append(PODS_ONLY)
            reasons += sorted({one.error for _, one in done if one.error})
            record = done[0][0].record
            action = build_action(
                self._domain,
                self._target,
                record,
                action_id,
                next((kind for kind in _WORST_FIRST if kind in kinds), "skipped"),
                reason="; ".join(reasons),
                was=record.was,
                pods=tuple(one for write, one in done if isinstance(write.obj, Pod)),
                applied=applied if "applied" in kinds else None,
                partial=partial,
            )
            attempt = (action.cause, action.decision, action.outcome, action.limit, action.reason)
            # An attempt that changes nothing, and is the same as the last one, is no news.
            is_worth_it = attempt != self._last_attempt and (is_news or action.outcome != "failed")
            if action.applied is not None or is_worth_it:
                self._send(action, headers)
                self._record_event(workload, action)
            self._last_attempt = () if action.applied is not None else attempt

    def report_unwritten(
        self, order: LimitOrder, outcome: Outcome, reason: str, headers: Mapping[str, str], *, paused: bool = False
    ) -> None:
        """Report that nothing was written for an order, and why; ``paused``: somebody else's value is in force."""
        place = str(order.end or self._clock())
        action_id = ":".join([self._extent.name, order.cause, order.decision or "-", outcome, place])
        action = build_action(self._domain, self._target, order, action_id, outcome, reason=reason, paused=paused)
        self._send(action, headers)

    def report_given_up(
        self, order: LimitOrder, workload: Workload, results: Sequence[RestoreResult], now: int
    ) -> None:
        """Report Pods that the target no longer has: they were put back as they were found, or that failed.

        Args:
            order: the current one.
            workload: the target's, with the limit in force.
            results: of the Pods.
            now: when the last one was answered, UTC ns.
        """
        carrier = None if self._extent.is_part else workload
        limit = order.limit if carrier is None or carrier.limit is None else carrier.limit
        kept = replace(order, cause="rescale", limit=limit)
        texts = sorted(f"{one.obj.metadata.name}: {one.text}" for one in results)
        action = build_action(
            self._domain,
            self._target,
            kept,
            f"{self._extent.name}:given-up:-:{now}",
            "failed" if any(one.outcome == "failed" for one in results) else "applied",
            reason=f"no longer its Pods, put back: {'; '.join(texts)}"[:2000],
            was=min(limit, MOST_RATE),
            pods=tuple(PodOutcome(pod=one.obj.metadata.name, uid=one.obj.uid, outcome=one.outcome) for one in results),
            applied=now,
        )
        self._send(action, {})
        self._record_event(workload, action)

    def report_recovered(self, action: Action) -> None:
        """Report an action again whose report may have been lost."""
        metrics.recovered.inc()
        self._outbox.put(action, {})
        _log.info("report recovered", target=self._extent.name, action=action.id)

    def set_note(self, why: str | None) -> None:
        """Show on ``/readyz`` why the target is left alone; None removes the note."""
        self._set_note(self._extent.name, why)
        _log.info("note", target=self._extent.name, text=why)

    def report_pause(self, workload: Workload, why: str | None) -> None:
        """Notify people that the target is left alone, and why; None: that Sluice sets its limit again."""
        key = self._extent.name
        metrics.paused.labels(key).set(why is not None)
        if self._extent.is_part:
            return  # all parts are paused at once, as one target
        if why is None:
            self._events.record(workload, "LimitResumed", "Sluice sets the bandwidth again")
            _log.warning("resumed", target=key)
        else:
            self._events.record(workload, "LimitPaused", f"Sluice leaves this alone: {why}", is_warning=True)
            _log.warning("paused", target=key, reason=why)

    def report_version(self, workload: Workload, record: OwnershipRecord | None) -> None:
        """Say so where a later version of Sluice wrote the workload's record."""
        if record is not None and record.v > VERSION:
            text = f"a later version of Sluice (record {record.v}) wrote it; this one goes on from what it can read"
            self._events.record(workload, "LimitTakenOver", text, is_warning=True)
            _log.warning("record of a later version", target=self._extent.name, version=record.v)

    def report_enforcement(self, decision: Decision, workload: Workload | None, pods: Sequence[Pod]) -> None:
        """Notify people, if it is news, that the limit in force on the API is not enforced on the wire, or is again.

        A limit that was never set, or that somebody else set, is not the agent's fault, and is reported elsewhere.  It
        is enforced again once it has held for half a minute, as far as that is known all the time: so one that comes
        and goes makes few Events, and the last Event is right.

        Args:
            decision: the newest.
            workload: the target's, as far as this actuator sets its limit; None: nothing is to be blamed on the agent.
            pods: its Pods.
        """
        overrun = next((one for one in decision.overruns if one.target == self._target.key), None)
        limits = [pod.limit for pod in pods if not pod.has_ended]
        if workload is None or not limits:
            if self.is_unenforced:
                self._report_enforced(workload, "Has no Pods any more")
        elif overrun is None:
            if not self.is_unenforced or self._target.key in decision.state.over:
                self._held_since = None  # nothing to take back, or it is not known what is sent
                return
            held = self._held_since = self._held_since or decision.end
            if decision.end - held >= _HELD_NS:
                self._report_enforced(workload, "Sends no more than its limit again")
        else:
            self._held_since = None
            # What the Pods may send by their own annotations; one that has none yet says nothing of the agent.
            known = [limit for limit in limits if limit is not None]
            is_blamed = len(known) == len(limits) and not allows(sum(known), overrun.sent)
            if is_blamed and not self.is_unenforced:
                self._report_unenforced(overrun, decision.end, workload, pods)

    def _report_unenforced(self, overrun: Overrun, end: int, workload: Workload, pods: Sequence[Pod]) -> None:
        key = self._extent.name
        self.is_unenforced = True
        metrics.not_enforced.labels(key).set(1)
        cause = _HOST_NETWORK if any(pod.spec.host_network for pod in pods) else _UNKNOWN
        sent, limit = Rate(overrun.sent), Rate(overrun.limit)
        text = f"has sent more than its limit for {(end - overrun.since) / 1e9:.0f} s, now {sent} of {limit}: {cause}"
        self._set_note(f"{key} enforcement", text)
        _log.warning("limit not enforced", target=key, sent=str(sent), limit=str(limit), cause=cause)
        self._events.record(workload, NOT_ENFORCED, text[0].upper() + text[1:], is_warning=True)

    def _report_enforced(self, workload: Workload | None, why: str) -> None:
        """Take back that the limit is not enforced; without a workload, since it is no longer this actuator's."""
        self.is_unenforced, self._held_since = False, None
        metrics.not_enforced.labels(self._extent.name).set(0)
        self._set_note(f"{self._extent.name} enforcement", None)
        if workload is not None:
            _log.info("limit holds again", target=self._extent.name, reason=why)
            self._events.record(workload, ENFORCED, why)

    def _send(self, action: Action, headers: Mapping[str, str]) -> None:
        """Report an action on the bus, in the log and in the metrics."""
        self._outbox.put(action, headers)
        level = {"failed": _log.error, "skipped": _log.warning}.get(action.outcome, _log.info)
        level(
            action.outcome,
            target=self._extent.name,
            cause=action.cause,
            limit=str(Rate(action.limit)),
            pods=len(action.pods),
            reason=action.reason,
            action=action.id,
        )
        if action.outcome == "applied" and action.cause == "decision" and action.applied is not None:
            if action.sampled is not None:
                metrics.since_sample.observe(max(action.applied - action.sampled, 0) / 1e9)
            if action.decided is not None:
                metrics.since_decision.observe(max(action.applied - action.decided, 0) / 1e9)

    def _record_event(self, workload: Workload, action: Action) -> None:
        has_failed = action.outcome == "failed"
        is_cut = action.was is not None and action.limit < action.was
        reason = _EVENT_REASONS.get(action.cause, "LimitCut" if is_cut else "LimitRaised")
        was = "" if action.was in (None, action.limit) else f" (was {Rate(action.was or 0)})"
        where = f"{action.domain}: " if self._extent.is_part else ""
        message = f"{where}{action.outcome}: {Rate(action.limit)}{was}: {action.reason}"
        self._events.record(workload, "LimitFailed" if has_failed else reason, message, is_warning=has_failed)
