"""The simulated plant in real time: before each call the model catches up with the clock.

Scrapes, the agent, the scenario and the view call from threads of their own.  Each call is brief, since
the model runs some hundred times faster than real time.
"""

import threading
import time
from collections.abc import Mapping, Sequence

from services.plant.interface import Counters, Pod, Second
from services.plant.simulated.plant import SimulatedPlant


class RealtimePlant:
    """A ``SimulatedPlant`` that lives now.  Implements ``Plant``."""

    def __init__(self, model: SimulatedPlant) -> None:
        """Let a model that has just been made, with ``start`` as of now, go on with the clock."""
        self._model = model
        self._lock = threading.Lock()
        # Elapsed time is taken from the monotonic clock, which cannot be set.
        self._offset = model.now - time.monotonic_ns()

    def _catch_up(self) -> SimulatedPlant:
        behind = self.now() - self._model.now
        if behind > 0:
            self._model.advance(behind)
        return self._model

    def now(self) -> int:
        """The plant's clock, UTC ns."""
        return time.monotonic_ns() + self._offset

    @property
    def pods(self) -> Sequence[Pod]:
        """The best-effort pods there are."""
        return self._model.pods

    @property
    def limits(self) -> Mapping[str, int | None]:
        """In force now, by pod name."""
        with self._lock:
            return self._model.limits

    def set_limit(self, pod: str, kbit: int | None) -> None:
        """See ``LimitControl``."""
        with self._lock:
            self._catch_up().set_limit(pod, kbit)

    def set_load(self, workload: str, kbit: int | None) -> None:
        """See ``LoadControl``."""
        with self._lock:
            self._catch_up().set_load(workload, kbit)

    def set_capacity(self, kbit: int) -> None:
        """See ``LoadControl``."""
        with self._lock:
            self._catch_up().set_capacity(kbit)

    def read_counters(self) -> Counters:
        """See ``CounterSource``."""
        with self._lock:
            return self._catch_up().read_counters()

    def take_seconds(self) -> Sequence[Second]:
        """See ``TruthSource``."""
        with self._lock:
            return self._catch_up().take_seconds()

    def take_crossings(self) -> Sequence[int]:
        """When, since the last call, the queue's delay rose above the SLO; UTC ns."""
        with self._lock:
            return self._catch_up().take_crossings()
