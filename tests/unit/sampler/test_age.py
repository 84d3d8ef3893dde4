"""Data that a backend holds back is stale in every window, not in some."""

from contextlib import closing

import pytest

from schemas.config import Prometheus, Signal
from schemas.units import Duration
from services.sampler.prometheus.source import PrometheusSource
from services.sampler.workloads import Workloads, metric_names

S = 10**9


@pytest.mark.parametrize("interval", [1, 5, 15, 30])
@pytest.mark.parametrize(("offset", "missed"), [(0, False), (0, True), (30, False)])
def test_one_verdict_for_every_window(interval: int, offset: int, missed: bool) -> None:
    """Scrapes every few seconds, shown at once or 30 s late; one missed scrape is forgiven."""
    prometheus = Prometheus(scrape_interval=Duration(interval * S))
    signal = Signal(source="prometheus", window=Duration(4 * interval * S), prometheus=prometheus)
    workloads = Workloads(metric_names(signal), ("f/robot",), ())
    with closing(PrometheusSource(signal, workloads)) as source:
        verdicts = set()
        for tick in range(400):
            end = 1_795_400_000 * S + tick * signal.period
            scrape = (end / 1e9 - offset) // interval * interval
            if missed and scrape == 1_795_400_000 + 4 * interval:
                scrape -= interval
            fresh = source._explain_age("f/robot", end, end / 1e9 - scrape) is None
            # Within its first scrape interval it cannot tell 30 s late from 30 s rare.
            if end - 1_795_400_000 * S > prometheus.scrape_interval:
                verdicts.add(fresh)
        assert verdicts == {offset == 0}
