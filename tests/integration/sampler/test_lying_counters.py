"""Counters that no single process counted, through a real Prometheus: no data, or what was really observed."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from schemas.config import Prometheus, Signal
from schemas.units import Duration
from services.sampler.prometheus.source import PrometheusSource
from services.sampler.workloads import Workloads, metric_names
from tests.support.lying_counters import BOUNDS, Lie, judge, write_lie
from tests.support.prometheus_server import PrometheusServer

pytestmark = pytest.mark.prometheus

S = 10**9
START = 1_795_400_000
WINDOW, PAGES, ADDRESSES = 4, 60, 60
NAME = "hubble_flow_latency_seconds"


def write_history(lies: list[Lie]) -> str:
    """All pages with their times, in the format of promtool's history."""
    lines = [f"# TYPE {NAME} histogram"]
    for number, lie in enumerate(lies):
        for peer in dict.fromkeys(peer for page in lie.pages for peer in page):
            labels = f'namespace="factory",workload="robot-{number}"' + (f',peer="{peer}"' if peer else "")
            shown = [(START + at, page[peer]) for at, page in enumerate(lie.pages) if peer in page]
            for place, bound in enumerate(BOUNDS):
                lines += [f'{NAME}_bucket{{{labels},le="{bound}"}} {counts[place]} {at}' for at, counts in shown]
            lines += [f"{NAME}_count{{{labels}}} {counts[-1]} {at}" for at, counts in shown]
    return "\n".join([*lines, "# EOF", ""])


async def test_lying_counters_through_prometheus(tmp_path: Path) -> None:
    """One process, restarts, several processes in any order, new series."""
    chance = Random(29)
    # Without its markers for what is gone, a history shows a series for five minutes more.
    lies = [write_lie(chance, PAGES, vanishing=False) for _ in range(ADDRESSES)]
    tally: Counter[str] = Counter()
    with PrometheusServer(tmp_path, history=write_history(lies)) as server:
        # From version 3 on, a range excludes its very beginning.
        window = WINDOW if server.version < (3,) else WINDOW - 1
        signal = Signal(
            source="prometheus",
            period=Duration(S),
            window=Duration(WINDOW * S),
            timeout=Duration(30 * S),
            prometheus=Prometheus(url=server.url),
        )
        keys = [f"factory/robot-{number}" for number in range(ADDRESSES)]
        source = PrometheusSource(signal, Workloads(metric_names(signal), keys, ()))
        try:
            found = await source.measure_past(range((START + WINDOW) * S, (START + PAGES) * S, S))
        finally:
            source.close()
    for end, measured in found.items():
        for key, lie in zip(keys, lies, strict=True):
            one = measured.latency[key]
            observed = None if one.missing is not None else float(one.observations)
            tally[judge(lie, end // S - START, window, observed, most_before_a_fall=1_000)] += 1
    assert tally["right"] > sum(tally.values()) / 5
    assert tally["no data"] > sum(tally.values()) / 5
