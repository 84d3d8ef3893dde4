"""Hostile messages: no service ends, hangs or grows because of one, and none is redelivered without end."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import requests
from msgspec.structs import replace

from schemas.messages import DeadLetter, Decision, Sample, encode
from services.bus.bus import Bus, Received
from services.plant.kube_emulator.emulator import Emulator
from tests.support.actuators import ActuatorProcess, Decider, S, Scene
from tests.support.attack_tally import Attacks
from tests.support.decision_services import DecisionProcess, config_text, join, read_stream, sample, send
from tests.support.hostile_messages import draw
from tests.support.kube import servers
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S, until

COUNT = 250
LARGEST = 500_000
"""What the server takes, bytes."""
PERIODS = 3600


async def flood(bus: Bus, subject: str, bodies: Sequence[bytes]) -> None:
    """Send all of them."""
    for body in bodies:
        if len(body) <= LARGEST:
            await bus._session.send(subject, body)


async def wait_for_decision(bus: Bus, wanted: str) -> None:
    """Wait for the decision on a sample."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if any(one.message.sample == wanted for one in await read_stream(bus, Decision)):
            return
        await asyncio.sleep(0.1)
    raise TimeoutError(f"no decision on {wanted}")


def resident_mib(pid: int) -> float:
    """The peak memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


async def test_no_sample_stops_the_decision_service(nats: NatsServer, tmp_path: Path, attacks: Attacks) -> None:
    """Each hostile sample is answered or becomes a dead letter; the valid one after them is answered."""
    now = time.time_ns()
    port = free_port()
    text = config_text(nats.url, "sluice", ("press",)).replace("decision: 0", f"decision: {port}")
    begin = now - PERIODS * S
    async with join(nats.url, "sluice") as bus:
        with DecisionProcess(tmp_path, text) as process:
            subject = bus.subjects.sample("press")
            await send(bus, [sample("press", 1, begin)])
            await flood(bus, subject, draw(encode(sample("press", 2, begin)), COUNT))
            last = sample("press", 1, now)
            await send(bus, [last])
            await wait_for_decision(bus, last.id)
            stream = await bus.stream_info(Sample)
            assert stream is not None
            assert stream.last > COUNT // 2
            assert await bus.ack_floor(Sample, "decision") == stream.last
            assert (await asyncio.to_thread(requests.get, f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE_S)).ok
            peak = resident_mib(process.pid)
            assert peak < 64, "the manifest's limit"
            assert process.log.count("connected to the bus") == 1
            assert "Traceback" not in process.log
            assert process.stop() == 0
        assert len(await read_stream(bus, DeadLetter)) > COUNT // 4
    attacks.add("hostile messages", f"{COUNT} messages", peak_mib=peak)


async def test_no_decision_stops_the_actuator(nats: NatsServer, tmp_path: Path, attacks: Attacks) -> None:
    """Each hostile decision is bounded or becomes a dead letter; the next valid one is applied."""
    async with servers.emulate(Emulator(starts_after=None)) as server, join(nats.url, "sluice") as bus:
        scene = Scene(server, bus)
        await server.deploy("app", replicas=1)
        await server.pods_of("app", 1)
        decider = Decider(bus, server.namespace)
        with ActuatorProcess(tmp_path, nats.url, server) as process:
            await decider.publish_limit("60M", end=time.time_ns() - S)
            await scene.wait_for_limits("60M", ["60M"])
            model = decider.decision({"app": "50M"}, end=time.time_ns() - S // 2)
            await flood(bus, bus.subjects.decision("line"), draw(encode(model), COUNT))
            await decider.publish_limit("20M")
            await scene.wait_for_limits("20M", ["20M"])
            await process.is_ready()
            assert process.resident_mib < 80, "the manifest's limit"
            assert process.log.count("connected to the bus") == 1
            assert "Traceback" not in process.log
            assert process.stop() == 0
        assert len(await read_stream(bus, DeadLetter)) > COUNT // 4
    attacks.add("hostile messages", f"{COUNT} messages")


async def test_what_is_delivered_again_and_again_becomes_a_dead_letter(nats: NatsServer) -> None:
    """A message that is never acknowledged becomes a dead letter after eight deliveries."""
    async with join(nats.url, "sluice") as bus:
        poison, honest = sample("press", 1, S), sample("press", 2, S)
        await send(bus, [poison])
        seen: list[str] = []

        async def read() -> None:
            async for one in bus.consume(Sample, "reader", "test", ack_wait=0.1):
                seen.append(one.message.id)
                if one.message.id == honest.id:
                    await one.ack()

        reading = asyncio.create_task(read())
        async with asyncio.timeout(PATIENCE_S):
            while not (letters := await read_stream(bus, DeadLetter)):  # noqa: ASYNC110 - another task's doing
                await asyncio.sleep(0.1)
            await send(bus, [honest])
            while await bus.ack_floor(Sample, "reader") < 2:  # noqa: ASYNC110 - the server's doing
                await asyncio.sleep(0.02)
        reading.cancel()
        assert seen[:8] == [poison.id] * 8
        # On a slow machine the acknowledgement comes later than the next delivery.
        assert set(seen[8:]) == {honest.id}
        assert "delivered 9 times" in letters[0].message.reason


async def test_a_message_that_is_held_is_not_delivered_again(nats: NatsServer) -> None:
    """While its reader cannot acknowledge, redeliveries do not pile up; what it refuses comes again."""
    async with join(nats.url, "sluice") as bus:
        await send(bus, [sample("press", number, S) for number in (1, 2, 3)])
        held: list[Received[Sample]] = []

        async def read() -> None:
            async for one in bus.consume(Sample, "reader", "test", ack_wait=0.4, once=True):
                held.append(one)  # noqa: PERF401 - seen as it grows

        reading = asyncio.create_task(read())
        await until(lambda: len(held) >= 3, lambda: held)
        await asyncio.sleep(1.5)
        assert [one.seq for one in held] == [1, 2, 3]
        await held[0].ack()
        await held[1].nak()
        async with asyncio.timeout(PATIENCE_S):
            while len(held) < 4:  # noqa: ASYNC110 - another task's doing
                await asyncio.sleep(0.02)
        reading.cancel()
        assert held[3].seq == 2
        assert held[3].deliveries > 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"end": 10**15, "start": 10**16},
        {"period": 0},
        {"period": -1},
        {"end": 2**62 + 1},
        {"start": -(2**63)},
    ],
)
async def test_no_reader_gets_what_contradicts_itself(nats: NatsServer, wrong: dict[str, int]) -> None:
    """It can neither be written through the bus, nor read from it."""
    async with join(nats.url, "sluice") as bus:
        bad = replace(sample("press", 1, S), **wrong)
        with pytest.raises(ValueError, match="not a Sample"):
            await bus.publish(bus.subjects.sample("press"), bad, msg_id="bad")
        await bus._session.send(bus.subjects.sample("press"), encode(bad))
        await send(bus, [sample("press", 2, S)])
        assert [one.seq for one in await read_stream(bus, Sample)] == [2]
