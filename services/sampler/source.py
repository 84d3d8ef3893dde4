"""The port between the sampler and whatever measures: one window in, what is known about it out."""

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from msgspec import Struct


class Latencies(Struct, frozen=True):
    """What one window says about one critical workload."""

    jitter: float | None = None
    """Q75 - Q25 of the L4 latency, seconds; None exactly when ``missing`` says why."""
    p95: float | None = None
    """95th percentile of the L4 latency, seconds; None exactly when ``missing`` says why."""
    observations: int = 0
    """How many latencies the two rest on."""
    lost: float | None = None
    """Packets or probes lost in the window; None where nothing measures loss."""
    bounds: tuple[float, ...] | None = None
    """Finite bucket bounds of the histogram, seconds, ascending; None when not known."""
    missing: str | None = None
    """Why there is no latency."""


class Measurements(Struct, frozen=True):
    """What one window says about every workload that was asked for."""

    start: int
    """Where the measured stretch begins, UTC ns: later than asked for while a source is still warming up."""
    latency: dict[str, Latencies]
    """By critical workload, ``namespace/workload``; all that were asked for."""
    sent: dict[str, int]
    """kbit/s sent, by workload, of those that are measured."""
    recent: dict[str, int] = {}
    """The same over the last period alone, where the source can tell."""
    medians: dict[str, float] = {}
    """Median latency by critical workload over the last period alone, seconds, where the source can tell."""
    pods: dict[str, int] = {}
    """How many pods ``sent`` is of, where the source can tell."""


def pods_of(series: Iterable[tuple[str, Mapping[str, str]]], measured: Collection[str]) -> dict[str, int]:
    """How many pods each measured workload has.

    Args:
        series: workload and labels of every counter of bytes; a pod may have several.
        measured: workloads; others are left out, and so are those whose series name no pod.
    """
    pods: dict[str, set[str]] = {}
    for workload, labels in series:
        if workload in measured and "pod" in labels:
            pods.setdefault(workload, set()).add(labels["pod"])
    return {workload: len(names) for workload, names in pods.items()}


class NoData(Exception):
    """The source knows nothing about the window at all; the text says why."""


class Source(Protocol):
    """What the sampler needs of a source."""

    async def measure(self, end: int) -> Measurements:
        """Measure the window that ends at ``end`` (UTC ns), right after that instant.

        Raises:
            NoData: nothing is known about the window, and why.
        """
