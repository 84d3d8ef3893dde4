"""Two simulated plants behind one loop: what a limit that knows no nodes sees and sets.

The loop adds up what both measure, and its limits reach the pods of both.
"""

from collections.abc import Mapping, Sequence

from services.plant.interface import Counters, Histogram, Pod, Second
from services.plant.simulated.plant import SimulatedPlant


class PlantPair(SimulatedPlant):
    """Several plants that share their time; pods are named after their node."""

    def __init__(self, plants: Mapping[str, SimulatedPlant]) -> None:
        """Take the plants by node; all have the same clock."""
        self._plants = plants
        self.seconds: dict[str, list[Second]] = {node: [] for node in plants}
        """By node."""

    @property
    def now(self) -> int:
        """The clock, UTC ns."""
        return next(iter(self._plants.values())).now

    @property
    def pods(self) -> Sequence[Pod]:
        """The best-effort pods of all plants."""
        return [Pod(f"{node}:{pod.name}", pod.target) for node, plant in self._plants.items() for pod in plant.pods]

    @property
    def limits(self) -> Mapping[str, int | None]:
        """In force now, by pod name."""
        return {f"{node}:{name}": one for node, plant in self._plants.items() for name, one in plant.limits.items()}

    def set_limit(self, pod: str, kbit: int | None) -> None:
        """Put a limit in force on a pod's egress."""
        node, _, name = pod.partition(":")
        self._plants[node].set_limit(name, kbit)

    def set_load(self, workload: str, kbit: int | None) -> None:
        """Change what a workload wants to send, on every plant by the same factor."""
        for plant in self._plants.values():
            plant.set_load(workload, kbit)

    def read_counters(self) -> Counters:
        """What an exporter that names no nodes publishes: the sum of all."""
        latency: dict[str, Histogram] = {}
        sent: dict[str, int] = {}
        for node, plant in self._plants.items():
            counters = plant.read_counters()
            pods = {pod.name for pod in plant.pods}
            for name, number in counters.sent.items():
                key = f"{node}:{name}" if name in pods else name
                sent[key] = sent.get(key, 0) + number
            for name, one in counters.latency.items():
                latency[name] = one if name not in latency else _add(latency[name], one)
        return Counters(latency, sent)

    def take_seconds(self) -> Sequence[Second]:
        """Nothing: ``seconds`` has those of each node."""
        for node, plant in self._plants.items():
            self.seconds[node] += plant.take_seconds()
        return ()

    def take_crossings(self) -> Sequence[int]:
        """Nothing: the reactions of two uplinks are not one's."""
        return ()

    def advance(self, ns: int) -> None:
        """Let time pass on all plants."""
        for plant in self._plants.values():
            plant.advance(ns)


def _add(one: Histogram, other: Histogram) -> Histogram:
    counts = tuple(a + b for a, b in zip(one.counts, other.counts, strict=True))
    return Histogram(counts, one.sum + other.sum, one.lost + other.lost)
