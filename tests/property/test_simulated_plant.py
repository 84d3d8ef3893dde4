"""The simulated plant under any sequence of limits, loads and capacities."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.plant.simulated.plant import Parameters, SimulatedPlant
from services.plant.topology import ERP, SCANNER, TELEMETRY
from services.plant.workloads import Apps, TargetApp

APPS = Apps(targets=(TargetApp(TELEMETRY, replicas=2), TargetApp(ERP, load=0, flows=1)))
MS = 1_000_000

kbit = st.integers(500, 120_000)
steps = st.one_of(
    st.builds(
        lambda pod, rate: lambda model: model.set_limit(pod, rate),
        st.sampled_from(["telemetry-upload-0", "erp-dashboard-0"]),
        st.none() | kbit,
    ),
    st.builds(lambda rate: lambda model: model.set_load(SCANNER, rate), st.integers(0, 60_000)),
    st.builds(lambda rate: lambda model: model.set_load(ERP, rate), st.none() | st.integers(0, 60_000)),
    st.builds(lambda rate: lambda model: model.set_capacity(rate), st.integers(20_000, 200_000)),
)
change_lists = st.lists(st.tuples(st.integers(1, 900), steps), min_size=1, max_size=12)
Changes = list[tuple[int, Callable[[SimulatedPlant], None]]]


def play(changes: Changes, parameters: Parameters, seed: int = 1) -> SimulatedPlant:
    """A model after a sequence of changes."""
    model = SimulatedPlant(parameters, seed)
    for ms, change in changes:
        model.advance(ms * MS)
        change(model)
    model.advance(500 * MS)
    return model


@settings(deadline=None, max_examples=60)
@given(change_lists, st.booleans())
def test_every_byte_is_somewhere(changes: Changes, forgiving: bool) -> None:
    """Every byte of a sender was delivered, was dropped, or is queued; no count is negative."""
    for name, book in play(changes, Parameters(apps=APPS, forgiving=forgiving)).ledger().items():
        assert book.offered == pytest.approx(book.delivered + book.dropped + book.queued, rel=1e-6, abs=1), name
        assert min(msgspec.structs.astuple(book)) >= -1e-3, name


@settings(deadline=None, max_examples=60)
@given(change_lists)
def test_the_bottleneck_serves_no_more_than_its_rate(changes: Changes) -> None:
    """The delivered bytes fit into the capacity over time, and the queue into its size."""
    model = SimulatedPlant(Parameters(apps=APPS), 1)
    capacity, room = APPS.capacity, 0.0
    for ms, change in changes:
        model.advance(ms * MS)
        room += capacity * 125 * ms / 1000
        change(model)
        capacity = round(model._rate / 125)
        books = model.ledger().values()
        assert sum(book.delivered for book in books) <= room + 1
        assert model._queue <= model._parameters.fifo + 1


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(50, 500), kbit), min_size=1, max_size=10))
def test_a_limited_pod_sends_no_more_than_its_limit(changes: list[tuple[int, int]]) -> None:
    """Over each interval a pod's bytes stay within its rate and one burst, from when it is limited."""
    parameters = Parameters(apps=APPS)
    model = SimulatedPlant(parameters, 1)
    model.advance(300 * MS)
    for ms, rate in changes:
        model.set_limit("telemetry-upload-0", rate)
        before = model.read_counters().sent["telemetry-upload-0"]
        model.advance(ms * MS)
        sent = model.read_counters().sent["telemetry-upload-0"] - before
        assert sent <= rate * 125 * ms / 1000 + parameters.limiter_burst + 1


@settings(deadline=None, max_examples=30)
@given(change_lists, st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_run(changes: Changes, seed: int) -> None:
    """Truth and counters are equal bit for bit; no clock or other source affects them."""
    one, other = (play(changes, Parameters(apps=APPS), seed) for _ in range(2))
    assert one.take_seconds() == other.take_seconds()
    assert one.read_counters() == other.read_counters()


@settings(deadline=None, max_examples=30)
@given(change_lists)
def test_counters_only_grow_and_agree_with_the_truth(changes: Changes) -> None:
    """The exporter's counters never fall, and count no round trip that has not returned."""
    model = SimulatedPlant(Parameters(apps=APPS), 1)
    before = model.read_counters()
    for ms, change in changes:
        model.advance(ms * MS)
        change(model)
        after = model.read_counters()
        for workload, histogram in after.latency.items():
            old = before.latency[workload]
            assert all(new >= was for new, was in zip(histogram.counts, old.counts, strict=True))
            assert sorted(histogram.counts) == list(histogram.counts)
            assert histogram.lost >= old.lost
        assert all(after.sent[name] >= bytes_before for name, bytes_before in before.sent.items())
        before = after
    model.advance(2_000 * MS)
    for one in APPS.critical:
        probes = model.now / 1e9 * one.probe_hz
        assert model.read_counters().latency[one.workload].counts[-1] <= probes + 1
