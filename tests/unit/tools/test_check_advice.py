"""The advice of `sluice check` on a configuration without any request."""

import cProfile

import msgspec
import pytest

from schemas.config import Config, Prometheus, Signal
from schemas.domain import Critical, Domain, Target
from schemas.exporter import Exporter, Probe
from schemas.messages import CriticalMeasure
from schemas.units import Duration, Rate, decode_unit
from services.common.histogram import BOUNDS
from services.sampler.source import LatencyStats, Measurements
from services.sampler.source_factory import source_class
from services.tools.check.advice import advise
from services.tools.check.connectivity import check_workload
from services.tools.check.sizing import estimate_memory

S = 10**9
TARGET = Target(deployment="upload", min=Rate(10), max=Rate(100), fail_safe=Rate(20))
PROBED = Exporter(probes=(Probe(workload="robot", address="robot.default.svc"),))


def config(signal: Signal | None = None, domain: Domain | None = None, exporter: Exporter = PROBED) -> Config:
    """A configuration without findings, except for the given part."""
    usual = Domain(name="cell", critical=(Critical(workload="robot"),), targets=(TARGET,))
    return Config(domains=(domain or usual,), signal=signal or Signal(), exporter=exporter)


def test_a_sound_configuration_gives_no_advice() -> None:
    """There is no warning without a cause."""
    assert advise(config(), measured=False) == []


@pytest.mark.parametrize(
    ("signal", "where", "what"),
    [
        (Signal(window=Duration(10 * S)), "signal.window", "up to 10.0 s late"),
        (
            Signal(
                source="prometheus",
                window=Duration(60 * S),
                prometheus=Prometheus(scrape_interval=Duration(15 * S)),
            ),
            "signal.prometheus.scrape_interval",
            "unseen for 18.5 s",
        ),
        (Signal(lost=""), "signal.lost", "nothing measures loss"),
        (Signal(unit="ms"), "signal.unit", "the name hubble_flow_latency_seconds says s"),
        (Signal(metric="rtt_milliseconds"), "signal.unit", "s, and the name rtt_milliseconds says ms"),
        (Signal(throughput=""), "signal.throughput", "reduced form"),
        (Signal(preset="obi", lost="x"), "exporter", "long-lived connections give nothing"),
        (Signal(preset="netobserv", lost="x"), "buckets", "netobserv comes with, the SLO of 2 ms"),
    ],
)
def test_unwise_signals_are_reported(signal: Signal, where: str, what: str) -> None:
    """The warning names the setting and its cost."""
    findings = {finding.where: finding for finding in advise(config(signal), measured=False)}
    assert what in findings[where].what
    assert findings[where].level == "warning"


def test_measured_workloads_get_no_advice() -> None:
    """If every workload is measured, no advice to enable a feature is needed."""
    blind = config(exporter=Exporter())
    assert "blind unless it is probed" in advise(blind, measured=False)[0].what
    assert advise(blind, measured=True) == []


def test_unwise_domains_are_reported() -> None:
    """Too few observations for a P95, and a dead-man time that is too short."""
    domain = Domain(
        name="cell",
        critical=(Critical(workload="robot"),),
        targets=(TARGET,),
        min_observations=20,
        dead_man=Duration(3 * S // 2),
    )
    findings = {finding.where.partition(": ")[2]: finding for finding in advise(config(domain=domain), measured=False)}
    assert "1.4 to 2.8 ms" in findings["min_observations"].what
    assert "one slow answer" in findings["dead_man"].what


@pytest.mark.parametrize(("count", "warned"), [(500, False), (700, True)])
def test_more_targets_than_fit_into_the_memory_limit(count: int, warned: bool) -> None:
    """500 targets of ten Pods fit, and the estimate is not below what was measured."""
    targets = tuple(
        Target(deployment=f"upload-{number}", min=Rate(10), max=Rate(100), fail_safe=Rate(20))
        for number in range(count)
    )
    found = advise(
        config(domain=Domain(name="cell", critical=(Critical(workload="robot"),), targets=targets)), measured=True
    )
    assert [one.where for one in found] == ["targets"] * warned
    assert estimate_memory(500, 5_000) >= 74
    assert estimate_memory(1, 5_000) >= 59


def test_a_check_takes_time_in_proportion() -> None:
    """Twenty times as many targets take about twenty times as many calls, and not four hundred times."""

    def count_calls(domains: int) -> int:
        tree = {
            "domains": [
                {
                    "name": f"d{name}",
                    "critical": [{"workload": f"w{name}"}],
                    "targets": [
                        {"deployment": f"t{name}-{number}", "min": "1M", "max": "9M", "fail_safe": "2M"}
                        for number in range(10)
                    ],
                }
                for name in range(domains)
            ]
        }
        profile = cProfile.Profile()
        profile.runcall(lambda: advise(msgspec.convert(tree, Config, dec_hook=decode_unit), measured=False))
        return sum(one.callcount for one in profile.getstats())

    assert count_calls(400) < 25 * count_calls(20)


def test_lag_adds_up_what_a_step_waits_for() -> None:
    """A twentieth of the window to appear, the rest of it to disappear, and the waits in between."""
    scrape = source_class("scrape").lag(Signal(period=Duration(S // 4), window=Duration(2 * S)))
    assert (scrape.appears, scrape.vanishes) == pytest.approx((0.35, 2.15))
    prometheus = source_class("prometheus").lag(Signal(source="prometheus", period=Duration(S), window=Duration(4 * S)))
    assert (prometheus.appears, prometheus.vanishes) == pytest.approx((2.2, 5.8))


@pytest.mark.parametrize(("observations", "level"), [(99, "error"), (102, "warning"), (120, None)])
def test_a_window_with_just_enough_is_reported(observations: int, level: str | None) -> None:
    """One measured window does not prove the next."""
    robot = Critical(workload="robot")
    measure = CriticalMeasure(robot.key, jitter=0.001, p95=0.0015, observations=observations, lost=0.0, throughput=1)
    measured = Measurements(10, {robot.key: LatencyStats(bounds=BOUNDS)}, {})
    found = [finding.level for finding in check_workload(robot, measure, measured, 100)]
    assert found == [level] * (level is not None)
