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
        + b'something_else{le="5"} 1\n'
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


THREE = (3.0, 7.0, 9.0)
OPEN = f"{HISTOGRAM}# EOF\n"


@pytest.mark.parametrize(
    "text",
    [
        HISTOGRAM.replace(",", ", ").replace("{", " { ").replace("}", " , } ").replace("=", " =\t"),
        HISTOGRAM.replace("}", ",}"),
        HISTOGRAM.replace("} ", "}"),
        HISTOGRAM.replace("} ", "}\t \t").replace("\n", " \t\n"),
        HISTOGRAM.replace("0.001", "1e-3").replace("0.002", ".002").replace("+Inf", "inf"),
        HISTOGRAM.replace("0.001", "+1.0E-03").replace("0.002", "0.0020").replace("+Inf", "Infinity"),
        HISTOGRAM.replace("3.0", "3").replace("7.0", "0.7e1").replace("9.0", "9."),
        HISTOGRAM.replace("3.0", "3 1700000000123").replace("7.0", "7\t5"),
        HISTOGRAM.replace(ROBOT, 'workload="robot",namespace="factory"'),
        HISTOGRAM.replace(ROBOT, ROBOT + ',empty=""'),
        HISTOGRAM.replace("hubble_flow_latency_seconds_bucket{", '{"hubble_flow_latency_seconds_bucket",'),
        HISTOGRAM.replace("namespace=", '"namespace"='),
        HISTOGRAM + HISTOGRAM,
        "\n#\n # anything\n#HELP\n# TYPE\n" + HISTOGRAM + " \t\n",
        '# HELP x \\\\ "\n# TYPE x histogram\n' + HISTOGRAM,
        HISTOGRAM + 'hubble_flow_latency_seconds_created{namespace="factory",workload="robot"} 1.7e9\n',
        HISTOGRAM + 'hubble_flow_latency_seconds_sum{namespace="factory",workload="robot"} NaN\n',
        HISTOGRAM + 'x{a="\u00fc"} NaN\ny{b="workload=\\"robot\\""} -1\nz +Inf\n',
    ],
)
def test_a_page_may_be_written_in_many_ways(text: str) -> None:
    """Spaces, tabs, commas, number notations and quoted names give the same series with the same counts."""
    assert reader().read(text.encode()).counters == {
        CounterSeries("latency", "factory/robot", NAMED, (0.001, 0.002)): THREE
    }


@pytest.mark.parametrize(
    "text",
    [
        OPEN,
        OPEN[:-1],
        OPEN.replace("7.0", '7.0 # {trace_id="a"} 0.0006'),
        OPEN.replace("7.0", '7.0 1700000000.123 # {trace_id="a}",span="\\""} 0.0006 1700000000'),
        OPEN.replace("7.0", "7.0 # {} 1"),
        "# TYPE hubble_flow_latency_seconds histogram\n# UNIT hubble_flow_latency_seconds seconds\n" + OPEN,
        '# HELP a \\"text\\"\nhubble_flow_latency_seconds_created{namespace="factory",workload="robot"} 1.7e9\n' + OPEN,
    ],
)
def test_openmetrics_has_exemplars(text: str) -> None:
    """An exemplar's value is never read as the bucket's."""
    counters = reader().read(text.encode(), openmetrics=True).counters
    assert list(counters.values()) == [THREE]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (HISTOGRAM, "cut off"),
        (OPEN + HISTOGRAM, "more after the end"),
        (OPEN.replace("} ", "}  "), "not in the text format"),
        (OPEN.replace("} ", "}\t"), "not in the text format"),
        ("\n" + OPEN, "not in the text format"),
        ("# a comment\n" + OPEN, "not in the text format"),
        ("# UNIT hubble_flow_latency_seconds minutes\n" + OPEN, "not in the text format"),
        (OPEN.replace("7.0", "7.0 #{} 1"), "not in the text format"),
        (OPEN.replace("7.0", '7.0 # {trace_id="a"}'), "not in the text format"),
    ],
)
def test_openmetrics_is_strict(text: str, why: str) -> None:
    """It requires single spaces and an end, and allows no other comments."""
    with pytest.raises(MalformedPage, match=why):
        reader().read(text.encode(), openmetrics=True)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_a_page_may_come_in_pieces(size: int) -> None:
    """The network may cut it anywhere."""
    for text, openmetrics in ((HISTOGRAM, False), (OPEN, True)):
        data = text.encode()
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert list(reader().read_chunks(pieces, openmetrics=openmetrics).counters.values()) == [THREE]


@pytest.mark.parametrize(
    ("series", "again"),
    [
        (f'hubble_flow_latency_seconds_bucket{{{ROBOT},le="0.002"}}', "8"),
        (f'hubble_flow_latency_seconds_bucket{{{ROBOT},le="2e-3"}}', "8"),
        (f'hubble_flow_latency_seconds_bucket{{le="0.002",{ROBOT}}}', "0"),
        (f"hubble_flow_lost_total{{{ROBOT}}}", "3"),
    ],
)
def test_a_series_that_is_shown_twice_differently_is_a_fault(series: str, again: str) -> None:
    """It is unknown which of the two is meant."""
    text = f"{HISTOGRAM}hubble_flow_lost_total{{{ROBOT}}} 2\n{series} {again}\n"
    assert "twice" in reader().read(text.encode()).faults["factory/robot"]


def test_bytes_that_are_shown_twice_differently_are_unsettled() -> None:
    """The latency beside them is not affected."""
    sent = 'container_network_transmit_bytes_total{namespace="factory",pod="upload-5d4-abcde"} '
    page = reader().read(f"{HISTOGRAM}{sent}1\n{sent}2\n".encode())
    assert page.unsettled == {"factory/upload"}
    assert not page.faults


def test_names_in_quotation_marks_may_hold_anything() -> None:
    """OpenTelemetry has such names."""
    signal = Signal(metric="k8s.rtt", labels={"namespace": "k8s.namespace.name", "workload": "k8s.deployment.name"})
    text = "".join(
        f'{{"k8s.rtt_bucket","k8s.namespace.name"="factory","k8s.deployment.name"="robot",le="{le}"}} {count}\n'
        for le, count in (("1", 2), ("+Inf", 3))
    )
    assert list(reader(signal).read(text.encode()).counters.values()) == [(2.0, 3.0)]


def test_lines_to_keep_are_bounded() -> None:
    """A page with more series of the workloads than configured is refused."""
    small = PageReader(Workloads(metric_names(Signal()), ("factory/robot",), ()), max_lines=2)
    with pytest.raises(MalformedPage, match="more than 2 lines"):
        small.read(HISTOGRAM.encode())


def test_a_line_without_end_is_refused() -> None:
    """Memory is bounded for any input."""
    with pytest.raises(MalformedPage, match="a line of more than"):
        reader().read_chunks(b"x" * 65536 for _ in range(100))


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
        (HISTOGRAM.replace("7.0", "7.0 1 2"), "not in the text format"),
        (HISTOGRAM.replace("7.0", "7_0"), "not in the text format"),
        (HISTOGRAM.replace("7.0", "0x7p0"), "not in the text format"),
        (HISTOGRAM.replace("7.0", "7.0 -5"), "not in the text format"),
        (HISTOGRAM.replace("7.0", '7.0 # {trace_id="a"} 0.0006'), "not in the text format"),
        (HISTOGRAM.replace("7.0", "7.0 # comment"), "not in the text format"),
        (HISTOGRAM.replace(ROBOT, ROBOT + ',namespace="factory"'), "'namespace' twice"),
        (HISTOGRAM.replace("7.0", "1e999"), "expected a counter"),
        (HISTOGRAM.replace("\n", "\r\n"), "not in the text format"),
        (HISTOGRAM.replace('"robot"', "'robot'"), "not in the text format"),
        (HISTOGRAM + "this is not even a metric\n", "not even a metric"),
        (HISTOGRAM + "# TYPE x  counter\n", "TYPE x"),
        (HISTOGRAM + 'x{a="line\nfeed"} 1\n', "not in the text format"),
        (HISTOGRAM.replace('le="0.002"', 'le="0.00_2"'), "bound '0.00_2'"),
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


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_page_whose_length_is_known_needs_no_last_line_feed(end: str) -> None:
    """As Prometheus reads it.  Without a known length the page may have been cut off."""
    text = f"{HISTOGRAM.rstrip()}{end}".encode()
    assert reader().read(text, is_whole=True) == reader().read(text.rstrip() + b"\n")
    if not end:
        with pytest.raises(MalformedPage, match="cut off"):
            reader().read(text)
        with pytest.raises(MalformedPage, match="cut off"):
            reader().read(text[:-30], is_whole=True)


@pytest.mark.parametrize(
    "line",
    [
        'up 1 # {"name"} 1',
        'up 1 # {a="1","name"} 1',
        "up 1 1e400",
        "up 1 # {} 1 1e400",
    ],
)
def test_exemplars_and_timestamps_that_prometheus_refuses(line: str) -> None:
    """A name of a metric among an exemplar's labels, and dates at infinity."""
    with pytest.raises(MalformedPage, match="not in the text format"):
        reader().read(f"{line}\n# EOF\n".encode(), openmetrics=True)
