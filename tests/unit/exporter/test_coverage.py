"""Too few observations are reported, and wrong settings of the exporter are refused."""

from types import SimpleNamespace

import pytest

from schemas.config import Config
from services.exporter.coverage import CoverageMonitor
from services.runtime.config_loader import ConfigError, parse

YAML = """
domains:
  - name: floor
    critical: [{workload: robot-control, namespace: factory}]
    targets: [{deployment: telemetry-upload, namespace: factory, min: 1M, max: 100M, fail_safe: 10M}]
"""


def config(more: str = "") -> Config:
    """A configuration with more sections."""
    return parse(YAML + more, "test.yaml", {})


def test_too_few_observations_in_the_window_are_blind() -> None:
    """The reason has their number; it clears when enough arrive, and returns when they stop."""
    counted = SimpleNamespace(observations={"factory/robot-control": 0})
    monitor = CoverageMonitor(config(), counted)
    assert monitor.check(0.0) == "blind: factory/robot-control: 0 observations, 100 needed"
    for step in range(1, 6):
        counted.observations["factory/robot-control"] += 50
        last = monitor.check(step * 0.5)
    assert last is None
    assert monitor.check(2.6) is None
    assert monitor.check(4.6) == "blind: factory/robot-control: 0 observations, 100 needed"


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ("probes: [{workload: robot-control, namespace: factory, address: a, tcp: 5201}]", "iperf3"),
        ("probes: [{workload: other, address: a}]", "not critical"),
        ("probes: [{workload: robot-control, namespace: factory, address: a, udp: null, tcp: null}]", "neither"),
        ("probes: [{workload: robot-control, namespace: factory, address: a, rate: 0}]", "rate"),
        ("probes: [{workload: robot-control, namespace: factory, address: a, size: 10}]", "size"),
        ("relay: {tls: {certificate: a}}", "go together"),
        ("buckets: [0.002, 0.001]", "ascend"),
        ("buckets: []", "ascend"),
        ("peers: 0", "peers"),
        ("pairing: {entries: 1}", "below 16"),
        ("relay: {adress: a}", "adress"),
    ],
)
def test_wrong_settings_are_refused_with_their_reason(section: str, why: str) -> None:
    """The error names what is wrong and where."""
    with pytest.raises(ConfigError, match=why):
        config(f"exporter: {{{section}}}\n")
