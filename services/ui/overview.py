"""All domains as they are now, from the messages of the bus: a summary of each, and its last windows.  Pure.

Only a summary and a short trail are kept of a domain, so that a thousand of them fit into a pod's memory.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import get_args

from schemas.definition import Definition
from schemas.domain import Domain
from schemas.messages import Action, CriticalMeasure, DeadLetter, Decision, Message, Sample
from services.tools.common.formatting import RULES, format_rate, per_pod_targets, short_name
from services.ui.views import DomainView, LatencyView, State, TargetView, TrailPoint

TRAIL = 120
"""Windows in a domain's small curves."""
NEAR = 0.8
"""Latency above this share of an objective is near it."""
_SILENT_NS = 5 * 10**9
_SILENT_PERIODS = 5
_FEW = 24
"""Up to so many domains send their whole trail in the overview."""
_SHORT_TRAIL = 30
STATES: tuple[State, ...] = get_args(State)


class Trail:
    """The last windows of a domain, in a few bytes each."""

    def __init__(self) -> None:
        """Begin empty."""
        self._times = array("d")
        self._values = array("f")

    def add(self, time: float, stress: float | None, limit: float | None, sent: float | None) -> None:
        """Add a window; one that is there already is replaced."""
        values = array("f", (nan if one is None else one for one in (stress, limit, sent)))
        if self._times and self._times[-1] >= time:
            if self._times[-1] == time:
                self._values[-3:] = values
            return
        self._times.append(time)
        self._values.extend(values)
        if len(self._times) > 2 * TRAIL:
            del self._times[:-TRAIL], self._values[: -3 * TRAIL]

    def set_sent(self, time: float, sent: float | None) -> None:
        """Set what was sent in a window that is there: its sample came after its decision."""
        i = bisect_left(self._times, time)
        if i < len(self._times) and self._times[i] == time:
            self._values[3 * i + 2] = nan if sent is None else sent

    def read(self, most: int) -> list[TrailPoint]:
        """Return the last windows, the newest last."""
        begin = max(len(self._times) - most, 0)
        return [TrailPoint(self._times[i], *self._read_values(i)) for i in range(begin, len(self._times))]

    def _read_values(self, i: int) -> Iterator[float | None]:
        for value in self._values[3 * i : 3 * i + 3]:
            yield None if value != value else round(value, 3)  # noqa: PLR0124 - not a number


@dataclass
class LiveTarget:
    """What is known of one target."""

    limit: int | None = None
    sent: int | None = None
    paused: bool = False
    cause: str = "decision"
    note: str = ""


@dataclass
class LiveDomain:
    """What is known of one domain; times are UTC ns."""

    name: str
    domain: Domain | None
    seen: int = 0
    """When its last message was stored."""
    end: int = 0
    period: int = 10**9
    stress: float | None = None
    violated: bool = False
    decided: bool = False
    blind: str = ""
    reason: str = ""
    policy: str = ""
    headroom: int | None = None
    overrun: str = ""
    p95: LatencyView | None = None
    jitter: LatencyView | None = None
    targets: dict[str, LiveTarget] = field(default_factory=dict)
    trail: Trail = field(default_factory=Trail)
    was_silent: bool = False
    without_critical: bool = False
    """Of an instance: whether no critical Pod is there."""

    def __post_init__(self) -> None:
        """List the configured targets in their order."""
        self.configure(self.domain)

    def configure(self, domain: Domain | None) -> None:
        """Take a configuration, from the file or from the bus."""
        self.domain = domain
        for target in domain.targets if domain else ():
            self.targets.setdefault(target.key, LiveTarget())
        self._per_pod = per_pod_targets(domain)
        critical = domain.critical if domain else ()
        self._p95_ms = {one.key: one.p95 / 1e6 for one in critical}
        self._jitter_ms = {one.key: one.jitter / 1e6 for one in critical}

    def add_sample(self, sample: Sample) -> None:
        """Take what was measured."""
        self.end, self.period = max(self.end, sample.end), sample.period
        self.p95 = _pick_worst(sample.critical, "p95", self._p95_ms)
        self.jitter = _pick_worst(sample.critical, "jitter", self._jitter_ms)
        least = self.domain.min_observations if self.domain else 1
        reasons = [why for one in sample.critical if (why := one.why_unusable(least)) is not None]
        self.blind = sample.no_data or (reasons[0] if reasons else "")
        for target in sample.targets:
            sent = target.recent if target.recent is not None else target.throughput
            self.targets.setdefault(target.target, LiveTarget()).sent = sent
        self.trail.set_sent(sample.end // 10**6, self.total("sent"))

    def add_decision(self, decision: Decision) -> None:
        """Take what was decided."""
        if decision.end < self.end - 60 * 10**9:
            return
        self.end, self.decided = max(self.end, decision.end), True
        self.stress, self.violated, self.policy = decision.stress, decision.violated, decision.policy
        self.headroom = decision.link.headroom if decision.link is not None else None
        rules = dict.fromkeys(one.rule for one in decision.targets if one.rule != "none")
        shield = f"; shield: {', '.join(RULES[rule] for rule in rules)}" if rules else ""
        self.reason = f"{decision.reason}{shield}"
        self.overrun = "; ".join(
            f"{short_name(one.target)} sends {format_rate(one.sent)}, over its limit of {format_rate(one.limit)}"
            for one in decision.overruns
        )
        for one in decision.targets:
            self.targets.setdefault(one.target, LiveTarget()).limit = one.limit
        self.trail.add(decision.end // 10**6, decision.stress, self.total("limit"), self.total("sent"))

    def add_action(self, action: Action) -> None:
        """Take what was done to a target."""
        status = self.targets.setdefault(action.target, LiveTarget())
        status.paused, status.cause, status.note = action.paused, action.cause, ""
        if action.paused or action.outcome == "failed" or action.partial:
            status.note = action.reason
        elif action.cause == "dead-man":
            status.note, status.limit = action.reason, action.limit

    def total(self, figure: str) -> int | None:
        """Return the sum of ``limit`` or ``sent`` over the targets, kbit/s; None where it is not known."""
        if figure == "limit" and self._per_pod:
            return None
        known = [value for one in self.targets.values() if (value := getattr(one, figure)) is not None]
        return sum(known) if known else None

    def is_silent(self, now: int) -> bool:
        """Whether no message has come for five seconds, or five periods if that is longer; ``now`` is UTC ns."""
        return self.seen > 0 and now - self.seen > max(_SILENT_NS, _SILENT_PERIODS * self.period)

    def judge(self, now: int) -> tuple[State, str]:
        """Judge how the domain fares, and why; ``now`` is UTC ns."""
        paused = [f"{short_name(key)}: {one.note}" for key, one in self.targets.items() if one.paused]
        state: State = "near" if self.stress is not None and self.stress > NEAR else "good"
        reason = self.reason
        if not self.decided:
            state, reason = "waiting", "nothing decided yet" + (f": {self.blind}" if self.blind else "")
        elif self.is_silent(now):
            state, reason = "silent", f"no message for {(now - self.seen) / 1e9:.0f} s; last: {self.reason}"
        elif self.violated:
            state = "broken"
        elif self.overrun:
            state, reason = "unenforced", self.overrun
        elif self.stress is None and self.without_critical:
            state, reason = "uncritical", "no critical Pod is there, so the fail-safe limit holds"
        elif self.stress is None:
            state, reason = "blind", self.blind or self.reason
        elif paused:
            state, reason = "paused", "; ".join(paused)
        return state, reason

    def build_view(self, now: int, trail: int = 0) -> DomainView:
        """Build the summary at ``now``, UTC ns, with so many windows of the trail."""
        state, reason = self.judge(now)
        targets = [self._build_target(key, one) for key, one in self.targets.items()]
        return DomainView(
            name=self.name,
            state=state,
            reason=reason,
            time=self.end // 10**6,
            stress=None if self.stress is None else round(self.stress, 3),
            p95=self.p95,
            jitter=self.jitter,
            limit=self.total("limit"),
            sent=self.total("sent"),
            headroom=self.headroom,
            policy=self.policy,
            in_charge=", ".join(dict.fromkeys(one.in_charge for one in targets)),
            targets=targets,
            trail=self.trail.read(trail) if trail else [],
        )

    def _build_target(self, key: str, one: LiveTarget) -> TargetView:
        in_charge = self.policy.partition("/")[0] or "nobody yet"
        if one.paused:
            in_charge = "somebody else"
        elif one.cause == "dead-man":
            in_charge = "fail-safe"
        elif one.cause == "restore":
            in_charge = "handed back"
        return TargetView(key, one.limit, one.sent, key in self._per_pod, in_charge, one.paused, one.note)


def _pick_worst(measures: Sequence[CriticalMeasure], figure: str, objectives: dict[str, float]) -> LatencyView | None:
    """Pick the workload whose figure is largest beside its objective, ms."""
    found: list[tuple[float, LatencyView]] = []
    for one in measures:
        value: float | None = getattr(one, figure)
        if value is None or one.missing is not None:
            continue
        objective = objectives.get(one.workload)
        ratio = value * 1000 / objective if objective else value
        found.append((ratio, LatencyView(one.workload, round(value * 1000, 3), objective)))
    return max(found, key=lambda item: item[0])[1] if found else None


class BusOverview:
    """All domains."""

    def __init__(self, domains: Sequence[Domain]) -> None:
        """Begin with the domains of a configuration, if there is one."""
        self.domains = {domain.name: LiveDomain(domain.name, domain) for domain in domains}
        self.dead = 0
        self.removed: set[str] = set()
        """Domains that are defined no more."""

    def add(self, message: Message, published: int) -> LiveDomain | None:
        """Take a message that was stored at ``published``, UTC ns; return the domain that it changed."""
        if isinstance(message, DeadLetter):
            self.dead += 1
            return None
        if isinstance(message, Definition):
            if message.removed:
                self.domains.pop(message.domain, None)
                self.removed.add(message.domain)
                return None
            self.removed.discard(message.domain)
        elif message.domain in self.removed:
            return None  # on its way when the domain was removed
        status = self.domains.get(message.domain)
        if status is None:
            status = self.domains[message.domain] = LiveDomain(message.domain, None)
        if isinstance(message, Sample):
            status.add_sample(message)
            status.seen = max(status.seen, published)
        elif isinstance(message, Decision):
            status.add_decision(message)
            status.seen = max(status.seen, published)
        elif isinstance(message, Action):
            status.add_action(message)
        elif isinstance(message, Definition):
            status.configure(message.configuration)
            status.without_critical = message.without_critical
        return status

    @property
    def configured(self) -> tuple[Domain, ...]:
        """The configurations that are known."""
        return tuple(status.domain for status in self.domains.values() if status.domain is not None)

    def find_fallen_silent(self, now: int) -> list[str]:
        """Find the domains that fell silent since the last call; ``now`` is UTC ns."""
        fallen = []
        for status in self.domains.values():
            silent = status.is_silent(now)
            if silent != status.was_silent:
                status.was_silent = silent
                fallen.append(status.name)
        return fallen

    def build_views(self, now: int) -> list[DomainView]:
        """Build every domain's summary, the worst first; equal ones by stress and name."""
        most = TRAIL if len(self.domains) <= _FEW else _SHORT_TRAIL
        views = [status.build_view(now, most) for status in self.domains.values()]
        return sorted(views, key=lambda one: (STATES.index(one.state), -(one.stress or 0), one.name))
