"""The plants' metrics page, read by the sampler's parser."""

import urllib.error
import urllib.request

import pytest

from schemas.config import Signal
from services.plant.harness.metrics_page import MetricsPage
from services.plant.scenario import SCENARIOS
from services.plant.simulated.plant import SimulatedPlant
from services.plant.simulated.realtime import RealtimePlant
from services.plant.topology import ROBOT, SCANNER, TELEMETRY
from services.sampler.scrape.parser import PageReader
from services.sampler.workloads import Workloads, metric_names


def test_the_sampler_finds_every_workload_on_the_page() -> None:
    """It has latency and loss of critical workloads and bytes of all, for two plants on one page."""
    scenario = SCENARIOS["steady"]
    twin = scenario.move_to("twin")
    models = [SimulatedPlant.for_apps(one.apps) for one in (scenario, twin)]
    for model in models:
        model.advance(3 * 10**9)
    plants = [RealtimePlant(model) for model in models]
    with MetricsPage(plants) as page, urllib.request.urlopen(page.url) as answer:
        body = answer.read()
    critical = [ROBOT, SCANNER, "twin/robot-control", "twin/safety-scanner"]
    targets = [TELEMETRY, "twin/telemetry-upload"]
    read = PageReader(Workloads(metric_names(Signal()), critical, targets)).read(body)
    assert not read.faults
    found = {(series.kind, series.workload) for series in read.counters}
    assert {("latency", one) for one in critical} <= found
    assert {("lost", one) for one in critical} <= found
    assert {("throughput", one) for one in (*critical, *targets)} <= found
    counts = next(value for series, value in read.counters.items() if series.kind == "latency")
    assert counts[-1] > 200


def test_a_blind_page_has_a_reason() -> None:
    """A scenario's outage is an error with a reason for the scraper."""
    with MetricsPage([]) as page:
        page.blind = "the exporter does not answer"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(page.url)
        assert caught.value.code == 503
        assert caught.value.read() == b"the exporter does not answer\n"
        caught.value.close()
        page.blind = ""
        with urllib.request.urlopen(page.url) as answer:
            assert answer.status == 200
