"""What is said of one target: actions on the bus, Events and notes for people, figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from schemas.domain import Target
from schemas.messages import Action, Outcome, PodOutcome
from schemas.units import Rate
from services.actuator import metrics
from services.actuator.order import Order, in_force
from services.actuator.outbox import Reports
from services.actuator.plan import Plan, Write, report
from services.kube.objects import Deployment, Thing

PODS_ONLY = "Pods only so far"
"""How the reason ends where the Deployment still has the limit from before."""

_log = structlog.get_logger()


class Notices(Protocol):
    """Where people are told."""

    def tell(self, about: Thing, reason: str, message: str, *, warning: bool = False) -> None:
        """Say something about an object, once."""

    def note(self, target: str, text: str | None) -> None:
        """Say what holds for a target from now on; None: nothing special."""


class Voice:
    """Speaks for one target."""

    def __init__(
        self, domain: str, target: Target, reports: Reports, notices: Notices, clock: Callable[[], int]
    ) -> None:
        """Speak to the bus and to people; ``clock`` gives UTC ns."""
        self._domain = domain
        self._target = target
        self._reports = reports
        self._notices = notices
        self._clock = clock
        self._last: tuple[object, ...] = ()

    def acted(
        self,
        order: Order,
        plan: Plan,
        answers: Sequence[tuple[Write, PodOutcome]],
        about: Thing,
        headers: Mapping[str, str],
    ) -> None:
        """Something was written, or tried, or would have been."""
        now = self._clock()
        for action_id, why in plan.reasons.items():
            done = [(write, one) for write, one in answers if write.record.action == action_id]
            if not done:
                continue
            reason = f"{why}; {PODS_ONLY}" if _of_pods(done, about, order) else why
            action = report(self._target, self._domain, order, done, reason, now)
            if self._repeats(action):
                continue
            self._reports.put(action, headers)
            self._log(action)
            self._measure(action)
            self._notices.tell(about, _reason(action), _text(action), warning=action.outcome == "failed")

    def said(self, order: Order, outcome: Outcome, reason: str, headers: Mapping[str, str]) -> None:
        """Nothing was written, and why."""
        action = Action(
            id=":".join(
                [self._target.key, order.cause, order.decision or "-", outcome, str(order.end or self._clock())]
            ),
            domain=self._domain,
            target=self._target.key,
            cause=order.cause,
            outcome=outcome,
            limit=order.limit,
            reason=reason,
            decision=order.decision,
            epoch=order.epoch,
            seq=order.seq,
            sampled=order.end if order.decision else None,
            decided=order.decided,
        )
        self._reports.put(action, headers)
        self._log(action)

    def recovered(self, action: Action) -> None:
        """A report that may have been lost."""
        metrics.recovered.inc()
        self._reports.put(action, {})
        _log.info("report recovered", target=self._target.key, action=action.id)

    def paused(self, about: Thing, why: str) -> None:
        """The target is somebody else's."""
        metrics.paused.labels(self._target.key).set(1)
        self._notices.note(self._target.key, why)
        self._notices.tell(about, "LimitPaused", f"Sluice leaves this alone: {why}", warning=True)
        _log.warning("paused", target=self._target.key, reason=why)

    def resumed(self, about: Thing) -> None:
        """It is Sluice's again."""
        metrics.paused.labels(self._target.key).set(0)
        self._notices.note(self._target.key, None)
        self._notices.tell(about, "LimitResumed", "Sluice sets the bandwidth again")
        _log.warning("resumed", target=self._target.key)

    def _repeats(self, action: Action) -> bool:
        """Whether an action that changed nothing was tried, in the same way, right before."""
        if action.applied is not None or any(pod.outcome == "applied" for pod in action.pods):
            self._last = ()
            return False
        said = (action.cause, action.decision, action.outcome, action.limit, action.reason)
        repeats, self._last = said == self._last, said
        return repeats

    def _log(self, action: Action) -> None:
        level = {"failed": _log.error, "skipped": _log.warning}.get(action.outcome, _log.info)
        level(
            action.outcome,
            target=action.target,
            cause=action.cause,
            limit=str(Rate(action.limit)),
            pods=len(action.pods),
            reason=action.reason,
            action=action.id,
        )

    def _measure(self, action: Action) -> None:
        if action.outcome == "applied" and action.cause == "decision" and action.applied is not None:
            if action.sampled is not None:
                metrics.since_sample.observe(max(action.applied - action.sampled, 0) / 1e9)
            if action.decided is not None:
                metrics.since_decision.observe(max(action.applied - action.decided, 0) / 1e9)


_REASONS = {
    "dead-man": "LimitFailSafe",
    "start": "LimitFailSafe",
    "drift": "LimitCorrected",
    "new-pod": "PodLimited",
    "rescale": "PodLimited",
}


def _reason(action: Action) -> str:
    if action.outcome == "failed":
        return "LimitFailed"
    if action.cause in _REASONS:
        return _REASONS[action.cause]
    return "LimitCut" if action.was is not None and action.limit < action.was else "LimitRaised"


def _text(action: Action) -> str:
    was = "" if action.was in (None, action.limit) else f" (was {Rate(action.was or 0)})"
    return f"{action.outcome}: {Rate(action.limit)}{was}: {action.reason}"


def _of_pods(done: Sequence[tuple[Write, PodOutcome]], about: Thing, order: Order) -> bool:
    """Whether the Deployment, as it was, still has another limit than the order's."""
    written = any(isinstance(write.thing, Deployment) for write, _ in done)
    return isinstance(about, Deployment) and not written and in_force(about) != order.limit
