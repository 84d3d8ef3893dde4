"""The PromQL queries."""

import pytest

from schemas.config import Prometheus, Signal
from schemas.units import Duration
from services.sampler.prometheus.queries import build_queries
from services.sampler.workloads import Workloads, metric_names

S = 10**9


def queries(signal: Signal, critical: tuple[str, ...] = ("factory/robot", "other/robot.v2")) -> dict[str, str]:
    """The queries of a signal for these workloads and one target."""
    texts = build_queries(signal, Workloads(metric_names(signal), critical, ("batch/upload",)))
    return {str(figure): text for figure, text in texts.items()}


def test_one_query_asks_for_all_workloads() -> None:
    """Names become one pattern, escaped twice: for the pattern and for the string around it."""
    texts = queries(Signal(window=Duration(5 * S)))
    select = r'namespace=~"factory|other",workload=~"robot|robot\\.v2"'
    buckets = f"sum by (namespace, workload, le) (rate(hubble_flow_latency_seconds_bucket{{{select}}}[5000ms]))"
    assert texts["p95"] == f"histogram_quantile(0.95, {buckets})"
    assert texts["jitter"] == f"histogram_quantile(0.75, {buckets}) - histogram_quantile(0.25, {buckets})"
    assert texts["lost"] == f"sum by (namespace, workload) (increase(hubble_flow_lost_total{{{select}}}[5000ms]))"
    assert texts["throughput"] == (
        "sum by (namespace, pod, workload) "
        '(rate(container_network_transmit_bytes_total{namespace=~"batch|factory|other",interface=~"eth0|"}[5000ms]))'
    )


def test_presets_name_their_own_labels_and_matchers() -> None:
    """cilium-health has neither a namespace nor a loss counter."""
    texts = queries(Signal(preset="cilium-health"), critical=("default/node-1",))
    assert "lost" not in texts
    assert texts["observations"] == (
        "sum by (source_node_name) (increase(cilium_node_health_connectivity_latency_seconds_count"
        r'{type="node",protocol="icmp",source_node_name=~"node\\-1"}[2000ms]))'
    )


def test_a_text_of_ones_own_uses_the_same_placeholders() -> None:
    """This one is for native histograms, which have no buckets."""
    own = {"p95": "histogram_quantile(0.95, sum by ($by) (rate(${metric}{$select}[$window]))) # $$5", "buckets": ""}
    texts = queries(Signal(prometheus=Prometheus(queries=own)), critical=("a/b",))  # type: ignore[arg-type]
    assert texts["p95"] == (
        "histogram_quantile(0.95, sum by (namespace, workload) "
        '(rate(hubble_flow_latency_seconds{namespace=~"a",workload=~"b"}[2000ms]))) # $5'
    )
    assert "buckets" not in texts


def test_figures_that_nothing_measures_are_not_asked_for() -> None:
    """Without a metric there is no query, unless the configuration has one."""
    assert not {"lost", "throughput"} & set(queries(Signal(lost="", throughput="")))
    given = queries(Signal(lost="", prometheus=Prometheus(queries={"lost": "sum by ($by) (increase(x[$window]))"})))
    assert given["lost"] == "sum by (namespace, workload) (increase(x[2000ms]))"


@pytest.mark.parametrize(
    ("text", "why"),
    [("rate(x[$windw])", "query 'p95': unknown placeholder: 'windw'"), ("", "query 'p95': cannot be empty")],
)
def test_texts_that_cannot_work_are_refused(text: str, why: str) -> None:
    """A mistake is reported at the start, by figure."""
    with pytest.raises(ValueError, match=why):
        queries(Signal(prometheus=Prometheus(queries={"p95": text})))
