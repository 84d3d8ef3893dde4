"""One file for all services: each mistake is reported with its place and the allowed values."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from schemas.config import Config, Signal
from services.runtime.config_loader import ConfigError, load, parse, with_default_kubeconfig

TARGET = "{deployment: upload, min: 5M, max: 80M, fail_safe: 10M}"
GOOD = f"""
domains:
  - name: line
    critical: [{{workload: robot}}]
    targets: [{TARGET}]
"""

SOURCES = ", ".join(get_args(get_type_hints(Signal)["source"]))

FULL = (
    GOOD
    + """
    policy: learned
    parameters: {margin: 0.01, knee: {}}
    shield: {cut: 0.3, settle: 700ms}
bus: {servers: [nats://a:4222], keep: 90m, replicas: 3}
signal: {period: 250ms, window: 1s, labels: {workload: x}, prometheus: {url: http://a, queries: {lost: x}}}
exporter: {relay: {tls: {ca: x}, exclude_ports: [53]}, probes: [{workload: robot, address: x}], buckets: [0.1, 0.2]}
kubernetes: {dry_run: true, timeout: 1500ms}
listen: {decision: 0}
"""
)


def test_a_short_file_is_enough() -> None:
    """Everything except the domains has a default."""
    config = parse(GOOD, "f", {})
    assert isinstance(config, Config)
    assert config.domains[0].targets[0].max == 80_000
    assert config.bus.servers == ("nats://127.0.0.1:4222",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f: expected a mapping with the key 'domains'"),
        ("- a", "f: expected a mapping with the key 'domains'"),
        ("domains: [", "f:2:1: did not find"),
        ("domains: \x00", "f: not YAML: unacceptable character"),
        (
            "domains: []\nkubernetes: {resources: {enabled: false}}",
            "f:1:1: domains: at least one is needed, since kubernetes.resources is not enabled",
        ),
        ("bus: {}", "f:1:1: the key 'domains' is missing"),
        (GOOD + "dommains: []", "f:6:1: dommains: unknown key; did you mean 'domains'? (allowed: domains, bus, signal"),
        (
            GOOD + "bus: {server: x}",
            "f:6:7: bus.server: unknown key; did you mean 'servers'? (allowed: servers, prefix",
        ),
        (GOOD + "bus: {servers: nats://a}", "f:6:7: bus.servers: expected a list, got 'nats://a'"),
        (
            GOOD + "bus: {servers: [localhost]}",
            "f:6:7: bus.servers: 'localhost' is no address: expected nats://HOST:PORT",
        ),
        (GOOD + "bus: {prefix: A.B}", "f:6:1: bus: bus prefix 'A.B': expected lowercase letters"),
        (GOOD + "bus: {keep: 5}", "f:6:7: bus.keep: expected a quoted duration such as 500ms, got 5"),
        (GOOD + "bus: {replicas: 9}", "f:6:7: bus.replicas: replicas 9 is outside 1 to 5"),
        (GOOD + "bus: {replicas: two}", "f:6:7: bus.replicas: expected a whole number, got 'two'"),
        (GOOD + "bus: {user: a, credentials: b}", "only one of the two"),
        (GOOD + "bus: {certificate: a}", "certificate, key: both are needed"),
        (GOOD + "bus: {keep_bytes: 5}", "keep_bytes 5 is below"),
        (GOOD + "bus: {servers: []}", "f:6:7: bus.servers: at least one is needed"),
        (
            GOOD + "bus: {servers: ['nats://u:hidden@a:4222']}",
            "f:6:7: bus.servers: an address must not hold a user or a password",
        ),
        (GOOD + "bus:", "f:6:1: bus: expected a mapping, got nothing"),
        (
            GOOD + "signal: {source: grafana}",
            f"f:6:10: signal.source: expected one of {SOURCES}, got 'grafana'",
        ),
        (GOOD + "signal: {labels: {pod: x}}", "f:6:19: signal.labels.pod: expected one of namespace, workload, node"),
        (GOOD + "    per: node\n    of: line\n    'on': n1", "domains: of, on and nodes are Sluice's own"),
        (GOOD + "    per: a b", "per: 'a b' is neither 'node' nor the key of a label"),
        (GOOD + "signal: {period: 300ms}", "window 2s is not a whole number of periods of 300ms"),
        (GOOD + "signal: {scrape: {urls: []}}", "f:6:19: signal.scrape.urls: at least one is needed"),
        (GOOD + "signal: {scrape: {urls: [exporter:9965]}}", "'exporter:9965' is no address: expected http://"),
        (
            GOOD + "signal: {scrape: {urls: [http://a/x, http://a/x/]}}",
            "urls: named twice, and all that it counts would",
        ),
        (GOOD + "signal: {prometheus: {url: ''}}", "signal.prometheus.url: '' is no address"),
        (GOOD + "kubernetes: {server: 'https://'}", "kubernetes.server: 'https://' is no address"),
        (GOOD + "kubernetes: {dry_run: maybe}", "kubernetes.dry_run: expected true or false, got 'maybe'"),
        (GOOD + "kubernetes: {kubeconfig: 2026-01-01}", "expected text, got the date 2026-01-01"),
        (GOOD + "listen: {decision: 70000}", "f:6:10: listen.decision: "),
        (GOOD + "    min_observations: 0", "min_observations 0 is below 1"),
        (GOOD.replace("deployment: upload", "deployment: a/b"), "target: 'a/b' is no name of a Kubernetes object"),
        (GOOD.replace("workload: robot", "workload: ''"), "critical workload: '' is no name"),
        (GOOD + "signal: {period: 1ns}", "f:6:10: signal.period: period 1ns is below 10ms"),
        (GOOD + "signal: {window: 2h}", "signal.window: window 2h is "),
        (GOOD + "signal: {source: prometheus}", "below four scrape intervals of 1s"),
        (GOOD + "log: loud", "f:6:1: log: expected one of debug, info, warning, error, got 'loud'"),
        (GOOD + "log: info\nlog: debug", "f:7:1: the key 'log' occurs twice"),
        (GOOD + "bus: {prefix: {{ .Values.prefix }}}", "f:6:16: a key has to be a name"),
        (GOOD + "log: 2026-13-45", "f:6:6: '2026-13-45' is not a valid timestamp"),
        (GOOD + "log: !!int x", "f:6:6: 'x' is not a valid int"),
        (GOOD + "bus: !!map x", "f:6:6: expected a mapping node, but found scalar"),
        (
            GOOD.replace("5M", "5MB"),
            "f:5:36: domains[0].targets[0].min: '5MB' is not a rate: expected bit/s such as 50M",
        ),
        (GOOD.replace("min: 5M", "min: 50"), "expected a quoted rate such as 50M, got 50"),
        (GOOD.replace("min: 5M", "min: 20M"), "target default/upload: expected min <= fail_safe <= max, got min 20M"),
        (GOOD.replace("fail_safe", "failsafe"), "targets[0].failsafe: unknown key; did you mean 'fail_safe'?"),
        (GOOD.replace(", fail_safe: 10M", ""), "f:5:15: domains[0].targets[0]: the key 'fail_safe' is missing"),
        (GOOD.replace("10M}", "10M, weight: 0}"), "weight 0 is outside 1 to 1000"),
        (GOOD.replace("10M}", "10M, scope: pod}"), "targets[0].scope: expected one of aggregate, per-pod, got 'pod'"),
        (
            GOOD + "    policy: magic",
            "f:6:5: domains[0].policy: there is no policy 'magic' (allowed: aimd, ",
        ),
        (GOOD + "    shadow: [static, magic]", "f:6:22: domains[0].shadow[1]: there is no policy 'magic'"),
        (GOOD + "    parameters: {k: 1}", "f:6:18: domains[0].parameters.k: unknown key (allowed: "),
        (GOOD + "    parameters: {margin: x}", "domains[0].parameters.margin: expected a number, got 'x'"),
        (GOOD + "    dead_man: 1s", "dead_man 1s is below three signal periods of 500ms"),
        (GOOD + "    shield: {cut: 2}", "f:6:14: domains[0].shield.cut: cut 2.0 is outside 0.05 to 0.95"),
        (GOOD + "    shield: {rise_per_second: 0.05, deadband: 0.1}", "no rise would ever be large enough"),
        (GOOD + GOOD.replace("domains:\n", ""), "domain named twice: line"),
        (GOOD + "    targets: []", "f:6:5: the key 'targets' occurs twice"),
        (GOOD.replace(f"[{TARGET}]", "[]"), "needs at least one critical workload and one target"),
        (GOOD.replace(f"[{TARGET}]", f"[{TARGET}, {TARGET}]"), "target named twice: default/upload"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, expected: str) -> None:
    """File, line, column and key, the actual value and the allowed ones."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "f", {})
    assert expected in str(caught.value)


def test_every_mistake_is_reported_at_once() -> None:
    """In the order of the file: in several sections, several in one section, and those that concern two domains."""
    text = f"""
domains:
  - name: line
    critical: [{{workload: robot}}]
    targets:
      - {{deployment: a, min: 5MB, max: 80M, fail_safe: 10M}}
      - {{deployment: b, min: 5M, max: 80M, failsafe: 10M}}
  - name: press
    critical: [{{workload: robot}}]
    targets: [{TARGET}]
    policy: magic
  - &paint
    name: paint
    critical: [{{workload: robot}}]
    targets: [{TARGET}]
  - *paint
bus:
  servers: nats://a
  replicas: 9
  keep_bytes: 1
log: info
log: loud
"""
    with pytest.raises(ConfigError) as caught:
        parse(text, "f", {"SLUICE_NATS_URL": "a:1"})
    places = [line.partition(": ")[0] + ": " + line.split(": ")[1] for line in str(caught.value).splitlines()]
    assert places == [
        "f: SLUICE_NATS_URL",
        "f:2:1: domain named twice",
        "f:2:1: target named twice",
        "f:6:25: domains[0].targets[0].min",
        "f:7:9: domains[0].targets[1]",
        "f:7:44: domains[0].targets[1].failsafe",
        "f:11:5: domains[1].policy",
        "f:19:3: bus.replicas",
        "f:20:3: bus.keep_bytes",
        "f:22:1: the key 'log' occurs twice",
        "f:22:1: log",
    ]


PYTHON = re.compile(r"NoneType|Object|`|\bstr\b|\bint\b|\bbool\b|\bdict\b|float|object at|Struct|class '|msgspec|\$")
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(allow_nan=False), st.just("x"))
JUNK = st.one_of(VALUES, st.lists(VALUES, max_size=2), st.dictionaries(st.sampled_from(["a", "min", "url"]), VALUES))


def spoil(tree: Any, draw: Callable[[Any], Any]) -> None:
    """Replace a nested value, or add one."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else range(len(tree))
        key = draw(st.sampled_from(keys)) if keys else "x"
        below = tree[key] if keys else None
        if isinstance(below, dict | list) and below and draw(st.booleans()):
            tree = below
            continue
        if isinstance(tree, dict) and draw(st.booleans()):
            key = draw(st.sampled_from(["policy", "parameters", "shield", "user", "tls", "labels", "x"]))
        if isinstance(tree, dict) or keys:
            tree[key] = draw(JUNK)
        return


@given(st.data())
def test_mistakes_are_reported_without_words_of_python(data: st.DataObject) -> None:
    """Every undecodable file has a mistake with a line, in the file's own terms."""
    tree = yaml.safe_load(FULL)
    for _ in range(data.draw(st.integers(1, 3))):
        spoil(tree, data.draw)
    try:
        parse(yaml.safe_dump(tree), "f", {})
    except ConfigError as error:
        for line in str(error).splitlines():
            assert re.match(r"f:\d+:\d+: ", line), line
            assert not PYTHON.search(line), line


def test_two_domains_cannot_share_a_target() -> None:
    """Two controllers would fight over one limit."""
    with pytest.raises(ConfigError, match="target named twice: default/upload"):
        parse(GOOD + GOOD.replace("domains:\n", "").replace("line", "other"), "f", {})


def test_addresses_and_credentials_come_from_the_environment() -> None:
    """Variables override the file; an empty variable does not count."""
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


def test_no_error_repeats_a_password() -> None:
    """An address with a password is refused, from a file, the environment or an option, and not quoted."""
    for text, environment in (
        (GOOD + "bus: {servers: ['nats://u:hidden@a:4222']}", {}),
        (GOOD + "bus: {servers: ['http://u:hidden@a']}", {}),
        (GOOD + "bus: {servers: 'nats://u:hidden@a'}", {}),
        (GOOD, {"SLUICE_NATS_URL": "nats://a:1, tls://hidden@b:2"}),
    ):
        with pytest.raises(ConfigError) as caught:
            parse(text, "f", environment)
        assert "hidden" not in str(caught.value)


def test_an_override_is_checked_like_the_file() -> None:
    """It does not hide other mistakes of the file."""
    with pytest.raises(ConfigError, match="'a:1' is no address"):
        parse(GOOD, "f", {"SLUICE_NATS_URL": "a:1"})
    with pytest.raises(ConfigError, match="f:6:1: bus: expected a mapping, got 5"):
        parse(GOOD + "bus: 5", "f", {"SLUICE_NATS_USER": "x"})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, a folder, or not text."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.yaml", tmp_path, binary):
        with pytest.raises(ConfigError, match=f"{path}: cannot be read"):
            load(path)


def test_what_is_loaded_is_what_was_parsed(tmp_path: Path) -> None:
    """Copying a configuration to its own memory loses nothing: units, free parameters, empty values."""
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
    """Kubectl's own file is the default, unless file or environment name another one, or it runs in a Pod."""
    monkeypatch.setenv("HOME", str(tmp_path))
    config = parse(GOOD, "f", {})
    assert with_default_kubeconfig(config, {}) == config, "there is no such file"
    usual = tmp_path / ".kube" / "config"
    usual.parent.mkdir()
    usual.write_text("{}")
    assert with_default_kubeconfig(config, {}).kubernetes.kubeconfig == str(usual)
    assert with_default_kubeconfig(config, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}) == config
    for variables in ({"KUBECONFIG": "/my/own"}, {"SLUICE_KUBERNETES_URL": "http://127.0.0.1:8001"}):
        assert with_default_kubeconfig(parse(GOOD, "f", variables), {}) == parse(GOOD, "f", variables)
