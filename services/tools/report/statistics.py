"""What a report says, gathered from a stretch of the bus message by message, in constant memory.

lines -> Facts -> report_figures.py (plots), report_page.py (words)
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.domain import Critical, Domain
from schemas.messages import Action, DeadLetter, Decision, InvalidMessage, Sample, TargetDecision
from services.control.observation import Observer
from services.tools.common.formatting import per_pod, read
from services.tools.common.recording import Line
from services.tools.report.downsampling import Curve
from services.tools.report.incidents import Spell, Spells

_ROWS = 400
_TIMES = 20_000
_PATCHES = 3_000
_OPEN = 2_000


@dataclass
class Change:
    """A limit that moved, and what came of it."""

    time: int
    """End of the sample, UTC ns."""
    decision: str
    target: TargetDecision
    reason: str
    outcome: str = ""
    """Of the action that followed; empty where there was none."""


@dataclass(frozen=True)
class Patch:
    """An action that was carried out, or failed."""

    time: int
    target: str
    limit: int
    """kbit/s."""
    outcome: str
    cause: str


class DomainFacts:
    """One domain."""

    def __init__(self, name: str, domain: Domain | None, period: int) -> None:
        """Begin.

        Args:
            name: of the domain.
            domain: its configuration, where it is known.
            period: between samples, ns.
        """
        self.name = name
        self.domain = domain
        self.policies: Counter[str] = Counter()
        self.windows = self.violated = self.blind = self.changed = self.pods = 0
        self.first = self.last = 0
        self.p95: dict[str, Curve] = {}
        """By critical workload, seconds; so is the next."""
        self.jitter: dict[str, Curve] = {}
        self.limits: dict[str, Curve] = {}
        """By target, kbit/s; so is the next."""
        self.goodput: dict[str, Curve] = {}
        self.broken = Spells(period)
        self.unseen = Spells(period)
        self.rules: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.causes: Counter[str] = Counter()
        self.sense: deque[int] = deque(maxlen=_TIMES)
        """From the end of a window to its sample on the bus, ns; then to its decision, then to its last patch."""
        self.decide: deque[int] = deque(maxlen=_TIMES)
        self.act: deque[int] = deque(maxlen=_TIMES)
        self.answered: deque[int] = deque(maxlen=_TIMES)
        """From the first window with a broken SLO to a lower limit in force, ns."""
        self.changes: deque[Change] = deque(maxlen=_ROWS)
        self.patches: deque[Patch] = deque(maxlen=_PATCHES)
        self._observer = Observer(domain) if domain is not None else None
        self._open: Spell | None = None
        self._published: dict[str, int] = {}
        self._decided: dict[str, tuple[int, list[Change]]] = {}

    @property
    def per_pod(self) -> frozenset[str]:
        """Targets whose limit holds for each of their Pods: it is not what all of them may send."""
        return per_pod(self.domain)

    @property
    def share_within(self) -> float | None:
        """Share of the windows with data in which no SLO was broken; None without data."""
        seen = self.windows - self.blind
        return 1 - self.violated / seen if seen > 0 else None

    def sample(self, sample: Sample, line: Line) -> None:
        """The next sample."""
        _keep(self._published, sample.id, line.time)
        self.sense.append(line.time - sample.end)
        slos = {critical.key: critical for critical in self.domain.critical} if self.domain is not None else {}
        ratios: list[tuple[float, str]] = [(0.0, "")]
        for one in sample.critical:
            if one.missing is not None or one.p95 is None or one.jitter is None:
                continue
            self.p95.setdefault(one.workload, Curve()).add(sample.end, one.p95)
            self.jitter.setdefault(one.workload, Curve()).add(sample.end, one.jitter)
            if (slo := slos.get(one.workload)) is not None:
                ratios += _ratios(one.workload, one.p95, one.jitter, slo)
        if self._observer is not None:
            seen = self._observer.observe(sample)
            self._note(
                sample.end, seen.stress, max(ratios)[1], seen.missing if not seen.violated else None, seen.violated
            )
        for target in sample.targets:
            sent = target.recent if target.recent is not None else target.throughput
            if sent is not None:
                self.goodput.setdefault(target.target, Curve()).add(sample.end, sent)

    def decision(self, decision: Decision, line: Line) -> None:
        """The next decision."""
        self.policies[decision.policy] += 1
        if (sampled := self._published.get(decision.sample)) is not None:
            self.decide.append(line.time - sampled)
        if self._observer is None:
            missing = decision.reason if decision.stress is None else None
            self._note(decision.end, decision.stress, "latency", missing, decision.violated)
        changes = []
        for target in decision.targets:
            self.limits.setdefault(target.target, Curve()).add(decision.end, target.limit)
            self.rules[target.rule] += 1
            if target.limit != target.was:
                changes.append(Change(decision.end, decision.id, target, decision.reason))
        self.changed += len(changes)
        self.changes.extend(changes)
        _keep(self._decided, decision.id, (line.time, changes))

    def _note(self, end: int, stress: float | None, figure: str, missing: str | None, violated: bool) -> None:
        """Take note of how a window stands."""
        self.windows += 1
        self.first, self.last = self.first or end, end
        if missing is not None:
            self.blind += 1
            self.unseen.add(end, 0.0, missing)
        if not violated:
            self._open = None
            return
        self.violated += 1
        spell = self.broken.add(end, stress or 0.0, figure if (stress or 0.0) > 1 else "packets lost")
        if spell.answered is None:
            self._open = spell

    def action(self, action: Action) -> None:
        """The next action."""
        self.outcomes[action.outcome] += 1
        self.causes[action.cause] += 1
        self.pods += sum(pod.outcome == "applied" for pod in action.pods)
        when = action.applied
        if when is not None:
            self.patches.append(Patch(when, action.target, action.limit, action.outcome, action.cause))
        decided, changes = self._decided.get(action.decision or "", (0, []))
        for change in changes:
            if change.target.target == action.target:
                change.outcome = action.outcome
        if when is None or not decided or action.cause != "decision":
            return
        self.act.append(when - decided)
        if action.was is not None and action.limit < action.was and self._open is not None:
            self._open.answered = when - self._open.begin
            self.answered.append(self._open.answered)
            self._open = None


def _ratios(workload: str, p95: float, jitter: float, slo: Critical) -> list[tuple[float, str]]:
    return [(p95 * 1e9 / slo.p95, f"P95 of {workload}"), (jitter * 1e9 / slo.jitter, f"jitter of {workload}")]


def _keep(entries: dict[str, Any], key: str, value: Any) -> None:
    """Remember, and forget the oldest."""
    entries[key] = value
    if len(entries) > _OPEN:
        del entries[next(iter(entries))]


class Facts:
    """Everything that a report says."""

    def __init__(self, domains: Sequence[Domain], period: int) -> None:
        """Begin; ``period`` is the time between samples, ns."""
        self._period = period
        self._domains = {domain.name: DomainFacts(domain.name, domain, period) for domain in domains}
        self.dead = 0
        self.unreadable = 0

    def take(self, line: Line) -> None:
        """The next message."""
        try:
            message = read(line)
        except InvalidMessage:
            self.unreadable += 1
            return
        if isinstance(message, DeadLetter):
            self.dead += 1
            return
        if message.domain not in self._domains:
            self._domains[message.domain] = DomainFacts(message.domain, None, self._period)
        facts = self._domains[message.domain]
        if isinstance(message, Sample):
            facts.sample(message, line)
        elif isinstance(message, Decision):
            facts.decision(message, line)
        else:
            facts.action(message)

    @property
    def domains(self) -> list[DomainFacts]:
        """The domains of which there is something to say, those that stand worst first."""
        found = [facts for facts in self._domains.values() if facts.windows or facts.p95]
        return sorted(found, key=lambda facts: 2.0 if facts.share_within is None else facts.share_within)
