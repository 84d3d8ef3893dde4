"""The statistics of a report, gathered from a range of the bus message by message, in constant memory.

messages -> ReportStatistics -> plots.py, page.py
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.definition import Definition
from schemas.domain import Domain
from schemas.messages import Action, DeadLetter, Decision, InvalidMessage, Overrun, Sample, TargetDecision
from services.control.observation import Observer, fills
from services.tools.common.formatting import decode_message, per_pod_targets
from services.tools.common.recording import RecordedMessage
from services.tools.report.downsampling import Curve
from services.tools.report.incidents import Incident, IncidentLog

_ROWS = 400
_TIMES = 20_000
_PATCHES = 3_000
_OPEN = 2_000


@dataclass
class LimitChange:
    """A limit that moved, and the action that followed."""

    time: int
    """End of the sample, UTC ns."""
    decision: str
    target: TargetDecision
    reason: str
    outcome: str = ""
    """Of the action that followed; empty where there was none."""


@dataclass(frozen=True)
class PatchMark:
    """An action that was applied, or failed."""

    time: int
    target: str
    limit: int
    """kbit/s."""
    outcome: str
    cause: str


class DomainStatistics:
    """The statistics of one domain."""

    def __init__(self, name: str, domain: Domain | None, period: int) -> None:
        """Begin.

        Args:
            name: of the domain.
            domain: its configuration, where it is known.
            period: between samples, ns.
        """
        self.name = name
        self.domain = domain
        self.without_critical = False
        """Of an instance: whether no critical Pod was there at the end, so that nothing could be measured."""
        self.policies: Counter[str] = Counter()
        self.windows = self.violated = self.blind = self.changed = self.pods = 0
        self.first = self.last = 0
        self.p95: dict[str, Curve] = {}
        """By critical workload, seconds; so is the next."""
        self.jitter: dict[str, Curve] = {}
        self.limits: dict[str, Curve] = {}
        """By target, kbit/s; so is the next."""
        self.goodput: dict[str, Curve] = {}
        self.safe, self.expected, self.margin, self.headroom = Curve(), Curve(), Curve(), Curve()
        """What the policy took to be the largest safe total load, the critical load to come, what it kept free, and
        what that left for best effort; kbit/s."""
        self.lessons: Counter[str] = Counter()
        self.filled: Counter[str] = Counter()
        """Windows in which a target filled its limit; then those in which this was its minimum; then all."""
        self.starved: Counter[str] = Counter()
        self.judged: Counter[str] = Counter()
        self.overruns: dict[tuple[str, int], tuple[Overrun, int]] = {}
        """Limits that were not enforced: the last word on each, and until when, by target and beginning (UTC ns)."""
        self.broken = IncidentLog(period)
        self.gaps = IncidentLog(period)
        self.rules: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.causes: Counter[str] = Counter()
        self.sense: deque[int] = deque(maxlen=_TIMES)
        """From the end of a window to its sample on the bus, ns; then to its decision, then to its last patch."""
        self.decide: deque[int] = deque(maxlen=_TIMES)
        self.act: deque[int] = deque(maxlen=_TIMES)
        self.response_times: deque[int] = deque(maxlen=_TIMES)
        """From the first window with a broken SLO to a lower limit in force, ns."""
        self.changes: deque[LimitChange] = deque(maxlen=_ROWS)
        self.patches: deque[PatchMark] = deque(maxlen=_PATCHES)
        self._observer = Observer(domain) if domain is not None else None
        self._unanswered: Incident | None = None
        self._published: dict[str, int] = {}
        self._in_force: dict[str, int] = {}
        self._decided: dict[str, tuple[int, list[LimitChange]]] = {}

    @property
    def per_pod(self) -> frozenset[str]:
        """The targets whose limit holds for each Pod."""
        return per_pod_targets(self.domain)

    @property
    def share_within(self) -> float | None:
        """Share of the windows with data in which no SLO was broken; None without data."""
        seen = self.windows - self.blind
        return 1 - self.violated / seen if seen > 0 else None

    def add_sample(self, sample: Sample, line: RecordedMessage) -> None:
        """Add the next sample."""
        _remember(self._published, sample.id, line.time)
        self.sense.append(line.time - sample.end)
        slos = {critical.key: critical for critical in self.domain.critical} if self.domain is not None else {}
        ratios: list[tuple[float, str]] = [(0.0, "")]
        for one in sample.critical:
            if one.missing is not None or one.p95 is None or one.jitter is None:
                continue
            self.p95.setdefault(one.workload, Curve()).add(sample.end, one.p95)
            self.jitter.setdefault(one.workload, Curve()).add(sample.end, one.jitter)
            if (slo := slos.get(one.workload)) is not None:
                ratios.append((one.p95 * 1e9 / slo.p95, f"P95 of {one.workload}"))
                ratios.append((one.jitter * 1e9 / slo.jitter, f"jitter of {one.workload}"))
        if self._observer is not None:
            seen = self._observer.observe(sample)
            self._add_window(
                sample.end, seen.stress, max(ratios)[1], seen.missing if not seen.violated else None, seen.violated
            )
        for target in sample.targets:
            sent = target.recent if target.recent is not None else target.throughput
            if sent is not None:
                self.goodput.setdefault(target.target, Curve()).add(sample.end, sent)
        for configured in self.domain.targets if self.domain is not None else ():
            limit, key = self._in_force.get(configured.key), configured.key
            if limit is not None:
                if (is_full := fills(configured, sample, limit)) is None:
                    continue
                self.judged[key] += 1
                self.filled[key] += is_full
                self.starved[key] += is_full and limit <= configured.min

    def add_decision(self, decision: Decision, line: RecordedMessage) -> None:
        """Add the next decision."""
        self.policies[decision.policy] += 1
        if (sampled := self._published.get(decision.sample)) is not None:
            self.decide.append(line.time - sampled)
        if self._observer is None:
            missing = decision.reason if decision.stress is None else None
            self._add_window(decision.end, decision.stress, "latency", missing, decision.violated)
        if decision.link is not None:
            self.safe.add(decision.end, decision.link.safe)
            self.expected.add(decision.end, decision.link.expected)
            self.margin.add(decision.end, decision.link.margin)
            self.headroom.add(decision.end, decision.link.headroom)
            self.lessons[decision.link.lesson] += 1
        for overrun in decision.overruns:
            _remember(self.overruns, (overrun.target, overrun.since), (overrun, decision.end))
        changes = []
        for target in decision.targets:
            self._in_force[target.target] = target.limit
            self.limits.setdefault(target.target, Curve()).add(decision.end, target.limit)
            self.rules[target.rule] += 1
            if target.limit != target.was:
                changes.append(LimitChange(decision.end, decision.id, target, decision.reason))
        self.changed += len(changes)
        self.changes.extend(changes)
        _remember(self._decided, decision.id, (line.time, changes))

    def _add_window(self, end: int, stress: float | None, figure: str, missing: str | None, violated: bool) -> None:
        """Count a window, and add it to the incident that it belongs to."""
        self.windows += 1
        self.first, self.last = self.first or end, end
        if missing is not None:
            self.blind += 1
            self.gaps.add(end, 0.0, missing)
        if not violated:
            self._unanswered = None
            return
        self.violated += 1
        incident = self.broken.add(end, stress or 0.0, figure if (stress or 0.0) > 1 else "packets lost")
        if incident.response is None:
            self._unanswered = incident

    def add_action(self, action: Action) -> None:
        """Add the next action."""
        self.outcomes[action.outcome] += 1
        self.causes[action.cause] += 1
        self.pods += sum(pod.outcome == "applied" for pod in action.pods)
        when = action.applied
        if when is not None:
            self.patches.append(PatchMark(when, action.target, action.limit, action.outcome, action.cause))
        decided, changes = self._decided.get(action.decision or "", (0, []))
        for change in changes:
            if change.target.target == action.target:
                change.outcome = action.outcome
        if when is None or not decided or action.cause != "decision":
            return
        self.act.append(when - decided)
        if action.was is not None and action.limit < action.was and self._unanswered is not None:
            self._unanswered.response = when - self._unanswered.begin
            self.response_times.append(self._unanswered.response)
            self._unanswered = None


def _remember(entries: dict[Any, Any], key: Any, value: Any) -> None:
    """Remember an entry, and forget the oldest."""
    entries[key] = value
    if len(entries) > _OPEN:
        del entries[next(iter(entries))]


class ReportStatistics:
    """All statistics of a report."""

    def __init__(self, domains: Sequence[Domain], period: int, since: int = 0) -> None:
        """Begin; ``period`` is the time between samples, ns.  Messages from before ``since``, UTC ns, are left out."""
        self._period = period
        self._since = since
        self.begin = self.end = 0
        """Times of the first and the last message, UTC ns; 0 without one."""
        self._domains = {domain.name: DomainStatistics(domain.name, domain, period) for domain in domains}
        self.dead = 0
        self.unreadable = 0

    def add(self, line: RecordedMessage) -> None:
        """Add the next message."""
        if line.time < self._since:
            return
        self.begin, self.end = self.begin or line.time, max(self.end, line.time)
        try:
            message = decode_message(line)
        except InvalidMessage:
            self.unreadable += 1
            return
        if isinstance(message, DeadLetter):
            self.dead += 1
            return
        if message.domain not in self._domains:
            self._domains[message.domain] = DomainStatistics(message.domain, None, self._period)
        statistics = self._domains[message.domain]
        if isinstance(message, Definition):
            # The objectives and bounds of the last definition are what a domain is judged by.
            statistics.domain, statistics.without_critical = message.configuration, message.without_critical
        elif isinstance(message, Sample):
            statistics.add_sample(message, line)
        elif isinstance(message, Decision):
            statistics.add_decision(message, line)
        else:
            statistics.add_action(message)

    @property
    def domains(self) -> list[DomainStatistics]:
        """The domains with any sample or decision, the worst first."""
        found = [statistics for statistics in self._domains.values() if statistics.windows or statistics.p95]
        return sorted(found, key=lambda statistics: 2.0 if statistics.share_within is None else statistics.share_within)
