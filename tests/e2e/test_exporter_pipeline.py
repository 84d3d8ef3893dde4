"""The pipeline behind the exporter, on real packets: what it does with a signal, and what without one."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from services.exporter.blindness import what_to_switch_on
from services.factory.topology import ROBOT
from services.operation.config import load
from tests.hubble.harness import PLACE, SLUICE, Factory, running, until

pytestmark = pytest.mark.root

TARGET = "factory/telemetry-upload"
FAIL_SAFE = 5_000


def start_bus(factory: Factory) -> None:
    """A nats-server in the exporter's place."""
    program = str(Path(sys.executable).parent / "nats-server")
    store = factory.home / "jetstream"
    factory.bed.start(PLACE, program, "-js", "-sd", str(store), "-a", "127.0.0.1")


def decisions(factory: Factory) -> list[dict[str, Any]]:
    """Every decision so far."""
    arguments = ("--config", str(factory.config), "--kind", "decision", "--since", "1h", "--no-follow", "--json")
    lines = factory.bed.run(PLACE, SLUICE, "tap", *arguments).splitlines()
    return [json.loads(line)["body"] for line in lines if line.startswith("{")]


def test_on_iperf3_alone_the_pipeline_says_that_it_is_blind(tmp_path: Path) -> None:
    """One long UDP stream opens next to nothing: blind, fail-safe, and the advice names the remedy."""
    with running(tmp_path) as factory:
        factory.configure(probe=False)
        start_bus(factory)
        for service in ("exporter", "sampler", "decision"):
            factory.start(service)
        until(lambda: "blind: factory/robot-control" in factory.get("exporter", "/readyz"), "blindness is told")
        # A new stream is all that passive measurement ever gets of it.
        factory.plant.load(ROBOT, 2_100)
        until(lambda: len(decisions(factory)) >= 20, "20 decisions")
        made = decisions(factory)
        for service in ("exporter", "sampler", "decision"):
            assert '"ready": false' in factory.get(service, "/readyz")
    for decision in made:
        [target] = decision["targets"]
        assert (target["target"], target["limit"], target["rule"]) == (TARGET, FAIL_SAFE, "no-data")
        assert decision["reason"].startswith(f"no data: {ROBOT}")
    [advice] = what_to_switch_on(load(tmp_path / "sluice.yaml", {}))
    assert "sluice echo" in advice
