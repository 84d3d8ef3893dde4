"""A Gymnasium environment over the simulated plant: an agent proposes, and the shield has the last word.

    reset -> observation;  step(action) -> the next sample's observation, and the reward for what happened between

An agent acts where a policy acts: on each sample with data, through the same controller and shield, with every delay of
the real loop.  ``features.py`` of the policy ``neural`` says what the observation holds and what an action means.
This module needs the extra ``gym``.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from schemas.domain import Domain
from schemas.messages import State
from services.control import Controller
from services.control.observation import Observation
from services.control.policies.neural.features import FEATURES, MOST, LinkMemory, extract, find_budget
from services.control.policies.parameters import nameplate
from services.control.policy import Bounds, Proposal
from services.plant.scenario import SCENARIOS, Scenario
from services.plant.score import is_bad
from services.plant.simulated.closed_loop import START, ClosedLoop, Delays
from services.plant.simulated.plant import Parameters, SimulatedPlant
from services.plant.simulated.signal_profiles import PROFILES, SHIPPED
from services.plant.traces import read_traces

ID = "sluice/Link-v0"
"""The environment's name, once this module is imported."""
BAD = 10.0
"""What a second with a broken SLO costs; a second of the oracle's goodput earns 1."""

Vector = NDArray[np.float32]


class Episode(Struct, frozen=True):
    """What one episode plays."""

    scenario: Scenario
    domain: Domain
    delays: Delays
    parameters: Parameters | None = None


EpisodeSource = Callable[[Random], Episode]
"""Draws an episode."""


class _Agent:
    """Stands in the policy's place: keeps what it is asked, and answers with the agent's action."""

    version = "agent/1"
    memory_type = LinkMemory

    def __init__(self, plate: int) -> None:
        self.action = 0.0
        self.inputs: tuple[float, ...] = (0.0,) * len(FEATURES)
        self.is_asked = False
        self.question: tuple[LinkMemory, Observation, Bounds] | None = None
        self._plate = plate

    def propose(self, memory: LinkMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Answer with the last action."""
        self.is_asked = True
        self.inputs, after = extract(memory, seen, bounds, self._plate)
        self.question = after, seen, bounds
        return Proposal(find_budget(after, self.action), "an agent's action", after)


class LinkEnvironment(gymnasium.Env[Vector, Vector]):
    """One domain's control as an environment.

    Observation: 13 numbers within +-2; ``FEATURES`` names them.  Action: one number within [-1, 1]; 0 asks for a total
    load at the knee, 1 for 10 % more, -1 for 50 % less.  Reward: for each second that ended since the last step, the
    goodput as a share of the oracle's, minus ``bad`` where an SLO was broken; from the plant's ground truth, which is
    complete up to a second late.  An episode ends (truncated) with its scenario; nothing ends it earlier.

    ``info`` has the seconds that were judged, the bad ones among them, and the goodput (kbit/s of payload).
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - as the base class has it

    def __init__(
        self,
        scenarios: Sequence[str] = ("steady", "step", "shift", "capacity", "flapping"),
        *,
        traces: Path | str | None = None,
        draw: EpisodeSource | None = None,
        signals: str = SHIPPED,
        seconds: float | None = None,
        bad: float = BAD,
    ) -> None:
        """Prepare.

        Args:
            scenarios: names of shipped scenarios; each episode draws one.
            traces: play the recorded links and loads in this folder instead.
            draw: draws episodes in place of both.
            signals: profile of the measurements.
            seconds: play each scenario in so many seconds instead of its own length.
            bad: what a second with a broken SLO costs.

        Raises:
            ValueError: there is no such scenario or profile, or no trace in the folder.
        """
        unknown = [name for name in scenarios if name not in SCENARIOS]
        if unknown or not scenarios:
            raise ValueError(f"no scenario {', '.join(unknown) or 'at all'}; there are {', '.join(SCENARIOS)}")
        if signals not in PROFILES:
            raise ValueError(f"no signals {signals!r}; there are {', '.join(PROFILES)}")
        recorded = [] if traces is None else read_traces(Path(traces))
        delays = Delays.of(PROFILES[signals])

        def play(random: Random) -> Episode:
            scenario = random.choice(recorded).scenario(random) if recorded else SCENARIOS[random.choice(scenarios)]
            scenario = scenario.shift(random.randrange(2**31))
            return Episode(scenario, scenario.domain(), delays)

        self.observation_space = spaces.Box(-MOST, MOST, (len(FEATURES),), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._draw = draw or play
        self._seconds = seconds
        self._bad = bad

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Vector, dict[str, Any]]:
        """Begin an episode, at its first sample with data."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31))
        episode = self._draw(Random(number))  # noqa: S311 - a course of events
        scenario = episode.scenario if self._seconds is None else episode.scenario.stretch_to(self._seconds)
        if episode.delays.probe_hz is not None:
            scenario = replace(scenario, apps=scenario.apps.with_probes(episode.delays.probe_hz))
        self._domain, self._phases = episode.domain, scenario.phases()
        self._ends = [phase.end for phase in self._phases]
        self._agent = _Agent(nameplate(episode.domain))
        model = SimulatedPlant.for_apps(scenario.apps, episode.parameters, number, START)
        controller = Controller(episode.domain, self._agent)
        self._loop = ClosedLoop(scenario, episode.domain, controller, episode.delays, model, number)
        self._loop.start({one.key: int(one.fail_safe) for one in episode.domain.targets})
        self._controller = controller
        self._judged = 0
        self._run_to_sample()
        return self._observe(), {}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Answer the sample, and play to the next one with data, or to the end."""
        self._agent.action = float(np.clip(np.asarray(action, dtype=np.float64).reshape(-1)[0], -1.0, 1.0))
        self._loop.decide()
        is_going_on = self._run_to_sample()
        seconds = self._loop.seconds[self._judged :]
        self._judged = len(self._loop.seconds)
        bad = sum(is_bad(one, self._domain) for one in seconds)
        reward = -self._bad * bad
        for second in seconds:
            # The goodput as a share of what the best safe limit would have delivered.
            number = min(bisect_right(self._ends, (second.start - START) / 1e9), len(self._phases) - 1)
            best = self._phases[number].goodput
            reward += min(sum(second.goodput.values()) / best, 2.0) if best else 1.0
        goodput = sum(sum(one.goodput.values()) for one in seconds)
        info = {"seconds": len(seconds), "bad": bad, "goodput": goodput / len(seconds) if seconds else 0.0}
        return self._observe(), float(reward), False, not is_going_on, info

    @property
    def question(self) -> tuple[LinkMemory, Observation, Bounds]:
        """What a policy in the agent's place would be asked now, with the memory after this sample."""
        assert self._agent.question is not None
        return self._agent.question

    @property
    def domain(self) -> Domain:
        """The configuration of this episode."""
        return self._domain

    def _run_to_sample(self) -> bool:
        """Play until a sample with data waits for its decision; False at the end of the scenario."""
        while (sample := self._loop.run_to_sample()) is not None:
            self._agent.is_asked = False
            state: State | None = self._loop.state
            # A step is a pure function: asking it twice changes nothing.
            self._controller.step(state, sample)
            if self._agent.is_asked:
                return True
            self._loop.decide()
        return False

    def _observe(self) -> Vector:
        return np.array(self._agent.inputs, dtype=np.float32)


if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point="services.plant.environment:LinkEnvironment")
