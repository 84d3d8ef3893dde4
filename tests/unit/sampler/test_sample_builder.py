"""From measurements to one domain's sample."""

from schemas.config import Signal
from schemas.domain import Critical, Domain, Target
from schemas.messages import CriticalMeasure, TargetMeasure
from schemas.units import Duration, Rate
from services.common.histogram import BOUNDS
from services.sampler.loop import build_sample, explain_blindness
from services.sampler.source import LatencyStats, Measurements

DOMAIN = Domain(
    name="cell",
    critical=(Critical(workload="robot"),),
    targets=(Target(deployment="upload", min=Rate(1), max=Rate(10), fail_safe=Rate(5)),),
)
SIGNAL = Signal(period=Duration(10**7), window=Duration(2 * 10**7))
DEFAULT_BUCKETS_OF_GO = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


def measure(stats: LatencyStats) -> Measurements:
    """The robot's latencies, and the throughput of both workloads."""
    throughput = {"default/robot": 200, "default/upload": 7000}
    return Measurements(10, {"default/robot": stats}, throughput, pods={"default/robot": 1, "default/upload": 3})


def test_a_sample_holds_what_was_measured() -> None:
    """Latency, loss and throughput of the domain's workloads only."""
    stats = LatencyStats(jitter=0.001, p95=0.0015, observations=120, lost=2.0, bounds=BOUNDS)
    sample = build_sample(DOMAIN, SIGNAL, 30, measure(stats))
    assert (sample.id, sample.start, sample.end, sample.period, sample.source) == ("cell:30", 10, 30, 10**7, "scrape")
    assert sample.critical == (
        CriticalMeasure("default/robot", jitter=0.001, p95=0.0015, observations=120, lost=2.0, throughput=200),
    )
    assert sample.targets == (TargetMeasure("default/upload", 7000, pods=3),)
    assert explain_blindness(DOMAIN, sample) is None


def test_missing_latency_has_a_reason() -> None:
    """A loss is reported even without a latency."""
    sample = build_sample(DOMAIN, SIGNAL, 30, measure(LatencyStats(lost=1.0, missing="exporter away")))
    (critical,) = sample.critical
    assert (critical.jitter, critical.p95, critical.lost) == (None, None, 1.0)
    assert explain_blindness(DOMAIN, sample) == "default/robot: exporter away"


def test_an_unmeasured_workload_is_missing() -> None:
    """A missing measurement is not a good one."""
    sample = build_sample(DOMAIN, SIGNAL, 30, Measurements(10, {}, {}))
    assert explain_blindness(DOMAIN, sample) == "default/robot: not measured"


def test_too_few_observations_are_counted() -> None:
    """The figures stay in the sample; control and /readyz report that they are too few."""
    few = build_sample(DOMAIN, SIGNAL, 30, measure(LatencyStats(jitter=0.1, p95=0.2, observations=99)))
    assert few.critical[0].p95 == 0.2
    assert explain_blindness(DOMAIN, few) == "default/robot: blind: 99 observations, 100 needed"


def test_coarse_buckets_make_a_figure_missing() -> None:
    """A P95 from Go's default buckets would be invented: they begin at 5 ms."""
    stats = LatencyStats(jitter=0.001, p95=0.0015, observations=120, bounds=DEFAULT_BUCKETS_OF_GO)
    (critical,) = build_sample(DOMAIN, SIGNAL, 30, measure(stats)).critical
    assert critical.p95 is None
    assert critical.missing == (
        "buckets too coarse for P95: the SLO of 2 ms lies in the bucket from 0 to 5 ms: "
        "a quantile there can be off by 250% of the SLO"
    )


def test_each_slo_is_checked() -> None:
    """Buckets may be fine enough for one figure and not for another."""
    domain = Domain(
        name="cell",
        critical=(Critical(workload="robot", jitter=Duration(2_000_000), p95=Duration(10_000_000)),),
        targets=DOMAIN.targets,
    )
    stats = LatencyStats(jitter=0.001, p95=0.0015, observations=120, bounds=DEFAULT_BUCKETS_OF_GO)
    (critical,) = build_sample(domain, SIGNAL, 30, measure(stats)).critical
    assert str(critical.missing).startswith("buckets too coarse for jitter: the SLO of 2 ms lies in the bucket from 0")
