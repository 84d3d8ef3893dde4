"""Outages of a simulated plant whose limits are set by the real decision core and actuator, in virtual time.

plant -> sample -> decision core -> bus -> reconciler -> API server -> plant
                        ^------- reports --------'
"""

import asyncio

from msgspec import Struct
from msgspec.structs import replace

from schemas.domain import Critical
from schemas.messages import Sample
from services.control import Controller
from services.plant.interface import CriticalSecond
from services.plant.scenario import SCENARIOS, Scenario
from services.plant.simulated.closed_loop import ClosedLoop, Delays
from services.plant.simulated.plant import SimulatedPlant
from tests.closed_loop.virtual import START, Actuator, Bus, Cluster, Decider, S, settle

_TICK = S // 20
"""How often an actuator looks."""
OUTAGES = {"API away": 40.0, "bus away": 12.0, "actuator stopped": 30.0}
"""And for how many seconds."""


AT = {"proportional": 60.0, "aimd": 60.0, "learned": 25.0}
"""When the outage begins under each policy, seconds: it is raising the limit then."""


class Outcome(Struct, frozen=True):
    """One run."""

    bad: list[float]
    """Seconds of the run in which an SLO was broken."""
    worst: dict[int, float]
    """By second of the run, the worst ratio of a latency to its SLO."""
    steps: list[tuple[float, int]]
    """Every rise of what is in force: when, and by how much, kbit/s."""
    limits: list[tuple[float, int]]
    """What is in force, over time, kbit/s."""
    loop: "OutageLoop"

    def since(self, at: float) -> tuple[int, float, int]:
        """From a second of the run on: bad seconds, the worst ratio, and the largest rise at once, kbit/s."""
        bad = [one for one in self.bad if one >= at]
        worst = max(ratio for second, ratio in self.worst.items() if second >= at)
        return len(bad), worst, max((rise for when, rise in self.steps if when >= at), default=0)


class OutageLoop(ClosedLoop):
    """The loop with a real actuator, and one outage."""

    def __init__(
        self, scenario: Scenario, policy: str, outage: str | None, at: float, *, closed: bool, seed: int
    ) -> None:
        """``closed``: whether what is in force comes back into the decisions and bounds the actuator's rises."""
        domain = scenario.domain(policy)
        plant = SimulatedPlant.for_apps(scenario.apps, None, seed, START)
        super().__init__(scenario, domain, Controller(domain), Delays(), plant, seed)
        self.domain = domain
        self._closed, self._outage, self._outage_at = closed, outage, at
        self._runner = asyncio.new_event_loop()
        self._queued: list[Sample] = []
        self.limits: list[tuple[float, int]] = []

    async def _prepare(self) -> None:
        pods = [pod.name for pod in self._model.pods]
        fail_safe = int(self.domain.targets[0].fail_safe)
        self.cluster = Cluster(f"{fail_safe // len(pods)}k", len(pods))
        self.bus = Bus(self.domain)
        self.bus.now = lambda: self._model.now
        self.decider = Decider(self.domain, self.bus, closed=self._closed)
        self.actuator = Actuator("a", self.domain, self.cluster, self.bus)
        self.cluster.on_patch = self._enforce_all
        self.actuator.start()
        if not self._closed:
            self.actuator.reconciler._rise._rise = 10**9
        await settle()

    def run(self) -> None:
        """Run to the scenario's end."""
        self._runner.run_until_complete(self._prepare())
        self._at(START, self._tick)
        if self._outage is not None:
            self._at(START + round(self._outage_at * S), self._switch, False)
            self._at(START + round((self._outage_at + OUTAGES[self._outage]) * S), self._switch, True)
        super().run()
        self.actuator.kill()
        self._runner.run_until_complete(settle())
        self._runner.close()

    def _switch(self, is_well: bool) -> None:
        if self._outage == "API away":
            self.actuator.set_api(is_well)
        elif self._outage == "bus away":
            self.bus.is_up = is_well
        else:
            self.actuator.set_stopped(not is_well)

    def _tick(self) -> None:
        now = self._model.now
        self._runner.run_until_complete(self.actuator.run_until(now))
        self._at(now + _TICK, self._tick)

    def _enforce_all(self) -> None:
        for one, pod in zip(self._model.pods, self.cluster.pods, strict=True):
            self._model.set_limit(one.name, pod.limit)
        self.limits.append(((self._model.now - START) / S, self.cluster.in_force or 0))

    def _decide(self, sample: Sample) -> None:
        # The sampler keeps what it cannot publish, and the decision service answers all of it.
        self._queued.append(sample)
        while self._queued and self.bus.is_up:
            self.decider.answer(self._queued.pop(0), self._model.now)


def run_outage(
    policy: str, outage: str | None, *, closed: bool = True, seed: int = 1, seconds: float = 120.0
) -> Outcome:
    """Run the steady scenario under a policy, with an outage."""
    scenario = replace(SCENARIOS["steady"], seconds=seconds)
    loop = OutageLoop(scenario, policy, outage, AT[policy], closed=closed, seed=seed)
    loop.start({one.key: int(one.fail_safe) for one in loop.domain.targets})
    loop.run()
    bad, worst = [], {}
    slos = {one.key: one for one in loop.domain.critical}
    for second in loop.seconds:
        at_s = (second.start - START) / S
        ratio = max(_ratio(seen, slos[key]) for key, seen in second.critical.items() if key in slos)
        worst[round(at_s)] = ratio
        if ratio > 1:
            bad.append(at_s)
    steps = [(t, new - old) for (_, old), (t, new) in zip(loop.limits, loop.limits[1:], strict=False) if new > old]
    return Outcome(bad, worst, steps, loop.limits, loop)


def _ratio(seen: CriticalSecond, slo: Critical) -> float:
    lost = float("inf") if seen.lost > 0 else 0.0
    if seen.p95 is None or seen.jitter is None:
        return float("inf")
    return max(seen.p95 / slo.p95.seconds, seen.jitter / slo.jitter.seconds, lost)
