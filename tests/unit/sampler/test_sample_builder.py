"""From measurements to one domain's sample."""

from schemas.domain import Critical, Domain, Target
from schemas.messages import CriticalMeasure, TargetMeasure
from schemas.units import Duration, Rate
from services.common.histogram import BOUNDS
from services.sampler.sample_builder import blind, empty_sample, sample_of
from services.sampler.source import Latencies, Measurements

DOMAIN = Domain(
    name="cell",
    critical=(Critical(workload="robot"),),
    targets=(Target(deployment="upload", min=Rate(1), max=Rate(10), fail_safe=Rate(5)),),
)
DEFAULT_BUCKETS_OF_GO = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


def measured(latencies: Latencies) -> Measurements:
    """The robot's latencies, and what both workloads sent."""
    sent = {"default/robot": 200, "default/upload": 7000}
    return Measurements(10, {"default/robot": latencies}, sent, pods={"default/robot": 1, "default/upload": 3})


def test_a_sample_holds_what_was_measured() -> None:
    """Latency, loss and throughput of the domain's workloads, and nobody else's."""
    found = Latencies(jitter=0.001, p95=0.0015, observations=120, lost=2.0, bounds=BOUNDS)
    sample = sample_of(DOMAIN, 30, 5, "scrape", measured(found))
    assert (sample.id, sample.start, sample.end, sample.period, sample.source) == ("cell:30", 10, 30, 5, "scrape")
    assert sample.critical == (
        CriticalMeasure("default/robot", jitter=0.001, p95=0.0015, observations=120, lost=2.0, throughput=200),
    )
    assert sample.targets == (TargetMeasure("default/upload", 7000, pods=3),)
    assert blind(DOMAIN, sample) is None


def test_what_is_missing_is_said_with_its_reason() -> None:
    """A loss is told even where latency is not known."""
    sample = sample_of(DOMAIN, 30, 5, "scrape", measured(Latencies(lost=1.0, missing="exporter away")))
    (critical,) = sample.critical
    assert (critical.jitter, critical.p95, critical.lost) == (None, None, 1.0)
    assert blind(DOMAIN, sample) == "default/robot: exporter away"


def test_a_workload_that_no_source_spoke_of_is_missing() -> None:
    """Left out is not the same as good."""
    sample = sample_of(DOMAIN, 30, 5, "scrape", Measurements(10, {}, {}))
    assert blind(DOMAIN, sample) == "default/robot: not measured"


def test_too_few_observations_are_told_with_their_number() -> None:
    """The figures stay in the sample; control and /readyz say that they are too few."""
    few = sample_of(DOMAIN, 30, 5, "scrape", measured(Latencies(jitter=0.1, p95=0.2, observations=99)))
    assert few.critical[0].p95 == 0.2
    assert blind(DOMAIN, few) == "default/robot: blind: 99 observations, 100 needed"


def test_a_window_of_which_nothing_is_known_says_why() -> None:
    """It keeps its id, so that it takes its place in the order of samples."""
    sample = empty_sample(DOMAIN, 10, 30, 5, "scrape", "connection refused")
    assert (sample.id, sample.critical, sample.no_data) == ("cell:30", (), "connection refused")
    assert blind(DOMAIN, sample) == "connection refused"


def test_coarse_buckets_make_a_figure_missing() -> None:
    """A P95 out of Go's default buckets would be made up: they begin at 5 ms."""
    found = Latencies(jitter=0.001, p95=0.0015, observations=120, bounds=DEFAULT_BUCKETS_OF_GO)
    (critical,) = sample_of(DOMAIN, 30, 5, "scrape", measured(found)).critical
    assert critical.p95 is None
    assert critical.missing == (
        "buckets too coarse for P95: the SLO of 2 ms lies in the bucket from 0 to 5 ms: "
        "a quantile there can be off by 250% of the SLO"
    )


def test_each_slo_is_looked_at() -> None:
    """Buckets may do for one figure and not for the other."""
    domain = Domain(
        name="cell",
        critical=(Critical(workload="robot", jitter=Duration(2_000_000), p95=Duration(10_000_000)),),
        targets=DOMAIN.targets,
    )
    found = Latencies(jitter=0.001, p95=0.0015, observations=120, bounds=DEFAULT_BUCKETS_OF_GO)
    (critical,) = sample_of(domain, 30, 5, "scrape", measured(found)).critical
    assert str(critical.missing).startswith("buckets too coarse for jitter: the SLO of 2 ms lies in the bucket from 0")
