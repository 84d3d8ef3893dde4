"""Pages in the text format: what the parser reads, and what it refuses."""

import pytest

from schemas.config import Signal
from services.sampler.scrape.parser import CounterSeries, MalformedPage, PageReader
from services.sampler.workloads import Workloads, metric_names

ROBOT = 'namespace="factory",workload="robot"'
HISTOGRAM = (
    f'hubble_flow_latency_seconds_bucket{{{ROBOT},le="0.001"}} 3.0\n'
    f'hubble_flow_latency_seconds_bucket{{{ROBOT},le="0.002"}} 7.0\n'
    f'hubble_flow_latency_seconds_bucket{{{ROBOT},le="+Inf"}} 9.0\n'
)
NAMED = (("namespace", "factory"), ("workload", "robot"))


def reader(signal: Signal | None = None) -> PageReader:
    """A reader for one critical workload and one target."""
    return PageReader(Workloads(metric_names(signal or Signal()), ("factory/robot",), ("factory/upload",)))


def test_reads_histogram_loss_and_bytes_and_passes_over_the_rest() -> None:
    """One page gives one series each; other metrics, other workloads and comments are skipped."""
    page = reader().read(
        b"# HELP whatever {{{ is not parsed\n"
        + HISTOGRAM.encode()
        + f"hubble_flow_lost_total{{{ROBOT}}} 2\n".encode()
        + b'hubble_flow_lost_total{namespace="factory",workload="other"} 5\n'
        + b'container_network_transmit_bytes_total{namespace="factory",pod="upload-5d4-abcde"} 1e6 1700000000123\n'
        + b"this is not even a metric\n"
    )
    sent = CounterSeries("throughput", "factory/upload", (("namespace", "factory"), ("pod", "upload-5d4-abcde")))
    assert page.counters == {
        CounterSeries("latency", "factory/robot", NAMED, (0.001, 0.002)): (3.0, 7.0, 9.0),
        CounterSeries("lost", "factory/robot", NAMED): (2.0,),
        sent: (1e6,),
    }
    assert page.stamps == {sent: 1700000000123}
    assert page.faults == {}


def test_series_of_one_workload_stay_apart() -> None:
    """Two protocols are two series, each with resets of its own."""
    both = HISTOGRAM.replace(ROBOT, ROBOT + ',protocol="UDP"') + HISTOGRAM.replace(ROBOT, ROBOT + ',protocol="TCP"')
    assert len(reader().read(both.encode()).counters) == 2


def test_matchers_leave_series_out() -> None:
    """Only series with the configured labels count."""
    both = HISTOGRAM.replace(ROBOT, ROBOT + ',source="probe"') + HISTOGRAM
    page = reader(Signal(matchers={"source": "probe"})).read(both.encode())
    assert [dict(series.labels)["source"] for series in page.counters] == ["probe"]


def test_labels_may_hold_what_they_like() -> None:
    """The library parses braces, quotes and line feeds in a label value."""
    odd = HISTOGRAM.replace(ROBOT, ROBOT + r',peer="a}\"b\n{"')
    (series,) = reader().read(odd.encode()).counters
    assert dict(series.labels)["peer"] == 'a}"b\n{'


def test_a_line_is_learned_once_and_its_number_read_each_time() -> None:
    """The second page has the same series with new numbers."""
    one = reader()
    one.read(HISTOGRAM.encode())
    (counts,) = one.read(HISTOGRAM.replace("9.0", "12").encode()).counters.values()
    assert counts == (3.0, 7.0, 12.0)


def test_what_was_learned_of_gone_series_is_forgotten() -> None:
    """Pods come and go for months, and memory does not grow."""
    one = reader()
    for number in range(5000):
        pod = f'{{namespace="factory",pod="upload-{number}-abcde"}}'
        one.read(f"container_network_transmit_bytes_total{pod} 1\n".encode())
    assert len(one._known) < 2000


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (HISTOGRAM.replace('le="+Inf"', 'le="5"'), "without a +Inf bucket"),
        (HISTOGRAM.splitlines(keepends=True)[-1], "without a finite bucket"),
    ],
)
def test_an_incomplete_histogram_is_a_fault_of_its_workload(text: str, fault: str) -> None:
    """Quantiles of such a histogram would be wrong; other workloads are not affected."""
    page = reader().read(text.encode())
    assert fault in page.faults["factory/robot"]
    assert not page.counters


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (HISTOGRAM[:-2], "cut off"),
        (HISTOGRAM.replace("7.0", "seven"), "seven"),
        (HISTOGRAM.replace("7.0", ""), "not in the text format"),
        (HISTOGRAM.replace("7.0", "NaN"), "expected a counter"),
        (HISTOGRAM.replace("7.0", "-1"), "expected a counter"),
        (HISTOGRAM.replace("7.0", "7.0 1 2"), "expected a counter"),
        (HISTOGRAM.replace('le="0.002"', 'le="low"'), "bound 'low'"),
        (HISTOGRAM.replace('le="0.002"', 'le="NaN"'), "bound 'NaN'"),
        (HISTOGRAM.replace(',le="0.002"', ""), "bound ''"),
        (HISTOGRAM.replace('"robot"', "robot"), "not in the text format"),
        (HISTOGRAM.replace("}", ""), "not in the text format"),
    ],
)
def test_malformed_pages_are_refused_with_the_line(text: str, why: str) -> None:
    """Half a page could look like a whole one with fewer series, so all of it is rejected."""
    with pytest.raises(MalformedPage, match=why):
        reader().read(text.encode())


def test_bytes_that_are_no_text_are_refused() -> None:
    """A relevant line must be UTF-8."""
    with pytest.raises(MalformedPage):
        reader().read(HISTOGRAM.encode().replace(b"robot", b"ro\xff\xfe"))
