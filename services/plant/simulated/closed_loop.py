"""The whole loop in one process and simulated time: hours of a scenario in minutes.

    model -> counters -> (scrape) -> sample -> (lag) -> control.step -> (actuation) -> model

It calls the same step function as the live service, on samples that are built as the sampler builds
them (``sampling.py``).  Every delay of the real loop is a parameter: how often counters are read, how long a window
is, how late a sample is, and how long a decision takes to be in force.
"""

import heapq
from itertools import count
from random import Random
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from schemas.domain import Domain
from schemas.messages import Decision, Sample, State
from services.control import Controller
from services.plant.interface import Second
from services.plant.scenario import Enforcement, Event, Scenario
from services.plant.score import ControlEffort, Reaction, ReactionTimer, Score, score
from services.plant.simulated.plant import Parameters, SimulatedPlant
from services.plant.simulated.sampling import SampleBuilder, SignalTraits

_NS = 10**9
START = 1_800_000_000 * _NS
"""Any whole UTC second."""


class Delays(SignalTraits, frozen=True):
    """The delays of the loop: those of its measurements and those of its limits, seconds."""

    actuation: float = 0.05
    """From the decision to the limit in force, at least."""
    actuation_jitter: float = 0.05
    """Largest random addition to it."""

    @classmethod
    def of(cls, traits: SignalTraits) -> "Delays":
        """Measure with these traits."""
        return cls(**{name: getattr(traits, name) for name in SignalTraits.__struct_fields__})


class Run(Struct, frozen=True):
    """The state of one run."""

    scenario: Scenario
    domain: Domain
    started: int
    """UTC ns."""
    seconds: list[Second]
    samples: list[Sample]
    """As the controller got them."""
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
    if delays.probe_hz is not None:
        scenario = replace(scenario, apps=scenario.apps.with_probes(delays.probe_hz))
    model = SimulatedPlant.for_apps(scenario.apps, parameters, seed, START)
    loop = ClosedLoop(scenario, domain, controller, delays, model, seed)
    if limits is None:
        limits = {} if controller is None else {one.key: int(one.fail_safe) for one in domain.targets}
    loop.start(limits)
    loop.run()
    return Run(scenario, domain, START, loop.seconds, loop.samples, loop.decisions, loop.patches, loop.reactions())


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
        self._enforcement: Enforcement = "on"
        self._samples = SampleBuilder(domain, delays, model.pods, seed)
        self._agenda: list[tuple[int, int, Any]] = []
        self._order = count()
        self._desired: dict[str, int] = {}
        self.seconds: list[Second] = []
        self.samples: list[Sample] = []
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
            self._at(START + round(event.at * _NS), self._apply_event, event)
        if self._controller is not None:
            counts = self._delays.throughput
            for sender in self._model.read_counters().sent if counts is not None and counts.every[1] else ():
                self._count(sender)
            self._at(START, self._read)
            self._at(START + round(self._delays.period * _NS), self._sample)

    def run(self) -> None:
        """Run to the scenario's end."""
        while self.run_to_sample() is not None:
            self.decide()

    def run_to_sample(self) -> Sample | None:
        """Run until a sample waits for its decision; None at the scenario's end.  ``decide`` comes next."""
        end = START + round(self._scenario.seconds * _NS)
        while self._agenda and self._agenda[0][0] <= end:
            _, _, (action, arguments) = self._agenda[0]
            if action == self._decide:
                sample: Sample = arguments[0]
                return sample
            self._run_next()
        self._advance(end)
        return None

    def decide(self) -> None:
        """Decide on the sample that waits."""
        self._run_next()

    def _run_next(self) -> None:
        at, _, (action, arguments) = heapq.heappop(self._agenda)
        self._advance(at)
        action(*arguments)

    @property
    def state(self) -> State | None:
        """The last decision's state; None before any."""
        return self._state

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
        if event.enforcement is not None:
            self._enforcement = event.enforcement
            for pod, kbit in self._desired.items() if event.enforcement != "stuck" else ():
                self._model.set_limit(pod, kbit if event.enforcement == "on" else None)
        self._watch.on_event(event, self._model.limits.values())

    def _count(self, sender: str) -> None:
        """Renew the count of one sender's bytes, now and again and again."""
        now = self._model.now
        self._samples.count(sender, now, self._model.read_counters())
        self._at(now + round(self._samples.next_count_s() * _NS), self._count, sender)

    def _read(self) -> None:
        now = self._model.now
        self._samples.read(now, self._model.read_counters())
        if self._delays.scrape is not None:
            self._at(now + round(self._delays.scrape * _NS), self._read)

    def _sample(self) -> None:
        if self._delays.scrape is None:
            self._read()
        now = self._model.now
        self._at(now + round(self._delays.lag * _NS), self._decide, self._samples.build(now, self._blind))
        self._at(now + round(self._delays.period * _NS), self._sample)

    def _decide(self, sample: Sample) -> None:
        assert self._controller is not None
        decision = self._controller.step(self._state, sample)
        self._state = decision.state
        self.samples.append(sample)
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
        if self._enforcement == "on":
            self._model.set_limit(pod, kbit)
        self.patches.append(self._model.now)
        self._watch.on_limit(self._model.now, *decision, self._model.limits.values())
