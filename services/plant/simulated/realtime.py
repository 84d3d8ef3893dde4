"""The simulated plant in real time: whoever asks, the model first catches up with the clock.

Scrapes, the agent, the scenario and the view ask from their own threads; each call is brief, since the
model runs some hundred times faster than time does.
"""

import threading
import time
from collections.abc import Mapping, Sequence

from services.plant.interface import Counters, Pod, Second
from services.plant.simulated.plant import Model


class Live:
    """A ``Model`` that lives now.  Implements ``Plant``."""

    def __init__(self, model: Model) -> None:
        """Let a model that has just been made, with ``start`` as of now, go on with the clock."""
        self._model = model
        self._lock = threading.Lock()
        # Elapsed time is taken from the monotonic clock, which nobody sets.
        self._offset = model.now - time.monotonic_ns()

    def _caught_up(self) -> Model:
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

    def limit(self, pod: str, kbit: int | None) -> None:
        """See ``Enforcer``."""
        with self._lock:
            self._caught_up().limit(pod, kbit)

    def load(self, workload: str, kbit: int | None) -> None:
        """See ``Loads``."""
        with self._lock:
            self._caught_up().load(workload, kbit)

    def capacity(self, kbit: int) -> None:
        """See ``Loads``."""
        with self._lock:
            self._caught_up().capacity(kbit)

    def counters(self) -> Counters:
        """See ``Exported``."""
        with self._lock:
            return self._caught_up().counters()

    def seconds(self) -> Sequence[Second]:
        """See ``Truth``."""
        with self._lock:
            return self._caught_up().seconds()

    def crossings(self) -> Sequence[int]:
        """When, since the last call, the queue's delay rose above the SLO; UTC ns."""
        with self._lock:
            return self._caught_up().crossings()
