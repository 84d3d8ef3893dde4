"""Scores a run: violations and goodput, from the plant's ground truth and never from the controller's signal.

A second is *bad* when a critical workload's jitter or P95 is above its SLO, when it lost something, or
when none of its probes came back.  Goodput is compared with the scenario's oracle over the same seconds.
A *reaction* runs from the true crossing of the SLO to a safe limit in force; the runner of the scenario
reports the plant's events to a ``ReactionTimer`` in order.  Demo, factory and benches use this module.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from statistics import quantiles

from msgspec import Struct

from schemas.domain import Domain
from services.plant.interface import Second
from services.plant.scenario import Event, Scenario
from services.plant.workloads import Apps

_NS = 10**9
AFTERMATH = 5.0
"""Bad seconds within this many seconds after an unpredicted event are attributed to it."""


class Reaction(Struct, frozen=True):
    """One crossing of the SLO that needed a change of the limits; UTC ns."""

    crossed: int
    sampled: int
    """End of the window on which the decision that made the limits safe was taken."""
    decided: int
    """When that decision was taken."""
    in_force: int


class ReactionTimer:
    """Tracks whether the limits are safe, and since when they have not been."""

    def __init__(self, apps: Apps) -> None:
        """Begin with these apps."""
        self.reactions: list[Reaction] = []
        self._apps = apps
        self._crossed: int | None = None

    def is_safe(self, limits: Iterable[int | None]) -> bool:
        """Whether limits (kbit/s a pod) keep the queue empty, whatever the targets send."""
        most = self._apps.capacity
        return sum(most if limit is None else limit for limit in limits) <= self._apps.safe_budget()

    def on_event(self, event: Event, limits: Iterable[int | None]) -> None:
        """Record a change of load or capacity; if the limits are safe after it, no reaction is due any more."""
        self._apps = self._apps.with_loads(event.loads, event.capacity)
        if self.is_safe(limits):
            self._crossed = None

    def on_crossings(self, times: Sequence[int], limits: Iterable[int | None]) -> None:
        """Record when the latency rose above the SLO; bursts under safe limits need no reaction."""
        if times and self._crossed is None and not self.is_safe(limits):
            self._crossed = times[0]

    def on_limit(self, at: int, sampled: int, decided: int, limits: Iterable[int | None]) -> None:
        """Record a limit in force since ``at``, decided at ``decided`` on a window that ended at ``sampled``."""
        if self._crossed is not None and self.is_safe(limits):
            self.reactions.append(Reaction(self._crossed, sampled, decided, at))
            self._crossed = None


class ControlEffort(Struct, frozen=True):
    """What the control did."""

    patches: int = 0
    """Changes of a pod's limit."""
    restarts: int = 0
    """Pods that were restarted."""
    reactions: tuple[Reaction, ...] = ()


class Spread(Struct, frozen=True):
    """Of durations, seconds."""

    p50: float
    p95: float
    max: float


class Score(Struct, frozen=True):
    """The result of one run, or of a part of it."""

    seconds: int
    """Whole seconds that were judged."""
    invalid_windows: int
    """Seconds left out because the machine itself was disturbed."""
    violation_seconds: int
    """Bad seconds, all together."""
    steps: int
    """Unpredicted events."""
    step_violation_seconds: int
    """Bad seconds right after unpredicted events; the others are the policy's own."""
    goodput: int
    """What arrived of all targets, kbit/s of payload, mean."""
    oracle: int
    """What the best safe limit of each phase would have delivered over the same seconds, kbit/s."""
    critical_throughput: dict[str, float]
    """By workload: what arrived, as a share of what it wanted to send."""
    patches: int
    """See ``ControlEffort``, as for restarts."""
    restarts: int
    reaction: Spread | None = None
    """From the true crossing to a safe limit in force."""
    sense: Spread | None = None
    """Its first part: from the crossing to the end of the window that showed it."""
    decide: Spread | None = None
    """Its second part: until the decision."""
    act: Spread | None = None
    """Its last part: until the limit was in force."""

    @property
    def violation(self) -> float:
        """Share of the judged seconds that were bad."""
        return self.violation_seconds / self.seconds if self.seconds else 0.0

    @property
    def share(self) -> float:
        """Goodput as a share of the oracle's."""
        return self.goodput / self.oracle if self.oracle else 0.0


def is_bad(second: Second, domain: Domain) -> bool:
    """Whether an SLO was broken in that second."""
    for critical in domain.critical:
        truth = second.critical[critical.key]
        if truth.jitter is None or truth.p95 is None or truth.lost > 0:
            return True
        if truth.jitter * _NS > critical.jitter or truth.p95 * _NS > critical.p95:
            return True
    return False


def score(
    seconds: Iterable[Second],
    domain: Domain,
    scenario: Scenario,
    started: int,
    since: float = 0.0,
    effort: ControlEffort = ControlEffort(),  # noqa: B008 - frozen
) -> Score:
    """Judge the seconds that lie wholly between ``since`` and the scenario's end.

    Args:
        seconds: the plant's.
        domain: has the SLOs.
        scenario: what was played.
        started: when it began, UTC ns.
        since: seconds after the start; what lies before is not judged.
        effort: counted by the caller over the same time.
    """
    phases = scenario.phases()
    starts = [phase.start for phase in phases]
    surprises = [event.at for event in scenario.events if event.unpredicted and event.at >= since]
    judged, invalid, bad, excused = [], 0, 0, 0
    best = 0.0
    for second in seconds:
        at = (second.start - started) / _NS
        if at < since or at + 1 > scenario.seconds + 1e-6:
            continue
        if second.invalid is not None:
            invalid += 1
            continue
        judged.append(second)
        # Phases are many where a load follows a curve: look at those that touch this second only.
        near = phases[max(bisect_right(starts, at) - 1, 0) : bisect_right(starts, at + 1)]
        best += sum(phase.goodput * max(min(phase.end, at + 1) - max(phase.start, at), 0.0) for phase in near)
        if is_bad(second, domain):
            bad += 1
            excused += any(step - 1 < at < step + AFTERMATH for step in surprises)
    count = len(judged)
    delivered = {}
    for workload in judged[0].critical if judged else ():
        load = sum(second.critical[workload].load for second in judged)
        got = sum(second.critical[workload].throughput for second in judged)
        delivered[workload] = got / load if load else 1.0
    return Score(
        seconds=count,
        invalid_windows=invalid,
        violation_seconds=bad,
        steps=len(surprises),
        step_violation_seconds=excused,
        goodput=round(sum(sum(second.goodput.values()) for second in judged) / count) if count else 0,
        oracle=round(best / count) if count else 0,
        critical_throughput=delivered,
        patches=effort.patches,
        restarts=effort.restarts,
        reaction=spread([(one.in_force - one.crossed) / _NS for one in effort.reactions]),
        sense=spread([(one.sampled - one.crossed) / _NS for one in effort.reactions]),
        decide=spread([(one.decided - one.sampled) / _NS for one in effort.reactions]),
        act=spread([(one.in_force - one.decided) / _NS for one in effort.reactions]),
    )


def spread(durations: Sequence[float]) -> Spread | None:
    """Median, 95th percentile and maximum; None if there are no durations."""
    if not durations:
        return None
    if len(durations) == 1:
        return Spread(durations[0], durations[0], durations[0])
    cuts = quantiles(durations, n=20, method="inclusive")
    return Spread(cuts[9], cuts[18], max(durations))
