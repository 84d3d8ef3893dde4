"""A real VictoriaMetrics, which holds back the newest half minute: one verdict for every window, and the right one."""

import time
import urllib.request
from collections.abc import Iterator

import pytest

from schemas.config import Prometheus, Signal
from schemas.units import Duration
from tests.integration.sampler.test_sources import robot, source_for
from tests.support.victoria_metrics import VictoriaMetrics

pytestmark = pytest.mark.victoria_metrics

S = 10**9
OFFSET_S = 30
PER_SECOND = 50


def write_history(first: int, last: int, interval: int, height: int = 1000) -> str:
    """Round trips of the robot between 1 and 2 ms, from ``first`` to ``last``, Unix seconds, a page per interval."""
    labels = 'namespace="factory",workload="robot-control"'
    name = "hubble_flow_latency_seconds"
    lines = []
    for at in range(first, last + 1, interval):
        count = height + (at - first) * PER_SECOND
        lines += [f'{name}_bucket{{{labels},le="{le}"}} {count} {at * 1000}' for le in ("0.002", "+Inf")]
        lines += [f'{name}_bucket{{{labels},le="0.001"}} {height} {at * 1000}']
        lines += [f"{name}_count{{{labels}}} {count} {at * 1000}", f"hubble_flow_lost_total{{{labels}}} 3 {at * 1000}"]
    return "\n".join([*lines, ""])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VictoriaMetrics]:
    """Empty, with its defaults."""
    with VictoriaMetrics(tmp_path_factory.mktemp("victoria-metrics"), ()) as running:
        yield running


def fill(server: VictoriaMetrics, interval: int) -> int:
    """Give it the scrapes of ten minutes, and a few to come; returns the time now, Unix seconds."""
    delete = f"{server.url}/api/v1/admin/tsdb/delete_series?match[]=%7Bworkload%3D%22robot-control%22%7D"
    urllib.request.urlopen(urllib.request.Request(delete, method="POST")).close()
    last = int(time.time())
    body = write_history(last - 600 // interval * interval, last + 2 * interval, interval).encode()
    urllib.request.urlopen(f"{server.url}/api/v1/import/prometheus", data=body).close()
    urllib.request.urlopen(f"{server.url}/internal/force_flush").close()
    return last


def signal(url: str, interval: int, offset_s: int) -> Signal:
    """A window of four scrapes."""
    offset = Duration(offset_s * S) if offset_s else None
    prometheus = Prometheus(
        url=url,
        scrape_interval=Duration(interval * S),
        latency_offset=offset,
        queries={"buckets": ""},
    )
    return Signal(
        source="prometheus",
        period=Duration(S),
        window=Duration(4 * interval * S),
        timeout=Duration(10 * S),
        prometheus=prometheus,
    )


@pytest.mark.parametrize("interval", [1, 5, 15])
async def test_what_is_held_back_is_stale_until_the_setting_says_how_long(
    server: VictoriaMetrics, interval: int
) -> None:
    """Without the setting no window is accepted, and the reason names both remedies; with it all are right."""
    last = fill(server, interval)
    with (
        source_for(signal(server.url, interval, 0)) as unaware,
        source_for(signal(server.url, interval, OFFSET_S)) as aware,
        source_for(signal(f"{server.url}/?nocache=1", interval, 0)) as at_once,
    ):
        for tick in range(3):
            end = (last + tick) * S
            held = await robot(unaware, end)
            assert "stale: last scraped" in str(held.missing)
            assert "-search.latencyOffset" in str(held.missing)
            assert "signal.prometheus.latency_offset" in str(held.missing)
            for source in (aware, at_once):
                found = await robot(source, end)
                assert found.missing is None
                assert found.observations == pytest.approx(4 * interval * PER_SECOND, abs=interval * PER_SECOND)
                assert found.p95 == pytest.approx(0.00195)
                assert found.jitter == pytest.approx(0.0005)
                assert found.lost == 0
