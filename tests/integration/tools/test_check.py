"""`sluice check` as a user runs it: on files, and on servers that are reachable, away or wrong."""

import json
from pathlib import Path

import pytest

from tests.support.broken_server import BrokenServer
from tests.support.commands import sluice
from tests.support.exporter_page import LiveExporter
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.prometheus_server import PrometheusServer

MANIFEST = Path(__file__).parents[3] / "manifests" / "config.yaml"


def write_config(
    home: Path,
    *,
    page: str = "",
    bus: str = "",
    signal: str = "period: 1s, window: 2s, timeout: 3s",
    robots: str = "robot-control",
) -> Path:
    """A configuration file for these servers."""
    config = home / "config.yaml"
    config.write_text(
        f"bus: {{servers: ['{bus or f'nats://127.0.0.1:{free_port()}'}']}}\n"
        f"signal: {{{signal}, scrape: {{urls: ['{page or f'http://127.0.0.1:{free_port()}/metrics'}']}}}}\n"
        "exporter: {probes: [{namespace: factory, workload: "
        f"{robots}, address: robot, rate: 500}}]}}\n"
        "domains:\n"
        "- name: cell\n"
        f"  critical: [{{workload: {robots}, namespace: factory}}]\n"
        "  targets: [{deployment: telemetry-upload, namespace: factory, min: 1M, max: 10M, fail_safe: 2M}]\n"
    )
    return config


def test_the_manifests_configuration_is_sound() -> None:
    """The shipped configuration gives no warning; the output shows who is limited and how."""
    ended = sluice("check", "--offline", MANIFEST)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "nothing found" in ended.stdout
    for word in ("factory/robot-control", "factory/telemetry-upload", "900M", "20M", "a violation shows within 0.6 s"):
        assert word in ended.stdout


def test_an_invalid_file_ends_with_1_and_its_place(tmp_path: Path) -> None:
    """One line, with the place in the file."""
    config = write_config(tmp_path, signal="period: 300ms, window: 1s")
    ended = sluice("check", config)
    assert ended.returncode == 1
    assert "window 1s is not a whole number of periods of 300ms" in ended.stderr
    assert ended.stdout == ""


def test_servers_that_cannot_be_reached_are_no_error_unless_it_is_strict(tmp_path: Path) -> None:
    """A laptop outside of the cluster can still check the file."""
    config = write_config(tmp_path)
    ended = sluice("check", config)
    assert ended.returncode == 0
    assert ended.stdout.count("not reached from here: connection refused") == 2
    assert sluice("check", "--strict", config).returncode == 1


def test_everything_works(nats: NatsServer, tmp_path: Path) -> None:
    """A bus, an exporter, enough observations: the measurements are shown, and even --strict passes."""
    with LiveExporter() as exporter:
        exporter.traffic(500)
        config = write_config(tmp_path, page=exporter.url, bus=nats.url)
        ended = sluice("check", "--strict", config)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "no streams yet" in ended.stdout
        assert "factory/robot-control jitter" in ended.stdout
        found = json.loads(sluice("check", "--json", config).stdout)
    assert found["findings"] == []
    assert [look["reached"] for look in found["looks"]] == [True, True]
    assert found["config"]["domains"][0]["targets"][0]["max"] == "10M"


def test_blindness_is_an_error(tmp_path: Path) -> None:
    """Too few observations, and a workload without measurements."""
    with LiveExporter() as exporter:
        exporter.traffic(20)
        few = sluice("check", write_config(tmp_path, page=exporter.url))
        missing = sluice("check", write_config(tmp_path, page=exporter.url, robots="nobody"))
    assert few.returncode == missing.returncode == 1
    assert "blind: " in few.stdout
    assert "observations in a window, 100 needed" in few.stdout
    assert "no series of hubble_flow_latency_seconds for it" in missing.stdout


@pytest.mark.parametrize(("bounds", "code"), [((0.0008, 0.0015, 0.0021, 0.01), 0), ((0.005, 0.01, 0.1), 1)])
def test_coarse_buckets_are_reported(tmp_path: Path, bounds: tuple[float, ...], code: int) -> None:
    """A warning if a figure is imprecise, an error if it would be invented."""
    with LiveExporter(bounds=bounds) as exporter:
        exporter.traffic(500)
        ended = sluice("check", write_config(tmp_path, page=exporter.url))
    assert ended.returncode == code
    assert ("too coarse" if code else "can be off by 30% of the SLO") in ended.stdout


def test_an_invalid_page_is_an_error(tmp_path: Path) -> None:
    """The server exists, but is not an exporter."""
    with BrokenServer("body", b"busy", "503 Busy") as server:
        ended = sluice("check", write_config(tmp_path, page=server.url))
    assert ended.returncode == 1
    assert "HTTP status 503" in ended.stdout


def test_another_program_instead_of_the_bus_is_an_error(tmp_path: Path) -> None:
    """Another program listens there."""
    with BrokenServer("garbage") as server:
        ended = sluice("check", write_config(tmp_path, bus=server.url.replace("http", "nats")))
    assert ended.returncode == 1
    assert "error bus:" in ended.stdout


@pytest.mark.prometheus
def test_a_prometheus_that_does_not_scrape_yet_is_an_error(tmp_path: Path) -> None:
    """It answers, but has no series of the workload."""
    with PrometheusServer(tmp_path / "prometheus") as prometheus:
        signal = f"source: prometheus, period: 500ms, window: 4s, prometheus: {{url: '{prometheus.url}'}}"
        ended = sluice("check", write_config(tmp_path, signal=signal))
    assert ended.returncode == 1
    assert "no series for it is being scraped" in ended.stdout
