"""What calibration keeps of a range of the bus: one reading for each sample that has data.

messages -> Readings -> queue.py -> capacity.py, limits.py, objectives.py
"""

from dataclasses import dataclass, field

from msgspec import Struct

from schemas.definition import Definition
from schemas.domain import Domain
from schemas.messages import Decision, InvalidMessage, Sample
from services.control.observation import Observer
from services.tools.common.formatting import decode_message
from services.tools.common.recording import RecordedMessage


class Latency(Struct, frozen=True, gc=False):
    """What one critical workload saw; seconds."""

    now: float
    """Median over the last period; over the whole window the P95, where the source measures no such median."""
    p95: float
    """Over the window, as is the jitter."""
    jitter: float


class Reading(Struct, frozen=True, gc=False):
    """One sample with data.  Times are UTC ns, rates kbit/s; None: not measured."""

    start: int
    """Of the window."""
    end: int
    period: int
    latency: tuple[Latency, ...]
    """In the order of the domain's critical workloads."""
    lost: float
    critical: int | None
    """Throughput of all critical workloads, over the last period where the source measures it."""
    sent: tuple[int | None, ...]
    """The same of each target, all its Pods together."""
    pods: tuple[int | None, ...]
    """How many Pods each target had."""
    limits: tuple[int | None, ...]
    """In force on each target, in its scope; None: not recorded."""

    @property
    def total(self) -> int | None:
        """What all workloads sent together."""
        parts = [one for one in (self.critical, *self.sent) if one is not None]
        return sum(parts) if len(parts) == 1 + len(self.sent) else None


@dataclass
class DomainReadings:
    """All readings of one domain."""

    domain: Domain
    """Its last configuration."""
    readings: list[Reading] = field(default_factory=list)
    samples: int = 0
    blind: int = 0
    """Samples without data."""
    first: int = 0
    """When the first sample's window began, UTC ns."""
    last: int = 0
    """When the last one ended, UTC ns."""
    is_recent: bool = True
    """Whether every reading has the median of its last period."""

    def __post_init__(self) -> None:
        """Prepare what every sample needs."""
        self._observer = Observer(self.domain)
        self._limits: dict[str, int] = {}

    def add_decision(self, decision: Decision) -> None:
        """Keep the limits: they are in force while the next sample is measured."""
        self._limits = {one.target: one.limit for one in decision.targets}
        self._limits |= {key: one.limit for key, one in decision.state.in_force.items() if not one.unsettled}

    def add_sample(self, sample: Sample) -> None:
        """Add the next sample; one that does not end after the last one is left out."""
        if sample.end <= self.last:
            return
        self.samples += 1
        self.first, self.last = self.first or sample.start, sample.end
        seen = self._observer.observe(sample)
        measures = {one.workload: one for one in sample.critical}
        latency = []
        for one in self.domain.critical if seen.missing is None else ():
            measure = measures[one.key]
            p95, jitter, median = measure.p95 or 0.0, measure.jitter or 0.0, measure.recent_p50
            self.is_recent = self.is_recent and median is not None
            latency.append(Latency(p95 if median is None else median, p95, jitter))
        if not latency:
            self.blind += 1
            return
        pods = {one.target: one.pods for one in sample.targets}
        self.readings.append(
            Reading(
                start=sample.start,
                end=sample.end,
                period=sample.period,
                latency=tuple(latency),
                lost=seen.lost,
                critical=seen.critical_recent,
                sent=seen.recent_by_target,
                pods=tuple(pods.get(one.key) for one in self.domain.targets),
                limits=tuple(self._limits.get(one.key) for one in self.domain.targets),
            )
        )

    def redefine(self, domain: Domain) -> None:
        """Go on with another configuration; readings of other workloads are dropped."""
        if _workloads(domain) != _workloads(self.domain):
            self.readings.clear()
            self.samples = self.blind = self.first = 0
        self.domain = domain
        self._observer = Observer(domain)


def _workloads(domain: Domain) -> list[str]:
    return [one.key for one in domain.critical] + [one.key for one in domain.targets]


class Readings:
    """The readings of every domain whose configuration is known."""

    def __init__(self, domains: tuple[Domain, ...]) -> None:
        """Begin with the domains of a configuration."""
        self.by_name = {one.name: DomainReadings(one) for one in domains}
        self.unknown: set[str] = set()
        """Domains that have samples and no configuration."""
        self.unreadable = 0

    def add(self, line: RecordedMessage) -> None:
        """Add the next message."""
        try:
            message = decode_message(line)
        except InvalidMessage:
            self.unreadable += 1
            return
        if isinstance(message, Definition):
            known = self.by_name.get(message.domain)
            if known is None:
                self.by_name[message.domain] = DomainReadings(message.configuration)
            else:
                known.redefine(message.configuration)
        elif isinstance(message, Sample | Decision):
            readings = self.by_name.get(message.domain)
            if readings is None:
                self.unknown.add(message.domain)
            elif isinstance(message, Sample):
                readings.add_sample(message)
            else:
                readings.add_decision(message)
