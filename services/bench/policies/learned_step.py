"""What a step costs: processor time of ``learned`` and of the whole core, and what ``learned`` remembers.

On the samples of the shifting factory, which keep forecast, season and knee busy.  Times are of this
processor; a round over all samples is timed as a whole, and the median of the rounds is told.
"""

from collections.abc import Callable

import msgspec

from schemas.domain import Domain
from schemas.messages import Decision, Sample, State
from services.bench.policies.simulated_goals import Goal
from services.bench.timing import seconds
from services.control import Controller
from services.control.observation import Observation, Observer
from services.control.policies import make_policy
from services.control.policy import Bounds
from services.plant.scenario import SCENARIOS
from services.plant.simulated.closed_loop import play

_ROUNDS = 21


class _Listening(Controller):
    """Keeps the samples that it is asked about."""

    def __init__(self, domain: Domain) -> None:
        super().__init__(domain)
        self.heard: list[Sample] = []

    def step(self, state: State | None, sample: Sample, fault: str | None = None) -> Decision:
        self.heard.append(sample)
        return super().step(state, sample, fault)


def measured() -> list[Goal]:
    """The goals of speed and size."""
    scenario = SCENARIOS["shift"]
    domain = scenario.domain("learned")
    controller = _Listening(domain)
    decisions = play(scenario, domain, controller).decisions
    observer, most, least = Observer(domain), int(domain.capacity or 0), int(domain.targets[0].min)
    calls: list[tuple[object, Observation, Bounds]] = []
    for before, sample in zip(decisions, controller.heard[1:], strict=False):
        limit = before.targets[0].limit
        bounds = Bounds(least, most, int(domain.targets[0].fail_safe), limit, limit, full=True, hungry=limit < most)
        calls.append((before.state.memory, observer.observe(sample), bounds))
    policy = make_policy(domain)

    def proposals() -> None:
        for memory, seen, bounds in calls:
            policy.propose(memory, seen, bounds)

    asked = 1e6 * seconds(proposals, _ROUNDS) / len(calls)
    rate = len(controller.heard) / seconds(_steps(scenario.domain("proportional"), controller.heard), _ROUNDS)
    size = max(len(msgspec.json.encode(one.state.memory)) for one in decisions) / 1024
    return [
        Goal("learned: time of a proposal", "<= 10 us", f"{asked:.1f} us", asked <= 10),
        Goal("learned: memory, as it travels", "<= 16 KiB", f"{size:.1f} KiB", size <= 16),
        Goal("whole step under proportional", ">= 100,000 a second", f"{rate:,.0f} a second", rate >= 100_000),
    ]


def _steps(domain: Domain, samples: list[Sample]) -> Callable[[], None]:
    controller = Controller(domain)

    def steps() -> None:
        state = None
        for sample in samples:
            state = controller.step(state, sample).state

    return steps
