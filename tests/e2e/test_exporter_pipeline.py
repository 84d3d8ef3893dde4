"""The pipeline behind the exporter, on real packets, with and without a signal."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from services.plant.topology import ROBOT
from tests.support.hubble.harness import PLACE, SLUICE, Factory, running, until

pytestmark = pytest.mark.root

TARGET = "factory/telemetry-upload"
FAIL_SAFE = 5_000
ROOT = Path(__file__).parents[2]


def start_bus(factory: Factory) -> None:
    """A nats-server in the exporter's namespace."""
    program = str(Path(sys.executable).parent / "nats-server")
    store = factory.home / "jetstream"
    factory.bed.start(PLACE, program, "-js", "-sd", str(store), "-a", "127.0.0.1")


def decisions(factory: Factory) -> list[dict[str, Any]]:
    """Every decision so far."""
    arguments = ("--config", str(factory.config), "--kind", "decision", "--since", "1h", "--no-follow", "--json")
    command = factory.bed.command(PLACE, SLUICE, "tap", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "there is no message" in done.stderr, done.stderr
    return [json.loads(line)["body"] for line in done.stdout.splitlines() if line.startswith("{")]


def test_on_iperf3_alone_the_pipeline_is_blind(tmp_path: Path) -> None:
    """One long UDP stream opens hardly any connections: blind, fail-safe, and the advice names the remedy."""
    with running(tmp_path) as factory:
        factory.configure(probe=False)
        start_bus(factory)
        for service in ("exporter", "sampler", "decision"):
            factory.start(service)
        until(lambda: "blind: factory/robot-control" in factory.get("exporter", "/readyz"), "blindness is reported")
        # Passive measurement sees a new stream only.
        factory.plant.set_load(ROBOT, 2_100)
        # Before the exporter listens, its page is what is missing.
        named = f"no data: {ROBOT}"
        until(lambda: sum(one["reason"].startswith(named) for one in decisions(factory)) >= 20, "20 decisions")
        made = decisions(factory)
        for service in ("exporter", "sampler", "decision"):
            assert '"ready": false' in factory.get(service, "/readyz")
    for decision in made:
        [target] = decision["targets"]
        assert (target["target"], target["limit"], target["rule"]) == (TARGET, FAIL_SAFE, "no-data")
        assert decision["reason"].startswith("no data: ")
    command = [SLUICE, "check", "--offline", str(tmp_path / "sluice.yaml")]
    output = " ".join(subprocess.run(command, capture_output=True, text=True, check=False).stdout.split())
    assert "factory/robot-control: blind unless it opens at least that many connections" in output
    assert "run the echo sidecar beside it (sluice echo --udp 7007 --tcp 7007)" in output


PROMETHEUS = """
global: {scrape_interval: 1s}
scrape_configs:
  - job_name: exporter
    static_configs: [{targets: ["127.0.0.1:9965"]}]
"""
BEHIND = """
signal:
  source: prometheus
  period: 1s
  window: 4s
  prometheus: {url: "http://127.0.0.1:9090", scrape_interval: 1s}
kubernetes: {server: "http://127.0.0.1:8001"}
"""


def start_prometheus(factory: Factory) -> None:
    """A real Prometheus in the exporter's namespace, scraping once a second."""
    config = factory.home / "prometheus.yml"
    config.write_text(PROMETHEUS)
    store = f"--storage.tsdb.path={factory.home}/tsdb"
    factory.bed.start(PLACE, "prometheus", f"--config.file={config}", store, "--web.listen-address=127.0.0.1:9090")


def start_cluster(factory: Factory) -> None:
    """An API server in the exporter's namespace; its bandwidth agent sets the pods' qdisc."""
    pods = [f"{pod.name}={pod.target}" for pod in factory.plant.pods]
    python = (
        "env",
        f"PYTHONPATH={ROOT}",
        sys.executable,
        "-m",
        "tests.support.hubble.cluster",
        str(factory.config),
        *pods,
    )
    cluster = factory.bed.start(PLACE, *python, stdout=subprocess.PIPE)

    def enforce() -> None:
        try:
            for line in iter(cluster.stdout.readline, b""):
                pod, kbit = line.decode().split()
                factory.plant.set_limit(pod, None if kbit == "None" else int(kbit))
        except ValueError:
            return

    threading.Thread(target=enforce, daemon=True).start()


@pytest.mark.realtime
@pytest.mark.prometheus
def test_the_whole_chain_on_real_packets(tmp_path: Path) -> None:
    """Packets, flows and probes, exporter, Prometheus, sampler, decision, actuator, qdisc: the loop ends a congestion.

    The fail-safe limit of this configuration is far too high, so the factory starts congested, and
    only the pipeline's measurements show it.
    """
    with running(tmp_path) as factory:
        factory.configure(probe=True, more=BEHIND, fail_safe="18M")
        factory.sidecar(ROBOT, "--udp", "7007", "--tcp", "7007")
        start_cluster(factory)
        start_bus(factory)
        start_prometheus(factory)
        factory.start("exporter")
        until(lambda: factory.plant.limits["telemetry-upload-0"] == 18_000, "the fail-safe limit is in force")
        until(lambda: (latency(factory) or 0) > 0.02, "the factory is congested")
        for service in ("sampler", "decision", "actuator"):
            factory.start(service)
        until(lambda: (latency(factory) or 1) < 0.002, "the congestion is cured", 40)
        limit = factory.plant.limits["telemetry-upload-0"]
        made = decisions(factory)
        shown = factory.bed.run("telemetry-upload-0", "tc", "qdisc", "show", "dev", "eth0")
    assert limit is not None
    assert limit < 18_000
    assert "qdisc tbf" in shown
    # Without data, as when a page comes late, limits fall, too.
    seen = [decision for decision in made if "stress" in decision]
    cuts = [decision for decision in seen if decision["targets"][0]["limit"] < decision["targets"][0]["was"]]
    assert cuts
    assert all(decision["violated"] and decision["stress"] > 1 for decision in cuts)
    assert limit in {decision["targets"][0]["limit"] for decision in made}


def latency(factory: Factory) -> float | None:
    """Robot-control's P95 in the last complete second since the last call; None without one."""
    seconds = [second.critical[ROBOT] for second in factory.plant.take_seconds() if second.invalid is None]
    return seconds[-1].p95 if seconds else None
