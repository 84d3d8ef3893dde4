"""One target: takes decisions, lets them expire, and keeps the cluster as they say.

    decisions --> intent.py --> order --+
                                        +--> plan.py --> execute.py --> voice.py
    API server --> watch.py --> seen ---+

The cluster is brought to the order again and again until nothing is left to write: a decision, a Pod
that appeared, a value that somebody changed and a patch that failed all lead to the same plan.  One
target's work is done in sequence; targets do not wait for each other.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

from msgspec import Struct

from schemas.domain import Domain, Target
from schemas.messages import Action, Decision, PodOutcome, TargetDecision
from services.actuator import metrics
from services.actuator.apply import Patches, carry_out
from services.actuator.desired_limit import Intent, Moment
from services.actuator.drift_backoff import Drift
from services.actuator.informer import Seen
from services.actuator.order import Order, from_decision, in_force, lowest
from services.actuator.outbox import Duty, Reports
from services.actuator.ownership import Record, newest, readable_record
from services.actuator.plan import Author, Plan, Write, left_alone, per_pod, planned, recovered, way_back
from services.actuator.reporter import Notices, Voice
from services.common import failpoints
from services.common.backoff import BackOff
from services.control.fencing import AHEAD
from services.kube.objects import Deployment, Thing

_GRACE_S = 2.0
"""How long a starting actuator waits for the bus before it applies the fail-safe limit."""
_STUBBORN = 3
"""After so many rounds in a row with objects that are not as they were seen, it counts as a failure."""


class Means(Struct, frozen=True):
    """What all targets of a process share."""

    cluster: Patches
    reports: Reports
    notices: Notices
    by: str
    """Names this process."""
    dry_run: bool = False
    """Patch nothing, and report what would be."""
    clock: Callable[[], int] = time.time_ns
    """UTC ns."""
    steady: Callable[[], float] = time.monotonic
    """Seconds, by a clock that never steps."""


class Hand:
    """Holds one target's limit."""

    def __init__(self, domain: Domain, target: Target, means: Means) -> None:
        """Prepare; ``run`` does the work.  The target's bounds hold whatever is decided."""
        self.target = target
        self.seen = Seen(self._wake)
        self._domain = domain
        self._means = means
        self._reports = means.reports
        self._voice = Voice(domain.name, target, means.reports, means.notices, means.clock)
        grace_ends = means.steady() + min(_GRACE_S, domain.dead_man.seconds)
        self._intent = Intent(target, domain.dead_man, grace_ends)
        self._awake = asyncio.Event()
        self._duties: list[Duty] = []
        self._headers: Mapping[str, str] = {}
        self._bus_said = False
        self._on_bus: set[str] = set()
        self._reported: dict[str, set[str]] = {}
        self._uid = ""
        self._managed = False
        self._term: int | None = None
        self._alone: str | None = None
        self._announced: Order | None = None
        self._told_late = float("-inf")
        self._back_off = BackOff()
        self._stale_rounds = 0
        self._drift = Drift()
        metrics.dead_man.labels(target.key)  # an alert sees increases only: it must have been seen at zero

    def _wake(self) -> None:
        self._awake.set()

    def _moment(self) -> Moment:
        return Moment(self._means.clock(), self._means.steady())

    def begin(self, last_action: Action | None) -> None:
        """The bus was asked what it holds, and its decision offered; ``last_action`` is its last report."""
        if last_action is not None and last_action.outcome == "applied":
            self._on_bus.add(last_action.id)
        self._bus_said = True
        self._wake()

    def offer(self, decision: Decision, part: TargetDecision, published: int, duty: Duty) -> None:
        """A decision came: it replaces the order, unless it is too old or too late."""
        moment = self._moment()
        why = self._intent.offer(decision, part, published, self._newest(moment), moment)
        if why is None:
            self._release()
            self._duties, self._headers = [duty], duty.headers
            self._back_off = BackOff()
            self._wake()
        elif self._duties and self._intent.is_about(decision):
            self._duties.append(duty)  # delivered again while it is being put in force
        else:
            self._refuse(decision, part, why, moment)
            self._reports.finish(duty)

    def _refuse(self, decision: Decision, part: TargetDecision, why: str, moment: Moment) -> None:
        kind = next((word for word in ("future", "expired") if word in why), "overtaken")
        metrics.refused.labels(kind).inc()
        if kind != "overtaken" and moment.steady - self._told_late > self._domain.dead_man.seconds:
            self._told_late = moment.steady
            late = from_decision(self.target, decision, part, decision.end)
            self._voice.said(late, "skipped", why, {})

    def _record(self) -> Record | None:
        """What the Deployment carries."""
        return None if self.seen.deployment is None else readable_record(self.seen.deployment)

    def _newest(self, moment: Moment) -> Record | None:
        """What tells of the newest decision: after a crash amid patches that may be a Pod."""
        things: list[Thing] = [self.seen.deployment, *self.seen.pods] if self.seen.deployment is not None else []
        return newest((readable_record(thing) for thing in things), moment.now + AHEAD)

    def _in_force(self, moment: Moment) -> int | None:
        """The lowest limit that may be in force, kbit/s: a cut may have reached Pods and not the Deployment."""
        if self.seen.deployment is None:
            return None
        record = self._newest(moment)
        return lowest(in_force(self.seen.deployment), record.limit if record is not None else None)

    def _release(self) -> None:
        """Nothing more will be done for the decisions in hand."""
        for duty in self._duties:
            self._reports.finish(duty)
        self._duties = []

    async def run(self) -> None:
        """Keep the cluster as it should be, for ever."""
        while True:
            self._awake.clear()
            self._judge()
            retry_s = await self._settle()
            await self._rest(retry_s)

    async def _rest(self, retry_s: float | None) -> None:
        """Sleep until something changes, the order lapses or it is time to try again."""
        moment = self._moment()
        alarm = self._intent.alarm(moment)
        waits = [one for one in (retry_s, None if alarm is None else alarm - moment.steady) if one is not None]
        try:
            async with asyncio.timeout(max(min(waits), 0.0) if waits else None):
                await self._awake.wait()
        except TimeoutError:
            return

    def _judge(self) -> None:
        """Let an order lapse that is over; without one, begin with what is known."""
        deployment, moment = self.seen.deployment, self._moment()
        limit = self._in_force(moment)
        over = self._intent.lapse(limit, moment, seen=deployment is not None)
        if over is not None:
            metrics.dead_man.labels(self.target.key).inc()
            if self._duties:
                self._voice.said(over, "skipped", "it expired before it could be put in force", self._headers)
            self._release()
            self._headers = {}
        if deployment is not None and self.seen.complete:
            self._intent.begin(self._newest(moment), limit, moment, bus_said=self._bus_said)

    async def _settle(self) -> float | None:
        """Bring the cluster to the order; gives after how many seconds to try again, or None."""
        deployment, moment = self.seen.deployment, self._moment()
        # What the bus holds must be known before records are overwritten that it may not have heard of.
        informed = self._intent.informed(moment, bus_said=self._bus_said)
        if deployment is None or not self.seen.complete or not informed:
            return None
        self._recognise(deployment)
        if self._intent.order is None or self._stand_back(deployment):
            return None
        if self._intent.bow(self._newest(moment), moment):
            self._release()
        self._intent.hold(self._in_force(moment))
        order = self._intent.order
        author = Author(self._means.by, self._term or self._next_term())
        pods = self.seen.pods
        plan = planned(self.target, order, deployment, pods, author, self._reports.owes, self._means.clock())
        if not plan.writes:
            self._settled(order, deployment)
            return None
        plan = plan.bearable
        wait_s = self._patience(plan)
        if wait_s is not None:
            return wait_s
        if self._means.dry_run:
            answers = [(one, PodOutcome(one.thing.metadata.name, one.thing.uid, "dry-run")) for one in plan.writes]
            self._voice.acted(order, plan, answers, deployment, self._headers)
            self._release()
            return None
        return await self._carry_out(order, plan, author, deployment)

    def _recognise(self, deployment: Deployment) -> None:
        """Take note of another Deployment, of a record on it, and of writes that nobody reported."""
        if deployment.uid != self._uid:
            self._uid, self._managed, self._term = deployment.uid, False, None
        self._managed = self._managed or self._record() is not None
        if self._means.dry_run or self._deposed():
            return
        things: list[Thing] = [deployment, *self.seen.pods]
        for action in recovered(self.target, self._domain.name, things, self._is_reported):
            self._voice.recovered(action)
            failpoints.point("actuator.recovered")
        self._reported = {thing.uid: _ids(thing) for thing in things}

    def _is_reported(self, thing: Thing, action: str) -> bool:
        return action in self._on_bus or action in self._reported.get(thing.uid, ())

    def _deposed(self) -> bool:
        """Whether an actuator that started later has written since this one did."""
        record = self._record()
        return (
            record is not None and self._term is not None and record.by != self._means.by and record.term >= self._term
        )

    def _next_term(self) -> int:
        record = self._record()
        return 1 + (record.term if record is not None else 0)

    def _stand_back(self, deployment: Deployment) -> bool:
        """Whether the target is somebody else's; says so when that changes."""
        why = left_alone(deployment, managed=self._managed)
        if why is not None:
            why = f"{why}; to hand it back: {way_back(deployment)}"
        elif self._deposed():
            why = "another actuator that started later is in charge of it"
        if why == self._alone:
            pass
        elif why is None:
            self._voice.resumed(deployment)
        else:
            self._voice.paused(deployment, why)
            if self._intent.order is not None:
                self._voice.said(self._intent.order, "skipped", f"paused: {why}", self._headers)
        self._alone = why
        if why is not None:
            self._release()
        return why is not None

    def _patience(self, plan: Plan) -> float | None:
        """How long what is planned has to wait, seconds; None: not at all."""
        if not plan.writes or (self._reports.full and not any(write.cut for write in plan.writes)):
            return 1.0  # reports have to go first
        return self._drift.wait_s(plan.writes, self._means.steady())

    async def _carry_out(self, order: Order, plan: Plan, author: Author, deployment: Deployment) -> float:
        patient = self._stale_rounds < _STUBBORN
        headers = self._headers  # by the time of the report another decision may be in hand

        def wanted(write: Write) -> bool:
            return self._intent.allows(order, self._moment(), cut=write.cut)

        done = await carry_out(self._means.cluster, self.seen, plan, wanted, patient=patient)
        if done.claimed:
            self._announced = order
            self._term, self._managed = author.term, True
        for write, outcome in done.answers:
            if outcome.outcome == "applied":
                self._reported[write.thing.uid] = {one.action for one in write.record.writes}
        self._voice.acted(order, plan, done.answers, deployment, headers)
        self._stale_rounds = self._stale_rounds + 1 if done.stale else 0
        if any(write.record.cause == "drift" for write, _ in done.answers):
            self._drift.corrected(self._means.steady())
        if done.failed:
            return self._back_off.next_s()
        return 0.0  # look again: what was written may not be all

    def _settled(self, order: Order, deployment: Deployment) -> None:
        """The cluster is as the order says."""
        self._back_off = BackOff()
        if order.cause != "decision" and order is not self._announced:
            self._announced = order
            if order.limit == in_force(deployment):
                self._voice.said(order, "unchanged", order.reason, {})
        self._release()
        metrics.limit.labels(self.target.key).set(order.limit)
        share = per_pod(self.target, order.limit, deployment, self.seen.pods)
        metrics.pod_limit.labels(self.target.key).set(share)


def _ids(thing: Thing) -> set[str]:
    """The actions that an object tells of."""
    record = readable_record(thing)
    return {one.action for one in record.writes} if record is not None else set()
