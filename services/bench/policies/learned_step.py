"""Measures what a control step costs: processor time of ``learned`` and of the core, and the size of its memory.

The samples are those of the ``shift`` scenario, which exercise forecast, season and knee.  Times are of
this processor: the median over rounds, each over all samples.
"""

import msgspec

from schemas.domain import Domain
from schemas.inherited import Inherited
from schemas.messages import Decision, Sample, State
from services.bench.goals import Goal
from services.bench.speed.control_step import step_through
from services.bench.timing import measure_seconds
from services.control import Controller
from services.control.controller import NOTHING_REPORTED, Reported
from services.control.observation import Observation, Observer
from services.control.policies import make_policy
from services.control.policy import Bounds
from services.plant.scenario import SCENARIOS
from services.plant.simulated.closed_loop import play

_ROUNDS = 21


class _RecordingController(Controller):
    """Keeps the samples that it decides on."""

    def __init__(self, domain: Domain) -> None:
        super().__init__(domain)
        self.samples: list[Sample] = []

    def step(
        self,
        state: State | None,
        sample: Sample,
        fault: str | None = None,
        reported: Reported = NOTHING_REPORTED,
        inherited: Inherited | None = None,
    ) -> Decision:
        self.samples.append(sample)
        return super().step(state, sample, fault, reported, inherited)


def measure_step() -> list[Goal]:
    """Measure, and hold the figures to their goals."""
    scenario = SCENARIOS["shift"]
    domain = scenario.domain("learned")
    controller = _RecordingController(domain)
    decisions = play(scenario, domain, controller).decisions
    observer, most, least = Observer(domain), int(domain.capacity or 0), int(domain.targets[0].min)
    calls: list[tuple[object, Observation, Bounds]] = []
    for before, sample in zip(decisions, controller.samples[1:], strict=False):
        limit = before.targets[0].limit
        bounds = Bounds(
            min=least,
            max=most,
            fail_safe=int(domain.targets[0].fail_safe),
            limit=limit,
            level=limit,
            full=True,
            hungry=limit < most,
        )
        calls.append((before.state.memory, observer.observe(sample), bounds))
    policy = make_policy(domain)

    def proposals() -> None:
        for memory, seen, bounds in calls:
            policy.propose(memory, seen, bounds)

    proportional = scenario.domain("proportional")
    proposal_us = 1e6 * measure_seconds(proposals, _ROUNDS) / len(calls)
    rate = len(controller.samples) / measure_seconds(lambda: step_through(proportional, controller.samples), _ROUNDS)
    size = max(len(msgspec.json.encode(one.state.memory)) for one in decisions) / 1024
    return [
        Goal("learned: time of a proposal", proposal_us, "<= 10 us"),
        Goal("learned: encoded memory", size, "<= 16 KiB"),
        Goal("whole step under proportional", rate, ">= 100,000 a second"),
    ]
