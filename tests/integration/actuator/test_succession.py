"""Two actuators, and their target after the active one ends; records of a later version."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.actuator.ownership import KEY
from tests.support.actuators import ActuatorProcess, Decider, S, Scene
from tests.support.decision_services import join
from tests.support.fault_tally import LATE_S, lateness
from tests.support.kube.servers import BANDWIDTH, Server, eventually
from tests.support.nats_server import NatsServer

DEAD_MAN_S = 4


@pytest.fixture
async def scene(server: Server, nats: NatsServer) -> AsyncIterator[Scene]:
    """A Deployment with two Pods, and a bus."""
    await server.deploy(replicas=2, template={BANDWIDTH: "10M"})
    await server.pods_of("app", 2)
    async with join(nats.url, "sluice") as bus:
        yield Scene(server, bus)


async def depose(scene: Scene, decider: Decider, old: ActuatorProcess) -> None:
    """Let the later actuator write while the earlier one is stopped, so that that one is on standby afterwards."""
    old.freeze()
    try:
        await scene.enforce(decider, "40M", ["20M"] * 2, good_for=DEAD_MAN_S * S)
    finally:
        old.thaw()
    number = 0

    async def stands_by() -> bool:
        nonlocal number
        number += 1
        await decider.publish_limit(40_000 - 10 * number, good_for=DEAD_MAN_S * S)
        return "another actuator" in str(old.ready()[1].get("notes"))

    await eventually(stands_by)


async def test_a_deposed_actuator_resumes_when_the_later_one_is_gone(
    scene: Scene, nats: NatsServer, tmp_path: Path
) -> None:
    """Cuts come into force, and the fail-safe limit applies when decisions end."""
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path / "old", nats.url, scene.server, dead_man=f"{DEAD_MAN_S}s") as old:
        await old.is_ready()
        await scene.enforce(decider, "50M", ["25M"] * 2, good_for=DEAD_MAN_S * S)
        await scene.wait_for_reports(cause="decision", outcome="applied", limit=50_000)
        with ActuatorProcess(tmp_path / "new", nats.url, scene.server, dead_man=f"{DEAD_MAN_S}s") as new:
            await new.is_ready()
            await depose(scene, decider, old)
            new.kill()
        await scene.enforce(decider, "8M", ["4M"] * 2, good_for=DEAD_MAN_S * S)
        await scene.enforce(decider, "45M", ["22500k"] * 2, good_for=DEAD_MAN_S * S)
        raised = decider.published[-1]
        (*_, action) = await scene.wait_for_reports(cause="dead-man", outcome="applied")
        assert lateness(action, raised.expires) < LATE_S
        await scene.wait_for_limits("10M", ["5M"] * 2)
        assert not old.ready()[1].get("notes")


async def test_the_fail_safe_limit_comes_from_the_standby(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """The later actuator is killed, and decisions end with it."""
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path / "old", nats.url, scene.server, dead_man=f"{DEAD_MAN_S}s") as old:
        await old.is_ready()
        await scene.enforce(decider, "50M", ["25M"] * 2, good_for=DEAD_MAN_S * S)
        await scene.wait_for_reports(cause="decision", outcome="applied", limit=50_000)
        with ActuatorProcess(tmp_path / "new", nats.url, scene.server, dead_man=f"{DEAD_MAN_S}s") as new:
            await new.is_ready()
            await depose(scene, decider, old)
            last = decider.published[-1]
            new.kill()
        (action, *_) = await scene.wait_for_reports(cause="dead-man", outcome="applied")
        assert action.limit == 10_000
        assert lateness(action, last.expires) < LATE_S
        await scene.wait_for_limits("10M", ["5M"] * 2)


@pytest.mark.parametrize("complete", [True, False])
async def test_a_record_of_a_later_version_freezes_nothing(
    scene: Scene, nats: NatsServer, tmp_path: Path, complete: bool
) -> None:
    """After a downgrade decisions and the fail-safe limit apply, and the original value is kept."""
    decider = Decider(scene.bus, scene.server.namespace)
    record = {"action": "a", "cause": "decision", "value": "60M", "limit": 60_000, "at": time.time_ns(), "term": 7}
    record |= {"by": "gone", "found": "44M", "v": 2}
    if not complete:
        record |= {"at": "2026-11-27T12:00:00Z", "limit": {"kbit": 60_000}}
    await scene.annotate(f"{scene.server.deployments}/app", {BANDWIDTH: "60M", KEY: json.dumps(record)})
    with ActuatorProcess(tmp_path, nats.url, scene.server, dead_man="2s") as process:
        await process.is_ready()
        await scene.wait_for_limits("10M", ["5M"] * 2)
        await scene.enforce(decider, "8M", ["4M"] * 2, good_for=2 * S)
        assert not process.ready()[1].get("notes")
        ours = json.loads((await scene.records())["app"] or "")
    assert (ours["found"], ours["term"], ours.get("v", 1)) == ("44M", 8, 1)
