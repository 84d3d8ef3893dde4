"""A curve of any length in constant memory: when there are too many points, neighbours are merged."""

from dataclasses import dataclass, field


@dataclass
class CurvePoint:
    """One section of a curve."""

    time: int
    """When it begins, ns."""
    high: float
    low: float
    total: float
    count: int
    last: float

    @property
    def mean(self) -> float:
        """Mean over the section."""
        return self.total / self.count


@dataclass
class Curve:
    """Values over time; at most ``2 * most`` points, each of which keeps its extremes."""

    most: int = 1500
    points: list[CurvePoint] = field(default_factory=list)
    _span: int = 1
    """Values that make up one point."""

    def add(self, time: int, value: float) -> None:
        """Add the next value."""
        if self.points and self.points[-1].count < self._span:
            _merge(self.points[-1], CurvePoint(time, value, value, value, 1, value))
            return
        self.points.append(CurvePoint(time, value, value, value, 1, value))
        if len(self.points) > 2 * self.most:
            for first, second in zip(self.points[::2], self.points[1::2], strict=False):
                _merge(first, second)
            self.points = self.points[::2]
            self._span *= 2


def _merge(into: CurvePoint, other: CurvePoint) -> None:
    into.high = max(into.high, other.high)
    into.low = min(into.low, other.low)
    into.total += other.total
    into.count += other.count
    into.last = other.last
