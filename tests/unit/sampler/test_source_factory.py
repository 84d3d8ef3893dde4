"""The registry of sources, and the properties that every source has without measuring."""

from contextlib import closing
from typing import get_args, get_type_hints

import pytest
from msgspec.structs import replace

from schemas.config import Prometheus, Signal
from schemas.units import Duration
from services.sampler.source import NoData, Source
from services.sampler.source_factory import SOURCES, source_class
from services.sampler.workloads import Workloads, metric_names

S = 10**9
URLS = ("http://127.0.0.1:8080/metrics",)


def settings(name: str) -> Signal:
    """A signal with this source, and a window that suits all of them."""
    return replace(Signal(window=Duration(60 * S)), source=name)


def test_every_source_of_the_configuration_is_registered() -> None:
    """The schema names the same sources, and a section of settings for each."""
    hints = get_type_hints(Signal)
    assert set(get_args(hints["source"])) == set(SOURCES), "Signal.source in schemas/config.py names other sources"
    assert set(SOURCES) <= set(hints), "Signal in schemas/config.py needs a field of each source's name"


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_reads_the_addresses_that_it_is_given(name: str) -> None:
    """So `check` can reach a server through the API server, and `record` another Prometheus."""
    kind = source_class(name)
    assert issubclass(kind, Source)
    signal = kind.with_addresses(settings(name), URLS)
    assert kind.addresses(signal) == URLS
    assert set(kind.prerequisites(signal).values()) <= set(URLS)
    with closing(kind(signal, Workloads(metric_names(signal), ["factory/robot"], []))) as source:
        assert isinstance(source, Source)


@pytest.mark.parametrize("name", SOURCES)
def test_old_data_adds_to_the_lag(name: str) -> None:
    """The lag is a share of the window, the period, and the possible age of the data."""
    kind, signal = source_class(name), settings(name)
    lag = kind.lag(signal)
    assert lag.appears == pytest.approx(3 + 0.5 + kind.delay(signal))
    assert lag.vanishes == pytest.approx(57 + 0.5 + kind.delay(signal))


async def test_a_source_without_history_is_declared() -> None:
    """A page has the present only."""
    kind = source_class("scrape")
    workloads = Workloads(metric_names(Signal()), ["factory/robot"], [])
    with closing(kind(settings("scrape"), workloads)) as source, pytest.raises(NoData, match="keeps no history"):
        await source.measure_past(range(S, 3 * S, S))


@pytest.mark.parametrize(("name", "silent"), [("scrape", False), ("prometheus", True)])
def test_only_prometheus_measures_loss_by_a_query(name: str, silent: bool) -> None:
    """A scrape cannot use a query, so without a counter it still warns."""
    signal = replace(settings(name), lost="", prometheus=Prometheus(queries={"lost": "sum by ($by) (x)"}))
    keys = [key for key, _ in source_class(name).warnings(signal)]
    assert ("signal.lost" not in keys) == silent
