"""Clocks that leap by an hour and services that stop for 30 s, on virtual time: sample, decision and order together."""

from collections.abc import Callable
from itertools import product

import pytest
from msgspec import Struct

from schemas.domain import Critical, Domain, Target
from schemas.messages import CriticalMeasure, Sample, State
from schemas.units import Duration, Rate
from services.actuator.desired_limit import DesiredLimit, Instant
from services.control import Controller, RejectedSample
from tests.support.attack_tally import Attacks, resize

S = 10**9
PERIOD_S = 0.5
DEAD_MAN_S = 5.0
BEGIN = 1_790_000_000 * S
HOUR_S = 3600.0
SERVICES = ("sampler", "bus", "decision", "actuator")
TARGET = Target(deployment="upload", min=Rate(5_000), max=Rate(80_000), fail_safe=Rate(10_000))
DOMAIN = Domain("line", (Critical("robot"),), (TARGET,), "static", dead_man=Duration(int(DEAD_MAN_S * S)))
FROM_S = 20.0
"""When the clock leaps, or the service stops."""


class Times(Struct):
    """When what held, in seconds of true time."""

    unsafe_s: float = 0.0
    """The longest time in which an expired decision was in force."""
    back_s: float | None = None
    """When a decision was in force again after the disturbance had ended."""
    outside: int = 0


class Chain:
    """One target's chain from the sample to the order."""

    def __init__(self, offset_s: Callable[[str, float], float], runs: Callable[[str, float], bool]) -> None:
        """``offset_s`` tells how wrong a service's clock is, and ``runs`` whether it runs, at a time."""
        self._offset_s, self._runs = offset_s, runs
        self._controller = Controller(DOMAIN)
        self._state: State | None = None
        self._samples: list[tuple[Sample, int]] = []
        self._last_end = 0
        self._desired = DesiredLimit(TARGET, DOMAIN.dead_man, 2.0)
        self._desired.bus_answered = True
        self._limit: int | None = None

    def _clock(self, service: str, at: float) -> int:
        return BEGIN + int((at + self._offset_s(service, at)) * S)

    def run(self, seconds: float, ended_s: float) -> Times:
        """Run for a while; the disturbance is over at ``ended_s``."""
        found, promised_s = Times(), 0.0
        for tick in range(int(seconds * 10)):
            at = tick / 10
            if tick % int(PERIOD_S * 10) == 0 and self._runs("sampler", at):
                self._sample(at)
            if self._runs("actuator", at):
                if self._runs("decision", at):
                    promised_s = at if self._decide(at) else promised_s
                self._look(at)
                order = self._desired.order
                found.outside += order is not None and not TARGET.min <= order.limit <= TARGET.max
                if order is not None and order.cause == "decision":
                    found.unsafe_s = max(found.unsafe_s, at - promised_s - DEAD_MAN_S)
                    if at >= ended_s and found.back_s is None:
                        found.back_s = at - ended_s
        return found

    def _sample(self, at: float) -> None:
        end = self._clock("sampler", at)
        measure = CriticalMeasure("default/robot", 0.0005, 0.001, 400, 0.0)
        one = Sample("line", end - 2 * S, end, int(PERIOD_S * S), "test", (measure,))
        self._samples.append((one, self._clock("bus", at)))

    def _decide(self, at: float) -> bool:
        """Answer all samples; returns whether a decision came into force."""
        waiting, self._samples, is_held = self._samples, [], False
        for sample, published in waiting:
            try:
                decision = self._controller.answer(self._state, sample, published)
            except RejectedSample:
                continue
            self._state = decision.state
            instant = Instant(self._clock("actuator", at), at)
            is_held |= self._desired.accept(decision, decision.targets[0], published, None, instant) is None
        return is_held

    def _look(self, at: float) -> None:
        instant = Instant(self._clock("actuator", at), at)
        self._desired.expire(self._limit, instant, is_observed=True)
        self._desired.initialize(None, self._limit, instant)
        if self._desired.order is not None:
            self._limit = self._desired.order.limit


@pytest.mark.parametrize("services", [(one,) for one in SERVICES] + [SERVICES, SERVICES[:2], SERVICES[2:]])
def test_clocks_that_leap_by_an_hour(services: tuple[str, ...], attacks: Attacks) -> None:
    """Ahead or back, for two seconds or ten: no expired decision holds, and decisions are soon back.

    A clock that is wrong for good is another matter: then the fail-safe limit holds, and readiness says why.
    """
    tried, broken, worst = 0, 0, 0.0
    phases = [number / 10 for number in range(0, 10, resize(5, 1))]
    for sign, length_s, phase in product((1, -1), (2.0, 10.0), phases):
        ended_s = FROM_S + phase + length_s

        def offset_s(service: str, at: float, wrong: tuple[float, float, float] = (sign, phase, ended_s)) -> float:
            return wrong[0] * HOUR_S if service in services and FROM_S + wrong[1] <= at < wrong[2] else 0.0

        times = Chain(offset_s, lambda _service, _at: True).run(ended_s + 30, ended_s)
        tried += 1
        back_s = times.back_s
        broken += times.unsafe_s > 0 or times.outside > 0 or back_s is None or back_s > 2 * DEAD_MAN_S
        worst = max(worst, back_s or 0.0)
    attacks.add("clocks one hour off", f"{tried} leaps", broken, safe_s=worst)


@pytest.mark.parametrize("service", ["sampler", "decision", "actuator"])
def test_stops_of_thirty_seconds(service: str, attacks: Attacks) -> None:
    """Whoever stops: no expired decision holds while the actuator runs, and decisions are back within a second."""
    tried, broken, worst = 0, 0, 0.0
    for phase in (number / 10 for number in range(0, 10, resize(3, 1))):
        begin_s, ended_s = FROM_S + phase, FROM_S + phase + 30

        def runs(name: str, at: float, gap: tuple[float, float] = (begin_s, ended_s)) -> bool:
            return name != service or not gap[0] <= at < gap[1]

        times = Chain(lambda _service, _at: 0.0, runs).run(ended_s + 20, ended_s)
        tried += 1
        broken += times.unsafe_s > 0 or times.outside > 0 or times.back_s is None or times.back_s > 1
        worst = max(worst, times.back_s or 0.0)
    attacks.add("stops of 30 s", f"{tried} stops", broken, safe_s=worst)
