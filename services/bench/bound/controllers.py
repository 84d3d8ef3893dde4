"""The two families of controllers that the bound is searched in, as policies of the simulated plant.

Both read the plant's truth, as late as the loop's own samples: their knowledge is free of noise, and their settings
are chosen in hindsight.  Neither sees what has not happened yet.
"""

from msgspec import Struct

from services.bench.bound.fluid import FASTEST
from services.bench.bound.forecast import Forecast
from services.bench.bound.timeline import Array, Knowledge
from services.control.observation import Observation
from services.control.policy import Bounds, NoMemory, Proposal
from services.plant.simulated.closed_loop import START

_QUEUED = 0.25
"""Least median latency of the last period, as a ratio to the SLO, that shows a queue."""
_QUEUED_P95 = 0.9
"""The same of the window's P95, where the last period's medians are not measured."""


class Setting(Struct, frozen=True):
    """A member of one of the families."""

    forecast: Forecast
    margin: float
    """Below the estimate of the capacity, as a share of the nameplate."""
    rise: float = 0.0
    """The prober's, as are the next three: see ``fluid.ProbeGrid``."""
    back: float = 0.0
    wait: float = 0.0
    faster: float = 1.0


class Informed:
    """Knows capacity and critical load, as late as a sample."""

    version = "informed/1"
    memory_type = NoMemory

    def __init__(self, setting: Setting, known: Knowledge, nameplate: float) -> None:
        """Take a setting, and what is known at each sample."""
        self._limits: Array = (
            setting.forecast.capacity(known) - setting.forecast.load(known) - setting.margin * nameplate
        )
        self._period = known.period

    def propose(self, memory: NoMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """What the capacity leaves."""
        sample = min(round((seen.end - START) / 1e9 / self._period), self._limits.size - 1)
        return Proposal(max(int(self._limits[sample]), 0), "informed", memory)


class Prober:
    """Knows the critical load, and the capacity only while a queue shows it."""

    version = "prober/1"
    memory_type = NoMemory

    def __init__(self, setting: Setting, known: Knowledge, nameplate: float) -> None:
        """Take a setting, and what is known at each sample."""
        self._setting, self._known, self._nameplate = setting, known, nameplate
        self._load = setting.forecast.load(known)
        self._estimate, self._calm, self._speed = 0.6 * nameplate, 0.0, 1.0

    def propose(self, memory: NoMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """What the estimate leaves; the estimate is this object's own, since it is never replayed."""
        setting, period = self._setting, seen.period / 1e9
        sample = min(round((seen.end - START) / 1e9 / self._known.period), self._load.size - 1)
        queued = min(seen.medians) > _QUEUED if seen.medians else seen.shared_p95 > _QUEUED_P95
        if queued:
            self._estimate = float(self._known.capacity[sample]) * (1 - setting.back)
            self._calm, self._speed = 0.0, 1.0
        else:
            self._calm += period
            if self._calm > setting.wait:
                self._speed = min(self._speed * setting.faster, FASTEST)
                rise = setting.rise * self._speed * self._nameplate * period
                self._estimate = min(self._estimate + rise, self._nameplate)
        budget = self._estimate - float(self._load[sample]) - setting.margin * self._nameplate
        return Proposal(max(int(budget), 0), "probing", memory)
