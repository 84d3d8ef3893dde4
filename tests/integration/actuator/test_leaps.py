"""After any outage a limit rises step by step from what is in force: decisions went on, and nobody enforced them."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from msgspec import Struct

from services.actuator.desired_limit import HELD_BACK
from services.plant.kube_emulator.emulator import Emulator
from tests.support.actuators import ActuatorProcess, Decider, Scene
from tests.support.commands import sluice
from tests.support.decision_services import join
from tests.support.kube import servers
from tests.support.kube.servers import BANDWIDTH, eventually
from tests.support.kube.write_trail import Trail, follow_trail
from tests.support.nats_server import NatsServer

RISE = 15_000
"""A fifth of 5M to 80M, kbit/s a second."""


class Parts(Struct):
    """What can be taken away."""

    emulator: Emulator
    nats: NatsServer
    process: ActuatorProcess


async def api_away(parts: Parts) -> Callable[[], Awaitable[None]]:
    """Take the API server away."""
    await parts.emulator.__aexit__()

    async def back() -> None:
        await parts.emulator.__aenter__()

    return back


async def bus_away(parts: Parts) -> Callable[[], Awaitable[None]]:
    """Take the bus away."""
    parts.nats.stop()

    async def back() -> None:
        parts.nats.start()

    return back


async def stopped(parts: Parts) -> Callable[[], Awaitable[None]]:
    """Stop the actuator as it stands."""
    parts.process.freeze()

    async def back() -> None:
        parts.process.thaw()

    return back


@pytest.fixture
async def scene(nats: NatsServer) -> AsyncIterator[tuple[Scene, Emulator]]:
    """A Deployment with two Pods on an emulator of the test's own."""
    async with AsyncExitStack() as stack:
        emulator = Emulator(starts_after=None)
        server = await stack.enter_async_context(servers.emulate(emulator))
        await server.deploy(replicas=2, template={BANDWIDTH: "10M"})
        await server.pods_of("app", 2)
        yield Scene(server, await stack.enter_async_context(join(nats.url, "sluice"))), emulator


def rises(trail: Trail) -> list[tuple[float, int]]:
    """When, in seconds, the Deployment's limit rose, and by how much, kbit/s."""
    marks = [mark.record for mark in trail.marks if mark.kind == "Deployment"]
    steps = [(mark["at"] / 1e9, mark["limit"] - before["limit"]) for before, mark in itertools.pairwise(marks)]
    return [step for step in steps if step[1] > 0]


@pytest.mark.long
@pytest.mark.parametrize(
    ("outage", "seconds"), [(api_away, 8), (bus_away, 6), (stopped, 12)], ids=["API away", "bus away", "stopped"]
)
async def test_no_outage_ends_in_a_leap(
    scene: tuple[Scene, Emulator],
    nats: NatsServer,
    tmp_path: Path,
    outage: Callable[[Parts], Awaitable[Callable[[], Awaitable[None]]]],
    seconds: int,
) -> None:
    """Decisions rise to 78M while 20M is in force; then it rises step by step to 78M, and a cut is one step."""
    there, emulator = scene
    decider = Decider(there.bus, there.server.namespace)
    async with follow_trail(there.server) as trail:
        with ActuatorProcess(tmp_path, nats.url, there.server, rise=0.2) as process:
            await process.is_ready()
            await decider.publish_limit("20M")
            await there.wait_for_limits("20M", ["10M"] * 2)
            back = await outage(Parts(emulator, nats, process))
            if outage is bus_away:
                await asyncio.sleep(seconds)
            else:
                for number in range(seconds * 2):
                    await decider.publish_limit(20_000 + 58_000 * (number + 1) // (2 * seconds))
                    await asyncio.sleep(0.5)
            await back()
            await decider.publish_limit("78M")
            await there.wait_for_limits("78M", ["39M"] * 2)
            await decider.publish_limit("6M")
            await there.wait_for_limits("6M", ["3M"] * 2)

            async def all_reported() -> bool:
                return not trail.verdict(await there.actions(), "5M", "80M").wrong

            await eventually(all_reported)
            steps = rises(trail)
            limits = [mark.record["limit"] for mark in trail.marks if mark.kind == "Deployment"]
            actions = await there.actions()
    assert max(rise for _, rise in steps) <= RISE * 1.02, steps
    for at, _ in steps:
        within = [(then, rise) for then, rise in steps if at - 3 < then <= at]
        assert sum(rise for _, rise in within) <= RISE * (at - within[0][0] + 1.1), steps
    assert limits[limits.index(78_000) + 1 :] == [6_000], "the cut is one step"
    assert any(HELD_BACK in action.reason for action in actions), (
        steps,
        [(one.end, one.targets[0].limit) for one in decider.published],
    )
    found = await asyncio.to_thread(sluice, "audit", "--config", tmp_path / "config.yaml", "--json")
    breaches = json.loads(found.stdout)["findings"]["breaks"]
    # The test decides without samples, which the audit finds where it takes longer than the dead-man time.
    wrong = [one for one in breaches if one["rule"] in ("cause", "bounds", "fence", "chain")]
    assert [one for one in wrong if "not one sample" not in one["what"]] == []
