"""Arbitrary pages and answers are read or refused, and never crash."""

import os
import re
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from schemas.config import Signal
from services.sampler.http_client import RequestFailed
from services.sampler.prometheus.query import parse_vector
from services.sampler.prometheus.source import collect_bounds, sum_by_workload
from services.sampler.scrape.parser import MalformedPage, PageReader
from services.sampler.scrape.source import measure_latency, measure_throughput
from services.sampler.scrape.window import PageWindow
from services.sampler.workloads import Workloads, metric_names
from tests.support.metric_pages import Samples, flatten, name_sample, write_page

EXAMPLES = int(os.environ.get("SLUICE_FUZZ_EXAMPLES", "300"))
WORKLOADS = Workloads(metric_names(Signal()), ("f/robot",), ("f/upload",))
PAGE = b"".join(
    [
        *(
            b'hubble_flow_latency_seconds_bucket{namespace="f",workload="robot",le="%s"} %d\n' % (le, count)
            for le, count in ((b"0.001", 5), (b"0.002", 9), (b"+Inf", 12))
        ),
        b'hubble_flow_lost_total{namespace="f",workload="robot"} 1\n',
        b'container_network_transmit_bytes_total{namespace="f",pod="upload-5d4-abcde"} 1e6 1700000000123\n',
    ]
)
json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["metric", "value", "le", "namespace", "workload"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def read(text: bytes, history: PageWindow, end: int) -> None:
    """Read a page up to a sample, or refuse it."""
    try:
        page = PageReader(WORKLOADS).read(text)
    except MalformedPage:
        return
    history.add(end, end * 1e-9, page)
    increases = list(history.increases().items())
    found = measure_latency(increases, WORKLOADS.critical, page.faults)["f/robot"]
    assert found.missing is not None or (found.p95 is not None and 0 <= found.p95 <= 1e308)
    assert all(rate >= 0 for rate in measure_throughput(increases)[0].values())


@given(st.lists(st.binary(max_size=200) | st.just(PAGE), max_size=4))
def test_any_bytes_are_read_or_refused(pages: list[bytes]) -> None:
    """No page stops the sampler, whatever came before it."""
    history = PageWindow(10)
    for end, text in enumerate(pages):
        read(text, history, end)


@given(st.data())
def test_a_page_with_any_fault_is_read_or_refused(data: st.DataObject) -> None:
    """A good page with bytes cut, changed and inserted: figures stay numbers, and rates stay positive."""
    history = PageWindow(10)
    read(PAGE, history, 0)
    text = bytearray(PAGE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(text) - 1, 0)))
        until = data.draw(st.integers(at, min(at + 20, len(text))))
        text[at:until] = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"\n", b"}", b'"', b"NaN", b"-1", b"1e999"])
        )
    read(bytes(text), history, 1)


# A line with # is a comment "unless the first token after # is either HELP or TYPE" (Prometheus, exposition formats,
# "Comments, help text, and type information").  The client looks at the second word whatever the first one is, and
# takes `#+ TYPE x histogra#m` for metadata; Prometheus ignores the line.
_NO_METADATA = re.compile(r"(?m)^[ \t]*#[^ \t\n][^\n]*$")

FACTORY = Workloads(metric_names(Signal()), ("factory/robot",), ())


def read_by_the_client(text: str) -> Samples | None:
    """The robot's samples as prometheus_client reads them; None where it refuses the page."""
    samples: Samples = {}
    text = _NO_METADATA.sub("", text)
    try:
        for family in text_string_to_metric_families(text):
            for name, labels, value, *_ in family.samples:
                kinds = ("hubble_flow_latency_seconds_bucket", "hubble_flow_lost_total")
                if name in kinds and (labels.get("namespace"), labels.get("workload")) == ("factory", "robot"):
                    samples.setdefault(name_sample(name, labels), value)
    except (ValueError, IndexError, KeyError):
        return None
    return samples


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.randoms(use_true_random=False))
def test_well_formed_pages_are_read_as_the_client_reads_them(chance: Random) -> None:
    """The same series with the same values, in every layout."""
    text = write_page(chance)
    page = PageReader(FACTORY).read(text.encode())
    assert not page.faults
    assert flatten(page) == read_by_the_client(text)


def test_words_behind_another_token_are_no_metadata() -> None:
    """The client refuses this page, and Prometheus reads it."""
    for comment in ("#+ TYPE x histogra#m", "## TYPE x y", "#x HELP", "#, TYPE robot"):
        page = PAGE.replace(b'"f"', b'"factory"').decode() + comment + "\n"
        assert flatten(PageReader(FACTORY).read(page.encode())) == read_by_the_client(page)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_a_page_with_faults_is_read_as_the_client_reads_it_or_refused(chance: Random, faults: int) -> None:
    """What the client refuses is refused.  The client also reads pages that Prometheus refuses."""
    text = write_page(chance, faults=faults)
    try:
        page = PageReader(FACTORY).read(text.encode())
    except MalformedPage:
        return
    stored = read_by_the_client(text)
    assert stored is not None, text
    if not page.faults:
        assert flatten(page) == stored


@given(json)
def test_any_json_is_an_instant_vector_or_refused(answer: Any) -> None:
    """A gateway may answer any JSON: labels become text, values numbers, or the query fails."""
    try:
        vector = parse_vector(answer)
    except RequestFailed:
        return
    sum_by_workload(vector, WORKLOADS.find_critical)
    collect_bounds(vector, WORKLOADS)
