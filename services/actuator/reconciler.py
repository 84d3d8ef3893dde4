"""Reconciles one target: brings the cluster to the desired limit, again and again.

    decisions --> desired_limit.py --> limit order ---+
                                                      +--> plan.py --> apply.py --> reporter.py
    API server --> informer.py --> observed state ----+

A decision, a new Pod, a value that somebody changed and a patch that failed all lead to the same plan,
until nothing is left to write.  One target's work is sequential; targets do not wait for each other.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

from msgspec import Struct

from schemas.domain import Domain, Target
from schemas.messages import Action, Decision, PodOutcome, TargetDecision
from services.actuator import metrics
from services.actuator.apply import Patcher, apply_plan
from services.actuator.desired_limit import DesiredLimit, Instant, LimitOrder, build_order
from services.actuator.informer import ObservedState
from services.actuator.kube_events import EventRecorder
from services.actuator.outbox import ActionOutbox, PendingAck
from services.actuator.ownership import find_record, newest_record, pause_reason, resume_command
from services.actuator.plan import Plan, Write, WriterTerm, build_plan, share_per_pod
from services.actuator.reporter import Reporter, recover_actions
from services.common import failpoints
from services.common.backoff import BackOff
from services.control.admission import AHEAD
from services.kube.objects import Workload

_GRACE_S = 2.0
"""How long a starting actuator waits for the bus before it applies the fail-safe limit."""
_STALE_ROUNDS = 3
"""After so many rounds in a row with objects that had changed since they were seen, that is a failure."""
_FULL_S = 1.0
"""How long raises wait for reports to go out."""


class DriftBackOff:
    """Delays corrections of what somebody else changes again and again.  Times are seconds by a steady clock.

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


class Dependencies(Struct, frozen=True):
    """What all reconcilers of a process share."""

    client: Patcher
    outbox: ActionOutbox
    events: EventRecorder
    set_note: Callable[[str, str | None], None]
    """Shows people a text about a target, or no longer (None)."""
    process: str
    """Names this process."""
    dry_run: bool = False
    """Patch nothing, and report what would be patched."""
    clock: Callable[[], int] = time.time_ns
    """UTC ns."""
    steady: Callable[[], float] = time.monotonic
    """Seconds, by a clock that never steps."""


class Reconciler:
    """Keeps one target's desired limit in force."""

    def __init__(self, domain: Domain, target: Target, dependencies: Dependencies) -> None:
        """Prepare; ``run`` does the work.  The target's bounds hold whatever is decided."""
        shared = dependencies
        self.target = target
        self._awake = asyncio.Event()
        self.observed = ObservedState(self._awake.set)
        self._domain = domain
        self._shared = shared
        self._outbox = shared.outbox
        self._reporter = Reporter(domain.name, target, shared.outbox, shared.events, shared.set_note, shared.clock)
        self._desired = DesiredLimit(target, domain.dead_man, shared.steady() + min(_GRACE_S, domain.dead_man.seconds))
        self._pending: list[PendingAck] = []
        """Of the decisions that the order comes from."""
        self._headers: Mapping[str, str] = {}
        self._on_bus: set[str] = set()
        self._reported: dict[str, set[str]] = {}
        """By uid, the actions in an object's record that were reported or are being reported."""
        self._uid = ""
        self._is_managed = False
        """Whether Sluice's record was seen on the workload."""
        self._term: int | None = None
        """This process's term, once it has written the workload."""
        self._pause: str | None = None
        self._announced: LimitOrder | None = None
        self._last_late_report = float("-inf")
        self._back_off = BackOff()
        self._stale_rounds = 0
        self._drift = DriftBackOff()
        metrics.dead_man.labels(target.key)  # an alert sees increases only: it must have been seen at zero

    def resume(self, last_action: Action | None) -> None:
        """Take note that the bus has supplied what it holds; ``last_action`` is its last report."""
        if last_action is not None and last_action.outcome == "applied":
            self._on_bus.add(last_action.id)
        self._desired.bus_answered = True
        self._awake.set()

    def offer(self, decision: Decision, part: TargetDecision, published: int, pending: PendingAck) -> None:
        """Make a decision the order, unless it is too old or too late.

        Args:
            decision: what was decided.
            part: its part about this target.
            published: when, UTC ns.
            pending: is finished when the decision is in force and reported, or refused.
        """
        instant = self._instant()
        record = newest_record(self.observed.workload, self.observed.pods, instant.now + AHEAD)
        why = self._desired.accept(decision, part, published, record, instant)
        if why is None:
            self._finish_pending()
            self._pending, self._headers = [pending], pending.headers
            self._back_off = BackOff()
            self._awake.set()
            return
        if self._pending and self._desired.is_from(decision):
            self._pending.append(pending)  # delivered again while it is being put in force
            return
        kind = next((word for word in ("future", "expired") if word in why), "overtaken")
        metrics.refused.labels(kind).inc()
        if kind != "overtaken" and instant.steady - self._last_late_report > self._domain.dead_man.seconds:
            self._last_late_report = instant.steady
            late = build_order(self.target, decision, part, decision.end)
            self._reporter.report_unwritten(late, "skipped", why, {})
        self._outbox.finish(pending)

    async def run(self) -> None:
        """Keep the desired limit in force, for ever."""
        while True:
            self._awake.clear()
            retry_s = await self._reconcile()
            # Sleep until something changes, time changes the order, or it is time to try again.
            instant = self._instant()
            wake = self._desired.next_wake(instant)
            waits = [one for one in (retry_s, None if wake is None else wake - instant.steady) if one is not None]
            try:
                async with asyncio.timeout(max(min(waits), 0.0) if waits else None):
                    await self._awake.wait()
            except TimeoutError:
                pass

    async def _reconcile(self) -> float | None:
        """Do one round: update the desired limit, and bring the cluster to it.

        Returns:
            After how many seconds to try again; None: when something changes.
        """
        instant, workload = self._instant(), self.observed.workload
        record = newest_record(workload, self.observed.pods, instant.now + AHEAD)
        # The lowest limit that may be in force: a cut may have reached Pods and not the workload.
        limits = [one.limit for one in (workload, record) if one is not None]
        limit = min((one for one in limits if one is not None), default=None)
        expired = self._desired.expire(limit, instant, is_observed=workload is not None)
        if expired is not None:
            metrics.dead_man.labels(self.target.key).inc()
            if self._pending:
                reason = "it expired before it could be put in force"
                self._reporter.report_unwritten(expired, "skipped", reason, self._headers)
            self._finish_pending()
            self._headers = {}
        if workload is None or not self.observed.has_all_pods:
            return None
        self._desired.initialize(record, limit, instant)
        # Records must not be overwritten before the bus has said which of them it has heard of.
        if not self._desired.is_ready(instant):
            return None
        self._recover_reports(workload)
        if self._desired.order is None or self._is_left_alone(workload):
            return None
        if self._desired.adopt_newer(record, instant):
            self._finish_pending()
        self._desired.cap(limit)
        return await self._bring_about(self._desired.order, workload)

    async def _bring_about(self, order: LimitOrder, workload: Workload) -> float | None:
        """Plan, apply and report what an order still lacks; returns what ``_reconcile`` does."""
        record, now = find_record(workload), self._shared.clock()
        writer = WriterTerm(self._shared.process, self._term or 1 + (record.term if record is not None else 0))
        plan = build_plan(self.target, order, workload, self.observed.pods, writer, self._outbox.owes, now)
        if not plan.writes:
            # The order is in force.
            self._back_off = BackOff()
            if order.cause != "decision" and order is not self._announced:
                self._announced = order
                if order.limit == workload.limit:
                    self._reporter.report_unwritten(order, "unchanged", order.reason, {})
            self._finish_pending()
            share = share_per_pod(self.target, order.limit, workload, self.observed.pods)
            metrics.limit.labels(self.target.key).set(order.limit)
            metrics.pod_limit.labels(self.target.key).set(share)
            return None
        if plan.has_backlog:
            plan = plan.without_raises()
        has_cut = any(write.is_cut for write in plan.writes)
        if not plan.writes or (self._outbox.is_full and not has_cut):
            return _FULL_S
        if all(write.record.cause == "drift" for write in plan.writes):
            wait_s = self._drift.next_wait(self._shared.steady(), has_cut=has_cut)
            if wait_s > 0:
                return wait_s
        if self._shared.dry_run:
            outcomes = [
                (one, PodOutcome(pod=one.obj.metadata.name, uid=one.obj.uid, outcome="dry-run")) for one in plan.writes
            ]
            self._reporter.report_writes(order, plan, outcomes, workload, self._headers)
            self._finish_pending()
            return None
        return await self._apply(order, plan, writer, workload)

    def _recover_reports(self, workload: Workload) -> None:
        """Report the writes on the objects that nobody reported, and note what the workload's record says."""
        if workload.uid != self._uid:
            self._uid, self._is_managed, self._term = workload.uid, False, None
        self._is_managed = self._is_managed or find_record(workload) is not None
        if self._shared.dry_run or self._is_deposed(workload):
            return
        objects = [workload, *self.observed.pods]
        for action in recover_actions(self._domain.name, self.target, objects, self._on_bus, self._reported):
            self._reporter.report_recovered(action)
            failpoints.point("actuator.recovered")
        records = {obj.uid: find_record(obj) for obj in objects}
        self._reported = {uid: {one.action for one in record.writes} for uid, record in records.items() if record}

    def _is_left_alone(self, workload: Workload) -> bool:
        """Whether the target is somebody else's; reports when that changes."""
        why = pause_reason(workload, managed=self._is_managed)
        if why is not None:
            why = f"{why}; to hand it back: {resume_command(workload)}"
        elif self._is_deposed(workload):
            why = "another actuator that started later is in charge of it"
        if why != self._pause:
            self._pause = why
            self._reporter.report_pause(workload, why)
            if why is not None and self._desired.order is not None:
                self._reporter.report_unwritten(self._desired.order, "skipped", f"paused: {why}", self._headers)
        if why is not None:
            self._finish_pending()
        return why is not None

    async def _apply(self, order: LimitOrder, plan: Plan, writer: WriterTerm, workload: Workload) -> float:
        """Apply a plan and report it; returns after how many seconds to do another round."""
        headers = self._headers  # another decision may replace them before the report

        def is_wanted(write: Write) -> bool:
            return self._desired.is_wanted(order, self._instant(), is_cut=write.is_cut)

        tolerate_stale = self._stale_rounds < _STALE_ROUNDS
        result = await apply_plan(self._shared.client, self.observed, plan, is_wanted, tolerate_stale=tolerate_stale)
        for write, outcome in result.outcomes:
            if outcome.outcome == "applied":
                self._reported[write.obj.uid] = {one.action for one in write.record.writes}
                if isinstance(write.obj, Workload):
                    self._announced = order
                    self._term, self._is_managed = writer.term, True
        self._reporter.report_writes(order, plan, result.outcomes, workload, headers)
        self._stale_rounds = self._stale_rounds + 1 if result.is_stale else 0
        if any(write.record.cause == "drift" for write, _ in result.outcomes):
            self._drift.count(self._shared.steady())
        if any(outcome.outcome == "failed" for _, outcome in result.outcomes):
            return self._back_off.next_s()
        return 0.0  # what was written may not be all

    def _instant(self) -> Instant:
        return Instant(self._shared.clock(), self._shared.steady())

    def _is_deposed(self, workload: Workload) -> bool:
        """Whether an actuator that started later has written since this one did."""
        record = find_record(workload)
        if record is None or self._term is None:
            return False
        return record.by != self._shared.process and record.term >= self._term

    def _finish_pending(self) -> None:
        """Finish the decisions that the order came from: nothing more will be done for them."""
        for pending in self._pending:
            self._outbox.finish(pending)
        self._pending = []
