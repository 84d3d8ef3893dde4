"""One domain over a stretch of time: curves, incidents and marks.  The curves are those of ``sluice report``."""

from collections import deque
from collections.abc import Iterator, Mapping

from schemas.domain import Domain
from schemas.messages import Action, Decision, InvalidMessage, Message, Sample
from services.tools.common.formatting import (
    RULES,
    decode_message,
    describe_outcome,
    format_change,
    format_pair,
    format_rate,
    short_name,
)
from services.tools.common.recording import RecordedMessage
from services.tools.report.downsampling import Curve
from services.tools.report.incidents import Incident
from services.tools.report.statistics import DomainStatistics
from services.ui.overview import LiveDomain
from services.ui.views import (
    CriticalSettings,
    DomainHistory,
    DomainSettings,
    LimitMark,
    MarkKind,
    Series,
    SeriesKind,
    Span,
    TargetSettings,
)

_MARKS = 1500
_POINTS = 1200


class HistoryBuilder:
    """Gathers one domain's messages in constant memory."""

    def __init__(self, name: str, domain: Domain | None, period: int) -> None:
        """Begin; ``period`` is the time between samples, ns."""
        self.statistics = DomainStatistics(name, domain, period)
        self.status = LiveDomain(name, domain)
        self._domain = domain
        self._shadows: dict[str, Curve] = {}
        self._marks: deque[LimitMark] = deque(maxlen=_MARKS)
        self._unreadable = 0

    def add(self, line: RecordedMessage) -> None:
        """Add the next message; one that cannot be read is left out."""
        try:
            self.add_message(decode_message(line), line)
        except InvalidMessage:
            self._unreadable += 1

    def add_message(self, message: Message, line: RecordedMessage) -> None:
        """Add the next message, decoded."""
        if isinstance(message, Sample):
            self.statistics.add_sample(message, line)
            self.status.add_sample(message)
            self.status.seen = line.time
        elif isinstance(message, Decision):
            self.statistics.add_decision(message, line)
            self.status.add_decision(message)
            for shadow in message.shadow:
                self._shadows.setdefault(shadow.policy, Curve(_POINTS)).add(message.end, shadow.limit)
            self._marks.extend(mark_decision(message))
        elif isinstance(message, Action):
            self.statistics.add_action(message)
            self.status.add_action(message)
            self._marks.extend(mark_action(message, line.time))

    def build(self, begin: int = 0, end: int = 0, *, whole: bool = True, rough: bool = False) -> DomainHistory:
        """Build the answer for a range, UTC ns; ``whole`` adds the configuration and the summary at its end."""
        statistics = self.statistics
        return DomainHistory(
            name=statistics.name,
            series=list(self._build_series()),
            broken=[build_span(one) for one in statistics.broken.kept],
            blind=[build_span(one) for one in statistics.gaps.kept],
            marks=list(self._marks),
            begin=begin // 10**6,
            end=end // 10**6,
            settings=build_settings(self._domain) if whole and self._domain is not None else None,
            now=self.status.build_view(end) if whole else None,
            rough=rough,
        )

    def _build_series(self) -> Iterator[Series]:
        one = self.statistics
        yield from build_all("p95", one.p95)
        yield from build_all("jitter", one.jitter)
        yield from build_all("limit", one.limits)
        yield from build_all("sent", one.goodput)
        yield from build_all("shadow", self._shadows)
        if one.safe.points:
            yield from build_all("safe", {"": one.safe})
        if one.expected.points:
            yield from build_all("expected", {"": one.expected})


def build_all(kind: SeriesKind, curves: Mapping[str, Curve]) -> Iterator[Series]:
    """Build the curves of a kind by name: of a section the highest latency, the mean sent, or the last limit."""
    for name, curve in curves.items():
        times: list[float] = [point.time // 10**6 for point in curve.points]
        values: list[float | None]
        if kind in ("p95", "jitter"):
            values = [round(point.high * 1000, 4) for point in curve.points]
        elif kind == "sent":
            values = [round(point.mean) for point in curve.points]
        else:
            values = [round(point.last) for point in curve.points]
        yield Series(kind, name, times, values)


def build_span(incident: Incident) -> Span:
    """Build an incident; each window stands for the period that it ends."""
    begin, end = incident.begin - incident.period, incident.end
    return Span(begin // 10**6, end // 10**6, incident.what, round(incident.worst, 2))


def build_settings(domain: Domain) -> DomainSettings:
    """Build a domain's configuration for the page."""
    return DomainSettings(
        policy=domain.policy,
        critical=view_objectives(domain),
        targets=[
            TargetSettings(one.key, int(one.min), int(one.max), int(one.fail_safe), one.scope == "per-pod")
            for one in domain.targets
        ],
        parameters=domain.parameters,
        shadow=list(domain.shadow),
        capacity=None if domain.capacity is None else int(domain.capacity),
    )


def view_objectives(domain: Domain) -> list[CriticalSettings]:
    """Build the objectives of a domain's critical workloads, ms."""
    return [CriticalSettings(one.key, one.p95 / 1e6, one.jitter / 1e6) for one in domain.critical]


def mark_decision(decision: Decision) -> Iterator[LimitMark]:
    """Mark what a decision changed, target by target."""
    for one in decision.targets:
        if one.limit == one.was and decision.fault is None:
            continue
        kind: MarkKind = "raise" if one.limit >= one.was else "lower"
        if one.rule in ("cut", "no-data"):
            kind = "cut" if one.rule == "cut" else "no-data"
        elif decision.fault is not None:
            kind = "fault"
        asked = format_pair(one.limit, one.proposal)[1]
        shield = "" if one.rule == "none" else f" Shield: {RULES[one.rule]}, {asked} asked."
        move = f"{short_name(one.target)} {format_change(one.was, one.limit).replace('->', '→')}"
        fault = f" Fault: {decision.fault}." if decision.fault else ""
        text = f"{move}. {decision.reason}.{shield}{fault}"
        yield LimitMark(decision.end // 10**6, kind, decision.id, one.target, one.limit, text)


def mark_action(action: Action, stored: int) -> Iterator[LimitMark]:
    """An applied decision is the rule, and has its decision's mark."""
    kind: MarkKind = "applied"
    if action.paused:
        kind = "paused"
    elif action.outcome == "failed":
        kind = "failed"
    elif action.cause != "decision":
        kind = "autonomous"
    if kind == "applied":
        return
    when = (action.applied or stored) // 10**6
    what = f"{short_name(action.target)} {format_rate(action.limit)} {describe_outcome(action)} ({action.cause})"
    yield LimitMark(when, kind, action.id, action.target, action.limit, f"{what}: {action.reason}")
