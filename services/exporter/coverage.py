"""Notices when a workload has fewer observations than its domain needs.

Pure, but for the counts that ``CoverageMonitor`` reads.  ``sluice check`` gives advice before the install
(``services/tools/check/signal_advice.py``).
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Protocol

from schemas.config import Config, Signal
from schemas.domain import Domain


class Counted(Protocol):
    """Counts the latencies of each critical workload that match the signal, since the start."""

    @property
    def observations(self) -> Mapping[str, int]:
        """By ``namespace/workload``."""


class CoverageMonitor:
    """Compares each workload's observations over the signal window with what its domain needs."""

    def __init__(self, config: Config, counted: Counted) -> None:
        """Read ``counted`` at each check."""
        self._window = config.signal.window.seconds
        self._needed: dict[str, int] = {}
        self.define(config.domains)
        self._counted = counted
        self._past: deque[tuple[float, dict[str, int]]] = deque()

    def define(self, domains: Iterable[Domain]) -> None:
        """Compare with what these domains need from now on."""
        self._needed = {one.key: domain.min_observations for domain in domains for one in domain.critical}

    def check(self, now: float) -> str | None:
        """Which workloads are blind at ``now`` (monotonic, seconds); None when none is."""
        self._past.append((now, dict(self._counted.observations)))
        while len(self._past) > 1 and self._past[1][0] <= now - self._window:
            self._past.popleft()
        before, after = self._past[0][1], self._past[-1][1]
        # Of a workload that is new there was nothing before.
        seen = {workload: after.get(workload, 0) - before.get(workload, 0) for workload in self._needed}
        blind = [
            f"{workload}: {seen[workload]} observations, {needed} needed"
            for workload, needed in sorted(self._needed.items())
            if seen[workload] < needed
        ]
        return "blind: " + "; ".join(blind) if blind else None


def matchers_of(signal: Signal) -> Mapping[str, str]:
    """The labels that the sampler selects our series by; none where it reads another exporter's."""
    return signal.matchers if signal.preset == "hubble" else {}
