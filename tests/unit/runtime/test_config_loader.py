"""One file for all services: what is wrong with it is said with the place and what is allowed there."""

from pathlib import Path

import pytest

from schemas.config import Config
from services.runtime.config_loader import ConfigError, as_person, load, parse

TARGET = "{deployment: upload, min: 5M, max: 80M, fail_safe: 10M}"
GOOD = f"""
domains:
  - name: line
    critical: [{{workload: robot}}]
    targets: [{TARGET}]
"""


def test_a_short_file_is_enough() -> None:
    """Everything but the domains has a default."""
    config = parse(GOOD, "f", {})
    assert isinstance(config, Config)
    assert config.domains[0].targets[0].max == 80_000
    assert config.bus.servers == ("nats://127.0.0.1:4222",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["f: expected a mapping with 'domains', got NoneType"]),
        ("- a", ["expected a mapping with 'domains', got list"]),
        ("domains: [", ["f: line 2, column 1: did not find"]),
        ("domains: \x00", ["f: not YAML: unacceptable character"]),
        ("domains: []", ["at least one is needed"]),
        ("bus: {}", ["missing required field `domains`"]),
        (
            GOOD + "dommains: []",
            ["unknown field `dommains`", "did you mean `domains`?", "allowed: domains, bus, signal"],
        ),
        (GOOD + "bus: {server: x}", ["`$.bus`", "did you mean `servers`?", "credentials"]),
        (GOOD + "bus: {servers: nats://a}", ["Expected `array`, got `str`", "`$.bus.servers`"]),
        (GOOD + "bus: {servers: [localhost]}", ["'localhost' is no address: expected nats://HOST:PORT", "`$.bus`"]),
        (GOOD + "bus: {prefix: A.B}", ["bus prefix 'A.B': expected lowercase letters"]),
        (GOOD + "bus: {keep: 5}", ["expected a quoted duration such as 500ms, got 5", "`$.bus.keep`"]),
        (GOOD + "bus: {replicas: 9}", ["replicas 9 is outside 1 to 5"]),
        (GOOD + "bus: {user: a, credentials: b}", ["only one of the two"]),
        (GOOD + "bus: {certificate: a}", ["certificate, key: both are needed"]),
        (GOOD + "bus: {keep_bytes: 5}", ["keep_bytes 5 is below"]),
        (GOOD + "bus: {servers: []}", ["servers: at least one is needed"]),
        (GOOD + "signal: {source: grafana}", ["'grafana'", "`$.signal.source`", "allowed: prometheus, scrape"]),
        (GOOD + "signal: {period: 300ms}", ["window 2s is not a whole number of periods of 300ms"]),
        (GOOD + "signal: {scrape: {urls: []}}", ["urls: at least one is needed", "`$.signal.scrape`"]),
        (GOOD + "signal: {scrape: {urls: [exporter:9965]}}", ["'exporter:9965' is no address: expected http://"]),
        (GOOD + "signal: {prometheus: {url: ''}}", ["url: '' is no address", "`$.signal.prometheus`"]),
        (GOOD + "kubernetes: {server: 'https://'}", ["server: 'https://' is no address"]),
        (GOOD + "listen: {decision: 70000}", ["decision 70000 is outside 0 to 65535", "`$.listen`"]),
        (GOOD + "    min_observations: 0", ["min_observations 0 is below 1"]),
        (GOOD.replace("deployment: upload", "deployment: a/b"), ["target: 'a/b' is no name of a Kubernetes object"]),
        (GOOD.replace("workload: robot", "workload: ''"), ["critical workload: '' is no name"]),
        (GOOD + "signal: {period: 1ns}", ["period 1ns is below 10ms", "`$.signal`"]),
        (GOOD + "signal: {window: 2h}", ["window 2h is outside 10ms to 1h"]),
        (GOOD + "signal: {source: prometheus}", ["below four scrape intervals of 1s"]),
        (GOOD + "log: loud", ["`$.log`", "allowed: debug, error, info, warning"]),
        (GOOD + "log: info\nlog: debug", ["'log' stands here twice", "line 7, column 1"]),
        (GOOD + "bus: {prefix: {{ .Values.prefix }}}", ["line 6, column 16: a key has to be a name"]),
        (GOOD + "log: 2026-13-45", ["line 6, column 6: '2026-13-45' is no timestamp"]),
        (GOOD + "log: !!int x", ["line 6, column 6: 'x' is no int"]),
        (GOOD + "bus: !!map x", ["line 6, column 6: expected a mapping node, but found scalar"]),
        (
            GOOD.replace("5M", "5MB"),
            ["'5MB' is not a rate: expected bit/s such as 50M", "- at `$.domains[0].targets[0].min`"],
        ),
        (GOOD.replace("min: 5M", "min: 50"), ["expected a quoted rate such as 50M, got 50"]),
        (GOOD.replace("min: 5M", "min: 20M"), ["target default/upload: expected min <= fail_safe <= max, got min 20M"]),
        (GOOD.replace("fail_safe", "failsafe"), ["unknown field `failsafe`", "did you mean `fail_safe`?"]),
        (GOOD.replace(", fail_safe: 10M", ""), ["missing required field `fail_safe`", "`$.domains[0].targets[0]`"]),
        (GOOD.replace("10M}", "10M, weight: 0}"), ["weight 0 is outside 1 to 1000"]),
        (GOOD.replace("10M}", "10M, scope: pod}"), ["`$.domains[0].targets[0].scope`", "aggregate, per-pod"]),
        (GOOD + "    policy: magic", ["domain 'line': no policy 'magic'; there are", "proportional"]),
        (GOOD + "    parameters: {k: 1}", ["domain 'line': policy 'learned'", "unknown field `k`"]),
        (GOOD + "    dead_man: 1s", ["dead_man 1s is below three signal periods of 500ms"]),
        (GOOD + "    shield: {cut: 2}", ["cut 2.0 is outside 0.05 to 0.95", "shield`"]),
        (GOOD + "    parameters: {margin: 2}", ["policy 'learned': margin 2.0 is outside 0 to 1"]),
        (GOOD + "    parameters: {knee: {rest: .nan}}", ["rest nan is outside 0 to 86400", "`$.knee`"]),
        (GOOD + "    shield: {rise_per_second: 0.05, deadband: 0.1}", ["no rise would ever be large enough"]),
        (GOOD + GOOD.replace("domains:\n", ""), ["domain named twice: line"]),
        (GOOD + "    targets: []", ["'targets' stands here twice"]),
        (GOOD.replace(f"[{TARGET}]", "[]"), ["needs at least one critical workload and one target"]),
        (GOOD.replace(f"[{TARGET}]", f"[{TARGET}, {TARGET}]"), ["target named twice: default/upload"]),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, expected: list[str]) -> None:
    """File, path, what was found and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "f", {})
    assert str(caught.value).startswith("f: ")
    for fragment in expected:
        assert fragment in str(caught.value)


def test_two_domains_cannot_share_a_target() -> None:
    """Two controllers on one limit would fight."""
    with pytest.raises(ConfigError, match="target named twice: default/upload"):
        parse(GOOD + GOOD.replace("domains:\n", "").replace("line", "other"), "f", {})


def test_addresses_and_credentials_come_from_the_environment() -> None:
    """Where they are set, they win over the file; an empty variable does not count."""
    environment = {
        "SLUICE_NATS_URL": "nats://a:1, tls://b:2",
        "SLUICE_NATS_USER": "decision",
        "SLUICE_BUS_PREFIX": "trial",
        "SLUICE_LOG": "debug",
        "KUBECONFIG": "",
    }
    config = parse(GOOD + "bus: {prefix: other, replicas: 3}", "f", environment)
    assert config.bus.servers == ("nats://a:1", "tls://b:2")
    assert (config.bus.user, config.bus.prefix, config.bus.replicas) == ("decision", "trial", 3)
    assert config.log == "debug"
    assert config.kubernetes.kubeconfig is None


def test_an_override_is_checked_like_the_file() -> None:
    """And it does not hide that the file is wrong beside it."""
    with pytest.raises(ConfigError, match="'a:1' is no address"):
        parse(GOOD, "f", {"SLUICE_NATS_URL": "a:1"})
    with pytest.raises(ConfigError, match=r"Expected `object`, got `int` - at `\$.bus`"):
        parse(GOOD + "bus: 5", "f", {"SLUICE_NATS_USER": "x"})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, a folder, or not text."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.yaml", tmp_path, binary):
        with pytest.raises(ConfigError, match=f"{path}: cannot be read"):
            load(path)


def test_what_is_loaded_is_what_was_parsed(tmp_path: Path) -> None:
    """Moving a configuration to memory of its own loses nothing: units, free parameters, empty values."""
    text = f"""
bus: {{servers: [nats://a:4222, nats://b:4222], user: x, keep: 90m, replicas: 3}}
signal: {{period: 250ms, window: 1s, labels: {{workload: ""}}, matchers: {{direction: egress}}}}
kubernetes: {{dry_run: true, timeout: 1500ms}}
domains:
  - name: line
    critical: [{{workload: robot, jitter: 1500us, p95: 3ms}}]
    targets: [{TARGET}]
    policy: proportional
    parameters: {{k_up: 0.25}}
    shadow: [static]
    capacity: 1G
    shield: {{cut: 0.3, settle: 700ms}}
"""
    path = tmp_path / "sluice.yaml"
    path.write_text(text, encoding="utf-8")
    assert load(path, {}) == parse(text, "f", {})


def test_a_person_need_not_name_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubectl's own file counts, unless the file or the environment says otherwise, or it runs in a Pod."""
    monkeypatch.setenv("HOME", str(tmp_path))
    config = parse(GOOD, "f", {})
    assert as_person(config, {}) == config, "there is no such file"
    usual = tmp_path / ".kube" / "config"
    usual.parent.mkdir()
    usual.write_text("{}")
    assert as_person(config, {}).kubernetes.kubeconfig == str(usual)
    assert as_person(config, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}) == config
    for told in ({"KUBECONFIG": "/my/own"}, {"SLUICE_KUBERNETES_URL": "http://127.0.0.1:8001"}):
        assert as_person(parse(GOOD, "f", told), {}) == parse(GOOD, "f", told)
