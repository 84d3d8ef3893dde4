"""What the live table shows: the latest of every domain, kept up from the messages as they come.  Pure."""

from collections import deque
from dataclasses import dataclass, field

from schemas.domain import Domain
from schemas.messages import Action, CriticalMeasure, DeadLetter, Decision, Message, Sample

HISTORY = 40
"""How many samples back the small curves go."""
NEAR = 0.8
"""From this share of an SLO on, latency is near it."""


@dataclass
class Series:
    """A figure's last values, the newest last; None where there was none."""

    values: deque[float | None] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def add(self, value: float | None) -> None:
        """The next value."""
        self.values.append(value)


@dataclass
class DomainView:
    """One domain as it stands."""

    name: str
    domain: Domain | None
    """Its configuration, where it is known."""
    sample: Sample | None = None
    decision: Decision | None = None
    seen: float = 0.0
    """When the last message came, by this process's clock, seconds."""
    stress: Series = field(default_factory=Series)
    """The worst ratio of a latency figure to its SLO, by decision."""
    limits: dict[str, Series] = field(default_factory=dict)
    """By target, kbit/s."""
    actions: dict[str, Action] = field(default_factory=dict)
    """By target, the last one."""
    samples: int = 0
    violated: int = 0
    blind: int = 0

    def measures(self) -> list[CriticalMeasure]:
        """What the last sample says of each critical workload."""
        return [] if self.sample is None else list(self.sample.critical)

    def targets(self) -> list[str]:
        """Every target that is known of."""
        named = [target.key for target in self.domain.targets] if self.domain else []
        return list(dict.fromkeys([*named, *self.limits, *self.actions]))

    def throughput(self, target: str) -> int | None:
        """What a target sent in the last window, kbit/s."""
        found = self.sample.targets if self.sample is not None else ()
        return next((one.throughput for one in found if one.target == target), None)


class View:
    """Every domain as it stands, and what goes wrong."""

    def __init__(self, domains: tuple[Domain, ...]) -> None:
        """Begin with the domains of a configuration, if there is one."""
        self.domains = {domain.name: DomainView(domain.name, domain) for domain in domains}
        self.dead: DeadLetter | None = None
        self.counts = {"sample": 0, "decision": 0, "action": 0, "dead": 0}

    def take(self, kind: str, message: Message, now: float) -> None:
        """Note a message that came at ``now``, seconds by this process's clock."""
        self.counts[kind] += 1
        if isinstance(message, DeadLetter):
            self.dead = message
            return
        view = self.domains.setdefault(message.domain, DomainView(message.domain, None))
        view.seen = now
        if isinstance(message, Sample):
            view.sample = message
        elif isinstance(message, Decision):
            _decided(view, message)
        else:
            view.actions[message.target] = message

    def worst_first(self) -> list[DomainView]:
        """The domains, those that need a person's eye at the top; equal ones keep their places."""

        def need(view: DomainView) -> tuple[int, str]:
            decision = view.decision
            if decision is None:
                return 2, view.name
            if decision.violated:
                return 0, view.name
            stress = decision.stress
            return 1 if stress is None else 3 if stress > NEAR else 4, view.name

        return sorted(self.domains.values(), key=need)


def _decided(view: DomainView, decision: Decision) -> None:
    view.decision = decision
    view.samples += 1
    view.violated += decision.violated
    view.blind += decision.stress is None
    view.stress.add(decision.stress)
    for target in decision.targets:
        view.limits.setdefault(target.target, Series()).add(target.limit)
