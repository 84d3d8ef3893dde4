"""The whole loop in one process and simulated time: hours of a scenario in minutes.

    model -> counters -> (scrape) -> sample -> (lag) -> control.step -> (actuation) -> model

It calls the same step function as the live service, on samples that are built as the sampler builds
them.  Every delay of the real loop is a parameter: how often counters are read, how long a window is,
how late a sample is, and how long a decision takes to be in force.
"""

import heapq
from collections import Counter, deque
from itertools import count
from random import Random
from typing import Any

from msgspec import Struct

from schemas.domain import Domain
from schemas.messages import CriticalMeasure, Decision, Sample, State, TargetMeasure
from services.common.histogram import increase, quantile, summarize
from services.control import Controller
from services.plant.interface import BUCKETS, Counters, Second
from services.plant.scenario import Event, Scenario
from services.plant.score import ControlEffort, Reaction, ReactionTimer, Score, score
from services.plant.simulated.plant import Parameters, SimulatedPlant

_NS = 10**9
_START = 1_800_000_000 * _NS
"""Any whole UTC second."""


class Delays(Struct, frozen=True):
    """The delays of the loop, seconds."""

    period: float = 0.5
    """From one sample to the next."""
    window: float = 2.0
    """What a sample averages over."""
    scrape: float | None = None
    """How often counters are read; None: at each sample.  A Prometheus of its own reads out of step."""
    lag: float = 0.03
    """From the end of a window to the decision."""
    actuation: float = 0.05
    """From the decision to the limit in force, at least."""
    actuation_jitter: float = 0.05
    """Largest random addition to it."""


class Run(Struct, frozen=True):
    """The state of one run."""

    scenario: Scenario
    domain: Domain
    started: int
    """UTC ns."""
    seconds: list[Second]
    decisions: list[Decision]
    patches: list[int]
    """When each change of a pod's limit came into force, UTC ns."""
    reactions: list[Reaction]

    def score(self, since: float = 0.0) -> Score:
        """Judge it from ``since`` seconds after its start."""
        edge = self.started + round(since * _NS)
        effort = ControlEffort(
            patches=sum(at >= edge for at in self.patches),
            reactions=tuple(one for one in self.reactions if one.crossed >= edge),
        )
        return score(self.seconds, self.domain, self.scenario, self.started, since, effort)


def play(
    scenario: Scenario,
    domain: Domain,
    controller: Controller | None,
    *,
    delays: Delays = Delays(),  # noqa: B008 - frozen
    seed: int = 0,
    limits: dict[str, int] | None = None,
    parameters: Parameters | None = None,
) -> Run:
    """Play a scenario on the simulated plant.

    Args:
        scenario: what happens.
        domain: SLOs, targets and bounds.
        controller: takes the decisions; None: no control.
        delays: of the loop.
        seed: of plant and actuation.
        limits: in force at the start by target, kbit/s a pod; None: the fail-safe limits with a
            controller, no limits without one.
        parameters: of the model, with the scenario's apps in place of theirs; None: the defaults.
    """
    loop = ClosedLoop(
        scenario, domain, controller, delays, SimulatedPlant.for_apps(scenario.apps, parameters, seed, _START), seed
    )
    if limits is None:
        limits = {} if controller is None else {one.key: int(one.fail_safe) for one in domain.targets}
    loop.start(limits)
    loop.run()
    return Run(scenario, domain, _START, loop.seconds, loop.decisions, loop.patches, loop.reactions())


class ClosedLoop:
    """The loop's agenda: what happens at which time."""

    def __init__(
        self,
        scenario: Scenario,
        domain: Domain,
        controller: Controller | None,
        delays: Delays,
        model: SimulatedPlant,
        seed: int,
    ) -> None:
        """See ``play``."""
        self._scenario = scenario
        self._domain = domain
        self._controller = controller
        self._delays = delays
        self._model = model
        self._random = Random(seed)  # noqa: S311 - delays, not secrets
        self._watch = ReactionTimer(scenario.apps)
        self._state: State | None = None
        self._blind = ""
        self._readings: deque[tuple[int, Counters]] = deque()
        self._agenda: list[tuple[int, int, Any]] = []
        self._order = count()
        self._desired: dict[str, int] = {}
        self.seconds: list[Second] = []
        self.decisions: list[Decision] = []
        self.patches: list[int] = []

    def reactions(self) -> list[Reaction]:
        """How fast the loop has reacted so far."""
        return self._watch.reactions

    # -- time

    def start(self, limits: dict[str, int]) -> None:
        """Put limits in force by target, kbit/s a pod, and fill the agenda."""
        for pod in self._model.pods:
            if pod.target in limits:
                self._model.set_limit(pod.name, limits[pod.target])
                self._desired[pod.name] = limits[pod.target]
        for event in self._scenario.events:
            self._at(_START + round(event.at * _NS), self._apply_event, event)
        if self._controller is not None:
            self._at(_START, self._read)
            self._at(_START + round(self._delays.period * _NS), self._sample)

    def run(self) -> None:
        """Run to the scenario's end."""
        end = _START + round(self._scenario.seconds * _NS)
        while self._agenda and self._agenda[0][0] <= end:
            at, _, (action, arguments) = heapq.heappop(self._agenda)
            self._advance(at)
            action(*arguments)
        self._advance(end)

    def _at(self, when: int, action: Any, *arguments: Any) -> None:
        heapq.heappush(self._agenda, (when, next(self._order), (action, arguments)))

    def _advance(self, until: int) -> None:
        model = self._model
        if until > model.now:
            model.advance(until - model.now)
            self.seconds += model.take_seconds()
            self._watch.on_crossings(model.take_crossings(), model.limits.values())

    # -- actions

    def _apply_event(self, event: Event) -> None:
        for workload, kbit in event.loads.items():
            self._model.set_load(workload, kbit)
        if event.capacity is not None:
            self._model.set_capacity(event.capacity)
        if event.blind is not None:
            self._blind = event.blind
        self._watch.on_event(event, self._model.limits.values())

    def _read(self) -> None:
        now = self._model.now
        self._readings.append((now, self._model.read_counters()))
        oldest = now - round((self._delays.window + 2 * (self._delays.scrape or 0) + 1) * _NS)
        while self._readings[0][0] < oldest:
            self._readings.popleft()
        if self._delays.scrape is not None:
            self._at(now + round(self._delays.scrape * _NS), self._read)

    def _sample(self) -> None:
        if self._delays.scrape is None:
            self._read()
        now = self._model.now
        self._at(now + round(self._delays.lag * _NS), self._decide, self._build_sample(now))
        self._at(now + round(self._delays.period * _NS), self._sample)

    def _build_sample(self, end: int) -> Sample:
        start = end - round(self._delays.window * _NS)
        period = round(self._delays.period * _NS)
        inside = [reading for reading in self._readings if reading[0] >= start]
        why = self._blind or ("" if len(inside) > 1 else f"{len(inside)} readings in the window, 2 needed")
        if why:
            return Sample(self._domain.name, start, end, period, "simulation", no_data=why)
        old, new = inside[0][1], inside[-1][1]
        sent = self._rates(inside[0], inside[-1])
        # Read at each sample, the last two readings lie one period apart.
        fresh = self._delays.scrape is None
        recent = self._rates(*inside[-2:]) if fresh else {}
        critical = []
        for one in self._domain.critical:
            was, now = old.latency[one.key], new.latency[one.key]
            seen = summarize(BUCKETS, increase(was.counts, now.counts))
            last = increase(inside[-2][1].latency[one.key].counts, now.counts)
            critical.append(
                CriticalMeasure(
                    workload=one.key,
                    jitter=seen.jitter,
                    p95=seen.p95,
                    observations=int(seen.observations),
                    lost=now.lost - was.lost,
                    throughput=sent[one.key],
                    recent=recent.get(one.key),
                    recent_p50=quantile(0.5, BUCKETS, last) if fresh else None,
                )
            )
        pods = Counter(pod.target for pod in self._model.pods)
        targets = tuple(
            TargetMeasure(one.key, sent[one.key], recent.get(one.key), pods[one.key]) for one in self._domain.targets
        )
        return Sample(self._domain.name, start, end, period, "simulation", tuple(critical), targets)

    def _rates(self, old: tuple[int, Counters], new: tuple[int, Counters]) -> dict[str, int]:
        """What each workload sent between two readings, kbit/s."""
        pods = {pod.name: pod.target for pod in self._model.pods}
        sent: dict[str, int] = {}
        for name, total in new[1].sent.items():
            key = pods.get(name, name)
            sent[key] = sent.get(key, 0) + total - old[1].sent[name]
        return {key: round(total * 8 * 1_000_000 / (new[0] - old[0])) for key, total in sent.items()}

    def _decide(self, sample: Sample) -> None:
        assert self._controller is not None
        decision = self._controller.step(self._state, sample)
        self._state = decision.state
        self.decisions.append(decision)
        now = self._model.now
        for target, decided in zip(self._domain.targets, decision.targets, strict=True):
            pods = [pod.name for pod in self._model.pods if pod.target == target.key]
            each = decided.limit if target.scope == "per-pod" else max(decided.limit // len(pods), 1)
            for pod in pods:
                if self._desired.get(pod) == each:
                    continue
                self._desired[pod] = each
                delay = self._delays.actuation + self._random.uniform(0, self._delays.actuation_jitter)
                self._at(now + round(delay * _NS), self._enforce, pod, each, (sample.end, now))

    def _enforce(self, pod: str, kbit: int, decision: tuple[int, int]) -> None:
        self._model.set_limit(pod, kbit)
        self.patches.append(self._model.now)
        self._watch.on_limit(self._model.now, *decision, self._model.limits.values())
