"""What a source of measurements is.

A new source is one module with a subclass of ``Source``, one line in ``source_factory.SOURCES``, and its
settings in ``schemas.config``.  The sampler, ``check``, ``record`` and the benches ask the class.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar

from msgspec import Struct

from schemas.config import Signal
from services.sampler.workloads import Workloads, metric_names

_UNITS = {
    "_seconds": "s",
    "_milliseconds": "ms",
    "_ms": "ms",
    "_microseconds": "us",
    "_us": "us",
    "_nanoseconds": "ns",
    "_ns": "ns",
}
"""Of a histogram's buckets, by how its name ends."""


class LatencyStats(Struct, frozen=True):
    """The latency of one critical workload in one window."""

    jitter: float | None = None
    """Q75 - Q25 of the L4 latency, seconds; None exactly when ``missing`` has a reason."""
    p95: float | None = None
    """95th percentile of the L4 latency, seconds; None exactly when ``missing`` has a reason."""
    observations: int = 0
    """How many latencies the two rest on."""
    lost: float | None = None
    """Packets or probes lost in the window; None where nothing measures loss."""
    bounds: tuple[float, ...] | None = None
    """Finite bucket bounds of the histogram, seconds, ascending; None when not known."""
    missing: str | None = None
    """Why there is no latency."""


class Measurements(Struct, frozen=True):
    """All workloads in one window."""

    start: int
    """Start of the measured window, UTC ns: later than requested while a source is still warming up."""
    latency: dict[str, LatencyStats]
    """By critical workload, ``namespace/workload``, or the part that an instance looks at, see ``Domain.name_part``;
    every configured one."""
    throughput: dict[str, int]
    """kbit/s sent, by workload, of those that are measured."""
    recent: dict[str, int] = {}
    """Throughput over the last period alone, kbit/s, where the source can tell."""
    recent_p50: dict[str, float] = {}
    """Median latency by critical workload over the last period alone, seconds, where the source can tell."""
    pods: dict[str, int] = {}
    """How many pods ``throughput`` covers, where the source can tell."""
    throughput_missing: dict[str, str] = {}
    """Why a workload has no throughput, where the source can tell."""
    notes: dict[str, str] = {}
    """What a person should know though it spoils no figure, by what it is about."""


class Lag(Struct, frozen=True):
    """How late a step in latency shows, at most, in seconds."""

    appears: float
    """Until the first sample whose P95 shows a rise."""
    vanishes: float
    """Until the first sample whose P95 shows the end: until then a cut that worked looks ineffective."""


class NoData(Exception):
    """The source has no data on the window; the text has the reason."""


class Source(ABC):
    """Measures all configured workloads, one window at a time."""

    needs_warm_up: ClassVar[bool] = False
    """Whether a window can be measured only after another measurement at its start."""

    @abstractmethod
    def __init__(self, signal: Signal, workloads: Workloads) -> None:
        """Prepare; nothing is requested yet.

        Raises:
            ValueError: the settings do not fit together; the text names them.
        """

    @abstractmethod
    async def measure(self, end: int) -> Measurements:
        """Measure the window that ends at ``end`` (UTC ns); called right after that instant.

        Raises:
            NoData: nothing is known about the window.
        """

    @abstractmethod
    def define(self, workloads: Workloads) -> None:
        """Measure these workloads from the next window on; what is known of those that stay is kept.

        Raises:
            ValueError: as the constructor does; the workloads before are measured on.
        """

    async def measure_past(self, ends: range) -> dict[int, Measurements]:
        """Measure windows of the past by their ends, UTC ns.

        Raises:
            NoData: the source keeps no history, or does not answer.
        """
        raise NoData("this source keeps no history")

    @abstractmethod
    def close(self) -> None:
        """Release connections and threads."""

    @classmethod
    @abstractmethod
    def addresses(cls, signal: Signal) -> tuple[str, ...]:
        """The URLs that the source reads."""

    @classmethod
    @abstractmethod
    def with_addresses(cls, signal: Signal, urls: Iterable[str]) -> Signal:
        """The same settings with other URLs, in the order of ``addresses``."""

    @classmethod
    def prerequisites(cls, signal: Signal) -> dict[str, str]:  # noqa: ARG003 - the default of an interface
        """Addresses of servers that must run before Sluice is installed, by configuration key."""
        return {}

    @classmethod
    def delay(cls, signal: Signal) -> float:  # noqa: ARG003 - the default of an interface
        """How old the newest data can be when a window is measured, seconds."""
        return 0.0

    @classmethod
    def lag(cls, signal: Signal) -> Lag:
        """How late the source shows a step.

        P95 rises once more than 5 % of the window's latencies are high, and falls once fewer are.
        """
        window, wait = signal.window.seconds, signal.period.seconds + cls.delay(signal)
        return Lag(0.05 * window + wait, 0.95 * window + wait)

    @classmethod
    def warnings(cls, signal: Signal) -> Iterator[tuple[str, str]]:
        """Settings that are valid but work badly: configuration key and explanation."""
        names = metric_names(signal)
        named = next((unit for suffix, unit in _UNITS.items() if names.metric.endswith(suffix)), signal.unit)
        if named != signal.unit:
            yield "signal.unit", f"{signal.unit}, and the name {names.metric} says {named}: latencies would be wrong"
        if not names.lost:
            yield "signal.lost", "nothing measures loss: a lost packet is not seen as a violation"
        if not names.throughput:
            yield "signal.throughput", "nothing measures throughput: policies work in a reduced form"
