"""The source that queries a Prometheus, where instances of a definition look at some nodes alone.

Quantiles cannot be added up.  So there is a set of queries for each way of adding series up: all nodes, each node (in
one query, by the label), and all nodes with one value of a label, by a matcher.
"""

import asyncio

from schemas.config import Signal
from services.sampler.prometheus.source import PrometheusSource
from services.sampler.source import LatencyStats, Measurements, NoData
from services.sampler.workloads import Workloads, explain_absence


class PlacedPrometheusSource(PrometheusSource):
    """Measures by PromQL, place by place."""

    def __init__(self, signal: Signal, workloads: Workloads) -> None:
        """Prepare the queries.

        Raises:
            ValueError: a query text has an unknown placeholder.
        """
        super().__init__(signal, workloads.split_by_place().get("") or workloads)
        self._all = workloads
        self._placed: dict[str, PrometheusSource] = {}
        self.define(workloads)

    def define(self, workloads: Workloads) -> None:
        """Ask for these workloads from the next window on."""
        self._all, scopes = workloads, workloads.split_by_place()
        self._is_whole_wanted = "" in scopes
        if self._is_whole_wanted:
            super().define(scopes.pop(""))
        wanted = scopes if workloads.names.node else {}
        for gone in self._placed.keys() - wanted.keys():
            self._placed.pop(gone).close()
        for place, some in wanted.items():
            if place in self._placed:
                self._placed[place].define(some)
            else:
                self._placed[place] = PrometheusSource(self._signal, some)

    async def measure(self, end: int) -> Measurements:
        """Query the window that ends at ``end``, UTC ns.

        Raises:
            NoData: a figure other than throughput failed, of whichever places.
        """
        found = [source.measure(end) for source in self._placed.values()]
        if self._is_whole_wanted:
            found.append(super().measure(end))
        return self._merge(end, await asyncio.gather(*found))

    async def measure_past(self, ends: range) -> dict[int, Measurements]:
        """Query windows of the past by their ends, UTC ns.

        Raises:
            NoData: a figure failed.
        """
        found = [await source.measure_past(ends) for source in self._placed.values()]
        if self._is_whole_wanted:
            found.append(await super().measure_past(ends))
        return {end: self._merge(end, [one[end] for one in found]) for end in ends}

    def _merge(self, end: int, parts: list[Measurements]) -> Measurements:
        """One measurement of all places; what no query asks for has its reason."""
        if not parts and self._all.names.node:
            raise NoData("no instance of a definition is known yet")
        names, measured = self._all.names, {key: one for part in parts for key, one in part.latency.items()}
        latency = {
            key: measured.get(key) or LatencyStats(missing=explain_absence(names.metric, key, names.node, ()))
            for key in self._all.measured_critical
        }
        return Measurements(
            start=min((part.start for part in parts), default=end - self._signal.window),
            latency=latency,
            throughput={key: one for part in parts for key, one in part.throughput.items()},
            pods={key: one for part in parts for key, one in part.pods.items()},
        )

    def close(self) -> None:
        """Release connections and threads."""
        super().close()
        for source in self._placed.values():
            source.close()
