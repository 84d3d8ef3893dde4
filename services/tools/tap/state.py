"""The state behind the live table: the latest of every domain, updated by each message.  Pure."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from schemas.definition import Definition
from schemas.domain import Domain
from schemas.messages import KINDS, Action, CriticalMeasure, DeadLetter, Decision, Message, Sample
from services.tools.common.formatting import definition_of

HISTORY = 40
"""How many samples the small curves show."""
NEAR = 0.8
"""Latency above this share of an SLO is near it."""
SILENT_S = 5.0
"""A domain without any message for this long is silent."""
State = Literal["broken", "blind", "silent", "waiting", "near", "good", "uncritical"]
"""How a domain fares, the most urgent first.  The last one: no critical Pod is there, so nothing can be measured."""
STATES: tuple[State, ...] = get_args(State)


@dataclass
class ValueHistory:
    """A quantity's last values, the newest last; None where there was none."""

    values: deque[float | None] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def add(self, value: float | None) -> None:
        """Add the next value."""
        self.values.append(value)


@dataclass
class DomainStatus:
    """The state of one domain."""

    name: str
    domain: Domain | None
    """Its configuration, where it is known."""
    without_critical: bool = False
    """Of an instance: whether no critical Pod is there."""
    sample: Sample | None = None
    decision: Decision | None = None
    seen: float = 0.0
    """When the last message arrived, by this process's clock, seconds."""
    stress: ValueHistory = field(default_factory=ValueHistory)
    """The worst ratio of a latency to its SLO, by decision."""
    limits: dict[str, ValueHistory] = field(default_factory=dict)
    """By target, kbit/s."""
    actions: dict[str, Action] = field(default_factory=dict)
    """By target, the last one."""
    samples: int = 0
    violated: int = 0
    blind: int = 0

    def measures(self) -> list[CriticalMeasure]:
        """Return the last sample's measurements of each critical workload."""
        return [] if self.sample is None else list(self.sample.critical)

    def targets(self) -> list[str]:
        """Return every known target."""
        named = [target.key for target in self.domain.targets] if self.domain else []
        return list(dict.fromkeys([*named, *self.limits, *self.actions]))

    def add_decision(self, decision: Decision) -> None:
        """Add the next decision."""
        self.decision = decision
        self.samples += 1
        self.violated += decision.violated
        self.blind += decision.stress is None
        self.stress.add(decision.stress)
        for target in decision.targets:
            self.limits.setdefault(target.target, ValueHistory()).add(target.limit)

    def define(self, definition: Definition) -> None:
        """Show the domain under its new definition."""
        self.domain = domain = definition.configuration
        self.without_critical = definition.without_critical
        keys = {target.key for target in domain.targets}
        self.limits = {key: one for key, one in self.limits.items() if key in keys}
        self.actions = {key: one for key, one in self.actions.items() if key in keys}

    def judge(self, now: float) -> State:
        """Judge how the domain fares at ``now``, seconds by this process's clock."""
        decision = self.decision
        if decision is None:
            return "waiting"
        if now - self.seen > SILENT_S:
            return "silent"
        if decision.violated:
            return "broken"
        if decision.stress is None:
            return "uncritical" if self.without_critical else "blind"
        return "near" if decision.stress > NEAR else "good"

    @property
    def limit(self) -> int | None:
        """The sum of the targets' limits, kbit/s; None before the first."""
        return sum(target.limit for target in self.decision.targets) if self.decision is not None else None

    @property
    def sent(self) -> int | None:
        """What all targets sent in the last window, kbit/s; None where nothing is known."""
        known = [rate for target in self.targets() if (rate := self.throughput(target)) is not None]
        return sum(known) if known else None

    def throughput(self, target: str) -> int | None:
        """Return what a target sent in the last window, kbit/s."""
        found = self.sample.targets if self.sample is not None else ()
        return next((one.throughput for one in found if one.target == target), None)


class BusStatus:
    """The state of all domains, and the last dead letter."""

    def __init__(self, domains: tuple[Domain, ...]) -> None:
        """Begin with the domains of a configuration, if there is one."""
        self.domains = {domain.name: DomainStatus(domain.name, domain) for domain in domains}
        self.dead: DeadLetter | None = None
        self.counts = dict.fromkeys(KINDS, 0)

    def add(self, kind: str, message: Message, now: float) -> None:
        """Add a message that arrived at ``now``, seconds by this process's clock."""
        self.counts[kind] += 1
        if isinstance(message, DeadLetter):
            self.dead = message
            return
        if isinstance(message, Definition) and message.removed:
            self.domains.pop(message.domain, None)
            return
        status = self.domains.setdefault(message.domain, DomainStatus(message.domain, None))
        if isinstance(message, Definition):
            status.define(message)
            return
        status.seen = now
        if isinstance(message, Sample):
            status.sample = message
        elif isinstance(message, Decision):
            status.add_decision(message)
        else:
            status.actions[message.target] = message

    def sort_worst_first(self, now: float = 0.0) -> list[DomainStatus]:
        """Return the domains at ``now``, the most urgent first; equal ones by name."""
        return sorted(self.domains.values(), key=lambda one: (STATES.index(one.judge(now)), one.name))


@dataclass(frozen=True)
class Group:
    """The instances of one definition, taken together."""

    definition: str
    counts: dict[State, int]
    """By state, the most urgent first; only those that occur."""
    worst: DomainStatus
    """The instance whose latency is the most beside its SLO."""
    limit: int
    """What all instances together may send, kbit/s; and what they sent."""
    sent: int

    @property
    def size(self) -> int:
        """How many instances there are."""
        return sum(self.counts.values())


def group_instances(domains: Iterable[DomainStatus], now: float) -> list[Group]:
    """Group the instances by definition: the group with the most urgent instance first."""
    members: dict[str, list[DomainStatus]] = {}
    for one in domains:
        if name := definition_of(one.name):
            members.setdefault(name, []).append(one)
    groups = []
    for name, instances in members.items():
        states = [one.judge(now) for one in instances]
        counts = {state: states.count(state) for state in STATES if state in states}
        worst = max(instances, key=lambda one: (one.decision.stress or 0.0) if one.decision else 0.0)
        limit, sent = (sum(getattr(one, figure) or 0 for one in instances) for figure in ("limit", "sent"))
        groups.append(Group(definition=name, counts=counts, worst=worst, limit=limit, sent=sent))
    urgent = STATES[: STATES.index("good")]
    return sorted(groups, key=lambda one: (*(-one.counts.get(state, 0) for state in urgent), one.definition))
