"""Thousands of Pods with much metadata: what the actuator keeps of them, and how soon a cut reaches all."""

import time
from pathlib import Path
from typing import Any

import pytest

from services.bench.worst.large_cluster import LargeCluster
from services.bench.worst.manifest_limits import read_limits
from services.bus.bus import Bus
from tests.support.actuators import ActuatorProcess, Aim, Decider
from tests.support.attack_tally import Attacks, resize
from tests.support.decision_services import join
from tests.support.kube.servers import eventually
from tests.support.nats_server import NatsServer
from tests.support.waiting import PATIENCE_S

LIMIT_MIB = read_limits()["actuator"]


@pytest.fixture(autouse=True)
def allocate_as_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image bounds the allocator's arenas."""
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")


async def test_five_thousand_pods(nats: NatsServer, tmp_path: Path, attacks: Attacks) -> None:
    """With 4 kB of others' metadata each: within the manifest's memory from start to cut."""
    async with LargeCluster(1, 5_000, 4_000).serving() as cluster, join(nats.url, "sluice") as bus:
        aim = Aim("app-0", min="100M", max="20G", fail_safe="10G")
        peak, took = await cut_everything(cluster, bus, nats, tmp_path, (aim,), "5G", "1M")
    attacks.add("Pods of a large cluster", "5000 Pods", safe_s=took, peak_mib=peak)
    assert cluster.largest_page <= 100
    assert peak < LIMIT_MIB


async def test_five_hundred_targets(nats: NatsServer, tmp_path: Path, attacks: Attacks) -> None:
    """Of ten Pods each, in one namespace with a thousand others: two watches, within the manifest's memory."""
    count, pods = resize(120, 500), 10
    async with LargeCluster(count, pods, 500, others=1_000).serving() as cluster, join(nats.url, "sluice") as bus:
        aims = tuple(Aim(f"app-{number}", min="10M", max="20M", fail_safe="15M") for number in range(count))
        peak, took = await cut_everything(cluster, bus, nats, tmp_path, aims, "10M", "1M")
    attacks.add("targets of a large cluster", f"{count} targets, {count * pods} Pods", safe_s=took, peak_mib=peak)
    assert cluster.watches == 2
    assert peak < LIMIT_MIB


async def cut_everything(
    cluster: LargeCluster, bus: Bus, nats: NatsServer, home: Path, aims: tuple[Aim, ...], limit: str, share: str
) -> tuple[float, float]:
    """Start an actuator, cut every target; gives the peak of its memory in MiB and how long the cut took, seconds."""
    peak = 0.0
    process: Any
    with ActuatorProcess(home, nats.url, cluster, aims, dead_man="300s") as process:  # type: ignore[arg-type]

        def look() -> bool:
            nonlocal peak
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
            return True

        async def ready() -> bool:
            return look() and bool(process.ready()[0])

        await eventually(ready)
        decider = Decider(bus, cluster.namespace)
        began = time.monotonic()
        await decider.publish(decider.decision({aim.deployment: limit for aim in aims}))

        async def is_cut() -> bool:
            return look() and cluster.limited(share)

        # Thousands of patches, one after another.
        await eventually(is_cut, 10 * PATIENCE_S)
        return peak, time.monotonic() - began
