"""Calibration listens to a live bus."""

import asyncio
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.cli import main
from tests.support.bus_stream import config, samples
from tests.support.decision_services import join, send
from tests.support.nats_server import NatsServer

CONFIG = """domains:
- name: cell-0
  critical: [{workload: robot-control, namespace: cell-0}]
  targets:
  - {deployment: telemetry-upload, namespace: cell-0, min: 5M, max: 90M, fail_safe: 20M}
  - {deployment: erp-dashboard, namespace: cell-0, min: 1M, max: 20M, fail_safe: 5M}
"""


async def test_it_listens_guides_and_publishes_nothing(
    nats: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was on the bus before is left out; meanwhile it says what is known."""
    monkeypatch.setattr("services.tools.calibrate.guide._EVERY_S", 0.5)
    path = tmp_path / "sluice.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    words = ["calibrate", "--nats", nats.url, "--config", str(path), "--seconds", "2", "--json"]
    async with join(nats.url, "sluice") as bus:
        made = samples(config().domains[0], 10_000, begin=time.time_ns() - 6_000 * 10**9)
        await send(bus, [next(made) for _ in range(20)])
        listening = asyncio.create_task(asyncio.to_thread(CliRunner().invoke, main, words))
        sent = 20
        while not listening.done():
            await send(bus, [next(made)])
            sent += 1
            await asyncio.sleep(0.02)
        done = await listening
    assert "s to go: cell-0:" in done.stderr, done.output
    assert '"domain": "cell-0"' in done.stdout
    seen = int(done.stdout.partition('"samples": ')[2].partition(",")[0])
    assert 0 < seen <= sent - 20
