"""A case: a scenario of the simulated plant with everything that makes it hard.

A scenario says what happens on the link.  A case adds what hosts do to latency, what the meters get wrong, and what the
configuration does not say.  ``catalogue.py`` lists them.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from schemas.domain import Domain
from schemas.units import Rate
from services.plant.scenario import Scenario
from services.plant.simulated.closed_loop import Delays
from services.plant.simulated.plant import Parameters
from services.plant.simulated.probes import Noise, Pause
from services.plant.simulated.sampling import ByteCounts
from services.plant.simulated.signal_profiles import PROFILES

HELD_OUT = 1000
"""From this seed on, nothing may be tuned: ``--held-out`` plays these seeds, each at a pace of its own."""
_PACES = (0.83, 1.17, 0.91, 1.31, 0.77)
"""Of the held-out seeds in turn."""


def pace_of(seed: int) -> float:
    """The pace at which a seed is played: held-out seeds have unusual ones."""
    return _PACES[seed % len(_PACES)] if seed >= HELD_OUT else 1.0


class BenchCase(Struct, frozen=True, kw_only=True):
    """A scenario, the plant that plays it, and what is known of it."""

    name: str
    text: str
    scenario: Callable[[Random], Scenario]
    """Makes the scenario; what is random in it comes from the seed."""
    outliers: float = 0.0
    """Share of the round trips that take 10 ms longer on average, whatever the queue is."""
    pauses: Callable[[Random, float], list[Pause]] | None = None
    """When hosts answer late, for that many seconds of the scenario."""
    signals: str | None = None
    """The profile of signals, where it is not the caller's choice."""
    meters: dict[str, Any] = {}
    """Traits of the signals that differ from the profile's."""
    maximum: float | None = None
    """If set, the capacity is not configured, and greedy targets have this multiple of it as their maximum."""
    without: str = ""
    """The same case without what best effort does not cause; empty: best effort causes the violations."""
    shipped: bool = False
    """Whether it is one of the eight scenarios that the published figures rest on."""
    trace: bool = False
    """Whether it is a trace that others recorded."""

    @property
    def seeds(self) -> int:
        """How many seeds play it, unless set otherwise."""
        if self.trace:
            return 1
        return 5 if self.shipped else 3

    def prepare(self, seed: int, pace: float = 1.0) -> "Prepared":
        """The case as one seed has it, ``pace`` times as fast."""
        draw = Random(f"{self.name} {seed}")  # noqa: S311 - courses, not secrets
        scenario = self.scenario(draw)
        pauses: list[Pause] = [] if self.pauses is None else self.pauses(draw, scenario.seconds)
        pace *= pace_of(seed)
        if pace != 1:
            scenario = scenario.stretch_to(scenario.seconds / pace)
            # What hosts do is as long as ever, at other times.
            pauses = [replace(one, start=one.start / pace) for one in pauses]
        noise = Noise(outlier_share=self.outliers, pauses=tuple(pauses))
        return Prepared(self, scenario.shift(seed), Parameters(noise=noise))


class Prepared(Struct, frozen=True):
    """One run's scenario and plant."""

    case: BenchCase
    scenario: Scenario
    parameters: Parameters

    def domain(self, policy: str = "learned", parameters: dict[str, Any] | None = None) -> Domain:
        """The configuration, as far as the case's user knows it."""
        domain = self.scenario.domain(policy, parameters)
        maximum = self.case.maximum
        if maximum is None:
            return domain
        most = self.scenario.apps.capacity
        targets = tuple(
            replace(target, max=Rate(round(most * maximum))) if target.max == most else target
            for target in domain.targets
        )
        return replace(domain, targets=targets, capacity=None)

    def delays(self, signals: str) -> Delays:
        """The delays of the loop, by the case's own signals or by this profile."""
        return replace(Delays.of(PROFILES[self.case.signals or signals]), **self.case.meters)

    def exact_delays(self, signals: str) -> Delays:
        """The same delays without errors of measurement, and with throughput measured."""
        own = PROFILES[self.case.signals or signals]
        delays = Delays.of(own if own.throughput is not None else replace(own, throughput=ByteCounts()))
        return replace(delays, gaps=self.case.meters.get("gaps", own.gaps))
