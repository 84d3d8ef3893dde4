"""Blindness is noticed and named before and after install, and so are buckets that are too coarse."""

from types import SimpleNamespace

import pytest

from schemas.config import Config
from services.exporter.coverage import Blindness, coarse_preset, what_to_switch_on
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
    """The reason counts them; it goes when enough come, and returns when they stop."""
    counted = SimpleNamespace(observations={"factory/robot-control": 0})
    blindness = Blindness(config(), counted)
    assert blindness.look(0.0) == "blind: factory/robot-control: 0 observations, 100 needed"
    for step in range(1, 6):
        counted.observations["factory/robot-control"] += 50
        last = blindness.look(step * 0.5)
    assert last is None
    assert blindness.look(2.6) is None
    assert blindness.look(4.6) == "blind: factory/robot-control: 0 observations, 100 needed"


def test_without_a_probe_the_sidecar_is_advised() -> None:
    """On long-lived flows nothing opens connections: the advice says what to run and at which rate."""
    [advice] = what_to_switch_on(config())
    assert "factory/robot-control" in advice
    assert "sluice echo" in advice
    assert "at least 60 a second" in advice


def test_a_probe_that_is_too_slow_is_named() -> None:
    """The rate must fill the window."""
    slow = "exporter: {probes: [{workload: robot-control, namespace: factory, address: a, rate: 10}]}\n"
    [advice] = what_to_switch_on(config(slow))
    assert "24 observations" in advice
    assert what_to_switch_on(config(slow.replace("rate: 10", "rate: 100"))) == []


def test_probes_that_are_just_enough_on_average_are_too_slow() -> None:
    """100 UDP and 2 TCP a second for 100 in each second: a fifth of the windows has fewer."""
    probed = "exporter: {probes: [{workload: robot-control, namespace: factory, address: a, rate: 100}]}\n"
    [advice] = what_to_switch_on(config(probed + "signal: {window: 1s}\n"))
    assert "its probe gives 102 observations per window of 1 s" in advice
    assert advice.endswith("raise its rate to at least 120 a second")
    assert what_to_switch_on(config(probed.replace("100", "120") + "signal: {window: 1s}\n")) == []


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
    """The sampler would not see them; labels that a Prometheus adds leave nothing out."""
    probed = "exporter: {probes: [{workload: robot-control, namespace: factory, address: a}], relay: {}}\n"
    assert (what_to_switch_on(config(f"{probed}signal: {{matchers: {matchers}}}\n")) == []) == enough


def test_the_advice_names_the_matchers_that_leave_probes_out() -> None:
    """Nobody needs a second sidecar."""
    probed = "exporter: {probes: [{workload: robot-control, namespace: factory, address: a}], relay: {}}\n"
    [advice] = what_to_switch_on(config(f"{probed}signal: {{matchers: {{source: handshake}}}}\n"))
    assert "blind unless it opens at least that many connections" in advice
    assert "left out by signal.matchers" in advice


@pytest.mark.parametrize("preset", ["netobserv", "obi", "cilium-health"])
def test_exporters_of_others_have_advice_of_their_own(preset: str) -> None:
    """Each is blind in its own way."""
    [advice] = what_to_switch_on(config(f"signal: {{preset: {preset}}}\n"))
    assert preset in advice


def test_coarse_presets_and_coarse_buckets_of_ours() -> None:
    """NetObserv's first bucket is 5 ms, OBI's around 2 ms is 1 ms wide; ours are checked when they are configured."""
    assert len(coarse_preset(config("signal: {preset: netobserv}\n"))) == 2
    obi = coarse_preset(config("signal: {preset: obi}\n"))
    assert len(obi) == 2
    assert "with the buckets that obi comes with" in obi[0]
    assert "the bucket from 1 to 2 ms" in obi[0]
    assert coarse_preset(config("signal: {preset: netobserv, metric: workload_rtt_fine_seconds}\n")) == []
    assert len(coarse_preset(config("exporter: {buckets: [0.001, 0.01]}\n"))) == 2
    assert coarse_preset(config()) == []


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
        ("pairing: {entries: 1}", "16 entries"),
        ("relay: {adress: a}", "adress"),
    ],
)
def test_wrong_settings_are_refused_with_their_reason(section: str, why: str) -> None:
    """The error names what is wrong and where."""
    with pytest.raises(ConfigError, match=why):
        config(f"exporter: {{{section}}}\n")
