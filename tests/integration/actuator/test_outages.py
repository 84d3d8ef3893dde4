"""The API server is away for a while: afterwards the newest limits, or the overdue fail-safe limit, come into force."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from nats.aio.client import Client

from schemas.messages import Decision
from services.plant.kube_emulator.emulator import Emulator
from tests.support.actuators import ActuatorProcess, Aim, Decider, S, Scene
from tests.support.decision_services import join
from tests.support.fault_tally import Broken, Tally, judge, lateness
from tests.support.kube import apiserver as kube
from tests.support.kube import servers
from tests.support.kube.servers import BANDWIDTH, eventually
from tests.support.kube.write_trail import follow_trail
from tests.support.nats_server import NatsServer

BETWEEN_TRIES = 5 * S
"""The longest wait between two attempts of an actuator whose API server is away, ns (``BackOff``)."""


class Outage(Struct, frozen=True):
    """A cluster that can be stopped and started."""

    scene: Scene
    down: Callable[[], Awaitable[Any]]
    up: Callable[[], Awaitable[Any]]
    seconds: int
    """Duration of the outage."""


@pytest.fixture(params=servers.KINDS)
async def outage(request: pytest.FixtureRequest, nats: NatsServer) -> AsyncIterator[Outage]:
    """A cluster for one test, with two targets of two Pods each."""
    async with AsyncExitStack() as stack:
        if request.param == "emulator":
            emulator = Emulator(starts_after=None)
            server = await stack.enter_async_context(servers.emulate(emulator))

            async def down() -> None:
                await emulator.__aexit__()

            async def up() -> None:
                await emulator.__aenter__()
        else:
            real = await asyncio.to_thread(stack.enter_context, kube.running())
            server = await stack.enter_async_context(servers.real(real))

            async def down() -> None:
                await asyncio.to_thread(real.stop, "kube-apiserver")

            async def up() -> None:
                await asyncio.to_thread(real.start, "kube-apiserver")
                path = "/apis/apps/v1/namespaces/default/deployments"
                await asyncio.to_thread(real.wait_for, "kube-apiserver", path)

        for name in ("app", "two"):
            await server.deploy(name, replicas=2, template={BANDWIDTH: "10M"})
            await server.pods_of(name, 2)
        bus = await stack.enter_async_context(join(nats.url, "sluice"))
        yield Outage(Scene(server, bus), down, up, 1 if request.param == "emulator" else 30)


async def test_the_api_server_is_gone_for_a_while(
    outage: Outage, nats: NatsServer, tmp_path: Path, tally: Tally
) -> None:
    """Queued decisions collapse to the newest of each target: one patch on each object when the server is back."""
    scene = outage.scene
    decider = Decider(scene.bus, scene.server.namespace)
    async with follow_trail(scene.server, "app") as app, follow_trail(scene.server, "two") as two:
        trails = {"app": app, "two": two}
        with ActuatorProcess(tmp_path, nats.url, scene.server, (Aim(), Aim("two"))) as process:
            await process.is_ready()
            await decider.publish(decider.decision({"app": "60M", "two": "50M"}))
            await scene.wait_for_limits("60M", ["30M"] * 2)
            await scene.wait_for_limits("50M", ["25M"] * 2, "two")
            before = len(app.marks), len(two.marks)
            durable = await consumer_of(nats)
            await outage.down()
            for number in range(20):
                await decider.publish(decider.decision({"app": 20_000 + number, "two": 30_000 + number}))
                await asyncio.sleep(outage.seconds / 20)
            await eventually(lambda: is_unready(process))
            newest = await decider.publish_limit("40M")
            last = await scene.bus.stream_info(Decision)
            assert last is not None
            # Overtaken decisions are acknowledged; decisions that still wait to be applied are not.
            assert await scene.bus.ack_floor(Decision, durable) < last.last - 1
            await outage.up()
            await scene.wait_for_limits("40M", ["20M"] * 2)
            await scene.wait_for_limits("30019k", ["15009k"] * 2, "two")
            await process.is_ready()
            # One object is tried first, and the others once it was patched.
            actions = await scene.wait_for_reports(decision=newest.id, outcome="applied")
            assert {action.limit for action in actions} == {40_000}

            async def caught_up() -> bool:
                # The trails' own watches reconnect by themselves, too.
                return (len(app.marks) - before[0], len(two.marks) - before[1]) == (3, 3)

            await eventually(caught_up)
            await eventually(lambda: is_acknowledged(scene, durable, last.last))
            verdicts = [await scene.judge(trail, name) for name, trail in trails.items()]
    tally.add("API server down", f"{outage.seconds} seconds, 21 decisions queued", judge(*verdicts))


async def consumer_of(nats: NatsServer) -> str:
    """The name of the only consumer of decisions."""
    client = Client()
    await client.connect(nats.url)
    answer = await client.request("$JS.API.CONSUMER.NAMES.SLUICE_DECISION", b"")
    await client.close()
    (name,) = json.loads(answer.data)["consumers"]
    return str(name)


async def is_acknowledged(scene: Scene, durable: str, seq: int) -> bool:
    """Whether all decisions up to a sequence number are acknowledged."""
    return await scene.bus.ack_floor(Decision, durable) == seq


async def is_unready(process: ActuatorProcess) -> bool:
    """Whether it reports that it is not ready."""
    return not process.ready()[0]


async def test_the_dead_man_waits_for_the_api_server(
    outage: Outage, nats: NatsServer, tmp_path: Path, tally: Tally
) -> None:
    """Without API server and decisions, the fail-safe limit comes into force with the API server's return."""
    scene = outage.scene
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server, dead_man="5s") as process:
        await process.is_ready()
        await scene.enforce(decider, "60M", ["30M"] * 2, good_for=5 * S)
        await outage.down()
        await eventually(lambda: is_unready(process))
        await decider.publish_limit("70M", good_for=5 * S)
        await scene.wait_for_reports(outcome="skipped")
        await outage.up()
        due = time.time_ns() + BETWEEN_TRIES
        await scene.wait_for_limits("10M", ["5M"] * 2)
        (*_, action) = await scene.wait_for_reports(cause="dead-man", outcome="applied")
        assert action.limit == 10_000
    tally.add("API server down", "1 dead-man times over", Broken(), lateness(action, due))
