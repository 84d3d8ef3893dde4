"""Reconciles one target: brings the cluster to the desired limit, again and again.

    decisions --> desired_limit.py --> limit order ---+
                                                      +--> plan.py --> apply.py --> reporter.py
    API server --> informer.py --> observed state ----+

A decision, a new Pod, a value that another client changed and a patch that failed all lead to the same plan,
until nothing is left to write.  One target's work is sequential; targets do not wait for each other.
"""

import asyncio
from collections.abc import Mapping
from functools import partial

import structlog
from msgspec.structs import replace

from schemas.domain import Domain, Target
from schemas.messages import Action, Decision, PodOutcome, TargetDecision
from services.actuator import metrics
from services.actuator.apply import apply_plan
from services.actuator.dependencies import Dependencies
from services.actuator.desired_limit import DesiredLimit, LimitOrder, RiseBound, build_order
from services.actuator.observed import ObservedState
from services.actuator.outbox import PendingAck
from services.actuator.ownership import Extent, Succession, find_record, pause_reason, resume_command
from services.actuator.plan import Plan, WriterTerm, build_plan, find_in_force, is_whole, share_per_pod, sum_of_limits
from services.actuator.refusals import DriftBackOff, Refusals, select_writes
from services.actuator.reporter import Reporter, recover_actions
from services.actuator.restore import GivenUpPods
from services.actuator.shards.lease import Charge
from services.common import failpoints
from services.control.admission import AHEAD
from services.control.shield import Limits
from services.kube.objects import Workload

_GRACE_S = 2.0
"""How long a starting actuator waits for the bus before it applies the fail-safe limit."""
_STEP_S = 0.01
"""A rise in steps looks no more often than that whether the next one is due."""

_log = structlog.get_logger()


class Reconciler:
    """Keeps one target's desired limit in force, or that of its part on one instance's nodes."""

    def __init__(
        self, domain: Domain, target: Target, dependencies: Dependencies, observed: ObservedState | None = None
    ) -> None:
        """Prepare; ``run`` does the work.

        Args:
            domain: the target's, or an instance.
            target: whose bounds hold whatever is decided.
            dependencies: shared by all.
            observed: the Pods of the part, where it is one.
        """
        self._shared = shared = dependencies
        self.target = target
        self.extent = Extent.of(domain, target)
        self._awake = asyncio.Event()
        self.observed = observed or ObservedState(namespaces=target.pod_namespaces)
        self.observed.listen(self._awake.set)
        self.domain = domain
        self._outbox = shared.outbox
        self._reporter = Reporter(domain, target, shared.outbox, shared.events, shared.set_note, shared.clock)
        self._desired = DesiredLimit(target, domain.dead_man, shared.steady() + min(_GRACE_S, domain.dead_man.seconds))
        self._pending: list[PendingAck] = []
        """Of the decisions that the order comes from."""
        self._headers: Mapping[str, str] = {}
        self._on_bus: set[str] = set()
        self._reported: dict[str, frozenset[str]] = {}
        """By uid, the actions in an object's record that were reported or are being reported."""
        self._uid = ""
        self._is_managed = False
        """Whether Sluice's record was seen on the workload."""
        self._find_charge = shared.find_charge(domain.name)
        self._succession = Succession(shared.process, domain.dead_man.seconds, self._find_charge)
        self._is_deposed = False
        """Whether another actuator is in charge, as a record showed in the last round."""
        self._pause: str | None = None
        self._note: str | None = None
        self._announced: LimitOrder | None = None
        self._published: int | None = None
        """The limit that was reported last to be in force on all objects; None: no such report is the last."""
        self._last_late_report = float("-inf")
        self._rise = RiseBound(Limits.from_target(target, domain).rise)
        self._refusals = Refusals()
        self._was_stale = False
        """Whether an object had changed in the last round."""
        self._drift, self._is_stopping = DriftBackOff(), False
        self.is_resting = False
        """Whether another actuator acts on its domain: it takes no decision, and is never run."""
        self._given_up = GivenUpPods(shared.client, self.observed)

    def define(self, domain: Domain, target: Target) -> None:
        """Go on under another definition: a limit beyond the new bounds is brought inside of them at once."""
        if (domain, target) == (self.domain, self.target):
            return
        if target.scope != self.target.scope:
            self._change_scope()
        self.domain, self.target = domain, target
        self._reporter.define(target)
        self._desired.define(target, domain.dead_man)
        self._rise.define(Limits.from_target(target, domain).rise)
        self._succession.define(domain.dead_man.seconds)
        self._awake.set()

    def _change_scope(self) -> None:
        """Take note that limits are another quantity from now on: nothing that was decided goes on."""
        self._desired.change_scope(self._shared.steady())
        self._published = None
        self._finish_pending()
        self._awake.set()

    def stop(self) -> None:
        """The target is no longer one: finish with what is being written, so that it is reported, and do no more."""
        self._is_stopping = True
        self._finish_pending()
        self._awake.set()

    def retire(self) -> None:
        """Show nothing of the target any more, once ``run`` has ended."""
        self._finish_pending()
        self._reporter.retire()

    def resume(self, last_action: Action | None) -> None:
        """Take note that the bus has supplied what it holds; ``last_action`` is its last report."""
        if last_action is not None and last_action.outcome == "applied":
            self._on_bus.add(last_action.id)
        self._desired.bus_answered = True
        self._awake.set()

    def wake(self) -> None:
        """Do another round: who is in charge has changed."""
        self._awake.set()

    def offer(self, decision: Decision, part: TargetDecision, published: int, pending: PendingAck) -> None:
        """Make a decision the order, unless it is too old or too late.

        Args:
            decision: what was decided.
            part: its part about this target.
            published: when, UTC ns.
            pending: is finished when the decision is in force and reported, or refused.
        """
        if self.is_resting:  # the decision was on its way when another took the shard over
            self._outbox.finish(pending)
            return
        instant = self._shared.instant
        record, _ = find_in_force(self.target, self.extent, self.observed, instant.now + AHEAD)
        why = self._desired.accept(decision, part, published, record, instant)
        if why is None:
            # Whether a limit is enforced is this actuator's to report only where it sets the limit.
            is_mine = not (self._shared.dry_run or self._pause is not None or self._is_deposed)
            workload = self.observed.workload if is_mine else None
            if decision.overruns or self._reporter.is_unenforced:
                self._reporter.report_enforcement(decision, workload, self.observed.pods)
            self._finish_pending()
            self._pending, self._headers = [pending], pending.headers
            self._awake.set()
            return
        if self._pending and self._desired.is_from(decision):
            self._pending.append(pending)  # delivered again while it is being put in force
            return
        kind = next((word for word in ("future", "expired") if word in why), "overtaken")
        metrics.refused.labels(kind).inc()
        if kind != "overtaken" and instant.steady - self._last_late_report > self.domain.dead_man.seconds:
            self._last_late_report = instant.steady
            late = build_order(self.target, decision, part, decision.end)
            self._reporter.report_unwritten(late, "skipped", why, {})
        self._outbox.finish(pending)

    async def run(self) -> None:
        """Keep the desired limit in force, until it is stopped."""
        metrics.dead_man.labels(self.extent.name)  # an alert sees increases only: it must have been seen at zero
        while not self._is_stopping:
            self._awake.clear()
            try:
                retry_s = await self._reconcile()
                self._shared.set_condition(f"{self.extent.name} round", None)
            except Exception as error:  # noqa: BLE001 - any of them would end the process, and the fail-safe of all
                retry_s = await self._shared.recover(self.extent.name, error)
            # Sleep until something changes, time changes the order, or it is time to try again.
            instant = self._shared.instant
            wake = self._desired.next_wake(instant)
            waits = [one for one in (retry_s, None if wake is None else wake - instant.steady) if one is not None]
            try:
                async with asyncio.timeout(max(min(waits), 0.0) if waits else None):
                    await self._awake.wait()
            except TimeoutError:
                pass

    async def _reconcile(self) -> float | None:
        """Bring the cluster to the desired limit; returns after how many s to try again (None: after a change)."""
        instant, workload = self._shared.instant, self.observed.workload
        record, limit = find_in_force(self.target, self.extent, self.observed, instant.now + AHEAD)
        self._shared.set_note(f"{self.extent.name} decisions", self._desired.lapses.why)
        expired = self._desired.expire(limit, instant, is_observed=workload is not None)
        if expired is not None:
            if self._desired.order is None or not self._desired.order.is_repeated:
                metrics.dead_man.labels(self.extent.name).inc()
            if self._pending:
                reason = "it expired before it could be put in force"
                self._reporter.report_unwritten(expired, "skipped", reason, self._headers)
            self._finish_pending()
            self._headers = {}
        if workload is None or not self.observed.has_all_pods:
            self._note_refusal(None)
            return None
        # Records must not be overwritten before the bus has acknowledged their reports.
        if not self._desired.initialize(record, limit, instant):
            return None
        self._recover_reports(workload)
        if self._desired.order is None or self._is_left_alone(workload):
            return None
        if self._desired.adopt_newer(record, instant):
            self._finish_pending()
        self._desired.cap(limit)
        order = self._desired.order
        retry_s = await self._bring_about(order, workload, limit)
        if self._is_deposed or self._shared.dry_run:
            self._given_up.forget()  # the one in charge does it
        restored, given_up_s = await self._given_up.restore(self.target.key, self._shared.steady())
        if restored:
            self._reporter.report_given_up(order, workload, restored, self._shared.clock())
        return min((one for one in (retry_s, given_up_s) if one is not None), default=None)

    def _stand_by(self, order: LimitOrder, plan: Plan) -> float | None:
        """Leave a target to the actuator in charge, unless that is gone; returns when to ask again, or None."""
        self._finish_pending()
        self._published = None
        if not plan.writes:
            self._note_refusal(None)
            self._succession.is_settled()
            return None
        has_cut = any(write.is_cut for write in plan.writes)
        has_lapsed = order.cause != "decision"
        left_s = self._succession.take_over(self._shared.steady(), has_cut=has_cut, has_lapsed=has_lapsed)
        if left_s <= 0:
            _log.warning("takes over: the actuator in charge no longer writes", target=self.extent.name)
        return max(left_s, 0.0)

    async def _bring_about(self, desired: LimitOrder, workload: Workload, in_force: int | None) -> float | None:
        """Plan, apply and report what an order still lacks; returns what ``_reconcile`` does."""
        carrier = None if self.extent.is_part else workload
        if in_force is None:
            in_force = sum_of_limits(self.target, self.observed.pods)
        order = self._rise.next_step(desired, in_force, self._shared.steady())
        term = self._succession.term or self._succession.next_term
        writer = WriterTerm(self.extent, self._shared.process, term, refused=self._refusals.refused)
        build = partial(build_plan, self.target, order, carrier, self.observed.pods, owed=self._outbox.owed)
        plan = build(writer, now=self._shared.clock())
        if self._is_deposed:
            return self._stand_by(order, plan)
        if not plan.writes:
            self._settle(desired, order, carrier, in_force)
            if order.limit < desired.limit:
                return max(self._rise.wait_s(desired, in_force), _STEP_S)
            self._finish_pending()
            due_s = None if order.cause != "decision" else self._succession.proof_due_s(self._shared.steady())
            if due_s is None or due_s > 0 or self._shared.dry_run:
                return due_s
            plan = build(replace(writer, renews=True), now=self._shared.clock())
        now, is_full = self._shared.steady(), self._outbox.is_full
        plan, wait_s = select_writes(plan, self._refusals, self._drift, now, is_full=is_full)
        if not plan.writes:
            return wait_s
        if self._shared.dry_run:
            unsent = [PodOutcome(pod=one.obj.metadata.name, uid=one.obj.uid, outcome="dry-run") for one in plan.writes]
            outcomes = list(zip(plan.writes, unsent, strict=True))
            self._reporter.report_writes(order, plan, outcomes, workload, self._headers)
            self._finish_pending()
            return None
        return await self._apply(desired, order, plan, workload)

    def _settle(self, desired: LimitOrder, order: LimitOrder, carrier: Workload | None, in_force: int | None) -> None:
        """Take note that an order, a step towards what is desired, is in force."""
        self._note_refusal(None)
        self._succession.is_settled()
        is_published = self._published == order.limit or self._shared.dry_run
        if order.cause != "decision" and desired is not self._announced:
            self._announced = desired
            known = in_force if carrier is None else carrier.limit
            is_published = is_published and (order.limit != known or order.is_repeated)
        if not is_published:
            # Decisions rise only from what was reported to be in force.
            self._published = order.limit
            self._reporter.report_unwritten(order, "unchanged", order.reason, {})
        share = share_per_pod(self.target, order.limit, carrier, self.observed.pods)
        metrics.limit.labels(self.extent.name).set(order.limit)
        metrics.pod_limit.labels(self.extent.name).set(share)

    def _note_refusal(self, reason: str | None) -> None:
        """Show on /readyz why patches fail, or that they do not (None)."""
        if reason is None:
            self._refusals.settle(self._shared.steady())
        why = None if reason is None else f"patches fail: {reason}"
        self._shared.set_condition(f"{self.extent.name} patches", why)

    def _recover_reports(self, workload: Workload) -> None:
        """Report the unreported writes on the objects, and read the workload's record."""
        record = find_record(workload)
        if workload.uid != self._uid:
            self._uid, self._is_managed = workload.uid, False
            self._succession.reset()
            if record is not None and record.scope not in ("", self.target.scope):
                self._change_scope()
            self._reporter.report_version(workload, record)
        self._is_managed = self._is_managed or record is not None
        carrier = None if self.extent.is_part else workload
        objects = [*([] if carrier is None else [carrier]), *self.observed.pods]
        records = {obj.uid: one for obj in objects if (one := self.extent.find_record(obj)) is not None}
        # The workload's record tells who is in charge; of a part, that of the latest term.
        if carrier is None:
            record = max(records.values(), key=lambda one: (one.term, one.at), default=None)
        self._is_deposed = self._succession.is_deposed(record, self._shared.steady())
        if self._shared.dry_run or self._is_deposed:
            return
        written = {uid: frozenset(one.action for one in record.writes) for uid, record in records.items()}
        on_bus, reported = self._on_bus, self._reported
        lost = {uid: left for uid, ids in written.items() if (left := ids - on_bus - reported.get(uid, frozenset()))}
        if lost:
            for action in recover_actions(self.domain, self.target, objects, lost):
                self._reporter.report_recovered(action)
                failpoints.point("actuator.recovered")
        self._reported = written

    def _is_left_alone(self, workload: Workload) -> bool:
        """Whether the target is paused; reports when that changes."""
        paused = why = self._shared.pause(self.domain.name)
        if paused is None:
            paused = pause_reason(workload, managed=self._is_managed)
            why = None if paused is None else f"{paused}; to hand it back: {resume_command(workload)}"
        if why != self._pause:
            self._pause = why
            self._reporter.report_pause(workload, why)
        if why is None and self._is_deposed:
            why = "another actuator is in charge of it; this one stands by"
        if why != self._note:
            self._note = why
            self._reporter.set_note(why)
            # To stand by without the Lease is planned, and no news.
            is_planned = paused is None and self._find_charge(self._shared.steady()) is Charge.OTHERS
            if why is not None and self._desired.order is not None and not is_planned:
                self._published = None
                order, is_paused = self._desired.order, paused is not None
                self._reporter.report_unwritten(order, "skipped", f"paused: {why}", self._headers, paused=is_paused)
        if paused is not None:
            self._note_refusal(None)
            self._finish_pending()
        return paused is not None

    async def _apply(self, desired: LimitOrder, order: LimitOrder, plan: Plan, workload: Workload) -> float:
        """Apply a plan for a step towards what is desired, and report it; returns when to do another round."""
        headers = self._headers  # another decision may replace them before the report
        result = await apply_plan(
            self._shared.client,
            self.observed,
            plan,
            lambda write: (
                not self._is_stopping and self._desired.is_wanted(desired, self._shared.instant, is_cut=write.is_cut)
            ),
            tolerate_stale=not self._was_stale and self._refusals.reason is None,
        )
        applied = self._shared.clock()
        for write, outcome in result.outcomes:
            if outcome.outcome == "applied":
                self._reported[write.obj.uid] = frozenset(one.action for one in write.record.writes)
                if isinstance(write.obj, Workload) or self.extent.is_part:
                    self._announced = desired
                    self._succession.wrote(write.record.term, self._shared.steady())
                    self._is_managed = self._is_managed or not self.extent.is_part
        answered = [write for write, _ in result.outcomes]
        is_news = self._refusals.count(answered, result.failures, self._shared.steady(), result.unsent)
        if result.failures:
            self._note_refusal(self._refusals.reason)
        known, pods = self.observed.workload, self.observed.pods
        carrier = None if self.extent.is_part else known
        whole = known is not None and is_whole(self.target, order.limit, carrier, pods)
        self._reporter.report_writes(
            order, plan, result.outcomes, workload, headers, applied=applied, is_news=is_news, partial=not whole
        )
        self._published = order.limit if whole else None
        self._was_stale = result.is_stale
        if any(write.record.cause == "drift" for write in answered):
            self._drift.count(self._shared.steady())
        return 0.0  # what was written may not be all

    @property
    def is_acting(self) -> bool:
        """Whether this process sets the limit now: it is neither paused nor another's."""
        return self._desired.order is not None and not self._is_deposed and self._pause is None

    def _finish_pending(self) -> None:
        """Finish the decisions that the order came from: nothing more will be done for them."""
        for pending in self._pending:
            self._outbox.finish(pending)
        self._pending = []
