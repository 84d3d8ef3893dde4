"""Missing probes and coarse buckets are reported before the install, with the remedy."""

import pytest

from schemas.config import Config
from services.runtime.config_loader import parse
from services.tools.check.signal_advice import explain_coarse_buckets, suggest_probes

YAML = """
domains:
  - name: floor
    critical: [{workload: robot-control, namespace: factory}]
    targets: [{deployment: telemetry-upload, namespace: factory, min: 1M, max: 100M, fail_safe: 10M}]
"""


def config(more: str = "") -> Config:
    """A configuration with more sections."""
    return parse(YAML + more, "test.yaml", {})


def test_without_a_probe_the_sidecar_is_advised() -> None:
    """Long-lived flows open no connections: the advice names the command and the rate."""
    [advice] = suggest_probes(config())
    assert "factory/robot-control" in advice
    assert "sluice echo" in advice
    assert "at least 60 a second" in advice


def test_a_probe_that_is_too_slow_is_named() -> None:
    """The rate must fill the window."""
    slow = "exporter: {probes: [{workload: robot-control, namespace: factory, address: a, rate: 10}]}\n"
    [advice] = suggest_probes(config(slow))
    assert "24 observations" in advice
    assert suggest_probes(config(slow.replace("rate: 10", "rate: 100"))) == []


def test_probes_that_are_just_enough_on_average_are_too_slow() -> None:
    """100 UDP and 2 TCP a second for 100 in each second: a fifth of the windows has fewer."""
    probed = "exporter: {probes: [{workload: robot-control, namespace: factory, address: a, rate: 100}]}\n"
    [advice] = suggest_probes(config(probed + "signal: {window: 1s}\n"))
    assert "its probe gives 102 observations per window of 1 s" in advice
    assert advice.endswith("raise its rate to at least 120 a second")
    assert suggest_probes(config(probed.replace("100", "120") + "signal: {window: 1s}\n")) == []


@pytest.mark.parametrize(
    ("matchers", "enough"),
    [
        ("{source: handshake}", False),
        ("{locality: local}", False),
        ("{peer: somebody-else}", False),
        ("{protocol: tcp}", False),
        ("{source: probe, protocol: udp, locality: remote}", True),
        ("{job: sluice-exporter}", True),
    ],
)
def test_probes_that_the_signal_leaves_out_do_not_count(matchers: str, enough: bool) -> None:
    """The sampler would not see them; labels that a Prometheus adds exclude nothing."""
    probed = "exporter: {probes: [{workload: robot-control, namespace: factory, address: a}], relay: {}}\n"
    assert (suggest_probes(config(f"{probed}signal: {{matchers: {matchers}}}\n")) == []) == enough


def test_the_advice_names_the_matchers_that_leave_probes_out() -> None:
    """A second sidecar is not needed."""
    probed = "exporter: {probes: [{workload: robot-control, namespace: factory, address: a}], relay: {}}\n"
    [advice] = suggest_probes(config(f"{probed}signal: {{matchers: {{source: handshake}}}}\n"))
    assert "blind unless it opens at least that many connections" in advice
    assert "left out by signal.matchers" in advice


@pytest.mark.parametrize("preset", ["netobserv", "obi", "cilium-health"])
def test_exporters_of_others_have_advice_of_their_own(preset: str) -> None:
    """Each has other blind spots."""
    [advice] = suggest_probes(config(f"signal: {{preset: {preset}}}\n"))
    assert preset in advice


def test_coarse_presets_and_coarse_buckets_of_ours() -> None:
    """NetObserv's first bucket is 5 ms, OBI's around 2 ms is 1 ms wide; ours are checked when they are configured."""
    assert len(explain_coarse_buckets(config("signal: {preset: netobserv}\n"))) == 2
    obi = explain_coarse_buckets(config("signal: {preset: obi}\n"))
    assert len(obi) == 2
    assert "with the buckets that obi comes with" in obi[0]
    assert "the bucket from 1 to 2 ms" in obi[0]
    assert explain_coarse_buckets(config("signal: {preset: netobserv, metric: workload_rtt_fine_seconds}\n")) == []
    assert len(explain_coarse_buckets(config("exporter: {buckets: [0.001, 0.01]}\n"))) == 2
    assert explain_coarse_buckets(config()) == []
