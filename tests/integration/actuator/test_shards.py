"""Actuators that share the domains: each is sent the decisions of its shards; one goes on where another crashes."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from schemas.messages import Action
from services.actuator.ownership import KEY
from services.bus.partitions import find_partition
from services.plant.kube_emulator.emulator import Emulator
from tests.support.actuators import DOMAIN, Aim, Decider, Scene, config_text
from tests.support.decision_services import ServiceProcess, join, read_stream
from tests.support.kube import servers
from tests.support.kube.servers import BANDWIDTH, Server, eventually
from tests.support.nats_server import NatsServer
from tests.support.waiting import PATIENCE_S, until

SHARDS = 3
NODES = ("node-1", "node-2")
INSTANCES = {f"{DOMAIN}@{node}": "app" for node in NODES}
NAMED = {
    next(name for n in range(99) if find_partition(name := f"hall-{n}", SHARDS) == shard): f"hall-{shard}"
    for shard in range(SHARDS)
}
"""A domain of each shard, and its Deployment; instances are where they are."""
DOMAINS = {**INSTANCES, **NAMED}
LIMITS = ("30M", "40M", "20M", "50M")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """The emulator, whose kubelets run Pods on two nodes in turn."""
    async with servers.emulate(Emulator(starts_after=0.02)) as server:
        yield server


def write_config(server: Server, bus: str) -> str:
    """A definition per node, and one of each shard."""
    text = config_text(bus, server.config, server.namespace, [Aim()], lease=f"{server.namespace}/actuator")
    text = text.replace("  critical:", "  per: node\n  critical:").replace(
        "kubernetes: {", f"kubernetes: {{shards: {SHARDS}, "
    )
    template = text.partition("- name")[2]
    for name, deployment in NAMED.items():
        one = template.replace(f": {DOMAIN}\n", f": {name}\n").replace("  per: node\n", "")
        text += "\n- name" + one.replace("deployment: app", f"deployment: {deployment}")
    return text


def start(home: Path, text: str, replica: int, crash_at: str | None = None) -> ServiceProcess:
    """Start the actuator of that number, as a StatefulSet would name it."""
    environment = {"SLUICE_REPLICA": f"sluice-actuator-{replica}"}
    return ServiceProcess("actuator", home / str(replica), text, crash_at, environment).start()


async def find_consumers(url: str) -> dict[frozenset[str], int]:
    """How many deliveries each consumer of decisions has had, by the domains that it is for."""
    client = Client()
    await client.connect(url)
    try:
        listed = await client.request("$JS.API.CONSUMER.LIST.SLUICE_DECISION", b"", timeout=PATIENCE_S)
    finally:
        await client.close()
    answer = json.loads(listed.data)
    names = {f"sluice.decision.v1.{name.replace('@', '=40')}": name for name in DOMAINS}
    return {
        frozenset(names[subject] for subject in one["config"].get("filter_subjects", ())): one["delivered"][
            "consumer_seq"
        ]
        for one in answer.get("consumers") or ()
    }


class Stream:
    """Decisions about all domains, a few a second."""

    def __init__(self, scene: Scene) -> None:
        """Nothing is decided yet."""
        self._deciders = {name: Decider(scene.bus, scene.server.namespace, name) for name in DOMAINS}
        self.rounds = 0
        self.is_ending = False

    async def run(self) -> None:
        """Decide until the end."""
        while not self.is_ending:
            self.rounds += 1
            await self.decide(LIMITS[self.rounds % len(LIMITS)])
            await asyncio.sleep(0.4)

    async def decide(self, limit: str) -> None:
        """Decide once on every domain."""
        for name, deployment in DOMAINS.items():
            await self._deciders[name].publish_limit(limit, deployment)


async def read_pods(server: Server) -> list[dict[str, Any]]:
    """The metadata of all Pods."""
    return [one["metadata"] for one in (await server.must("GET", server.pods))["items"]]


def read_records(pods: list[dict[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Sluice's record on each Pod, by uid."""
    return {one["uid"]: json.loads((one.get("annotations") or {}).get(KEY, "{}")) for one in pods}


async def test_each_gets_its_shards_and_one_goes_on_for_another(
    server: Server, nats: NatsServer, tmp_path: Path
) -> None:
    """Through a crash between the answer of the bus and the first patch of a take-over, and back.

    No decision is delivered to two; fences never fall back; at the end the last decision of every domain is in force
    and reported.
    """
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{server.namespace}/leases"
    for name in ("app", *NAMED.values()):
        await server.deploy(name, replicas=2)
    for shard in range(SHARDS):
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": f"actuator-{shard}"}}
        await server.must("POST", leases, {**lease, "spec": {"leaseDurationSeconds": 2}})
    text, fences = write_config(server, nats.url), dict[str, int]()
    own = {
        replica: frozenset(name for name in DOMAINS if (find_partition(name, SHARDS) == 1) == (replica == 1))
        for replica in (0, 1)
    }

    async with join(nats.url, "sluice") as bus:
        scene = Scene(server, bus)
        stream = Stream(scene)

        async def are_divided(*domains: frozenset[str]) -> bool:
            return set(await find_consumers(nats.url)) >= set(domains)

        async def watch_fences() -> None:
            while not stream.is_ending:
                for uid, record in read_records(await read_pods(server)).items():
                    assert record.get("end", 0) >= fences.get(uid, 0), "a newer decision was overwritten"
                    fences[uid] = record.get("end", 0)
                await asyncio.sleep(0.1)

        actuators = {0: start(tmp_path, text, 0)}
        try:
            await eventually(lambda: are_divided(frozenset(DOMAINS)))
            # The second crashes once it has read what the bus holds of its shard, before it has written anything.
            actuators[1] = start(tmp_path, text, 1, "actuator.welcomed:1")
            deciding, watching = asyncio.create_task(stream.run()), asyncio.create_task(watch_fences())
            assert await actuators[1].wait_for_crash(), "it has got its shard"
            crashed = time.monotonic()
            await eventually(lambda: are_divided(frozenset(DOMAINS)))
            print(f"taken over {time.monotonic() - crashed:.2f} s after the crash")
            actuators[1] = start(tmp_path, text, 1)
            await eventually(lambda: are_divided(own[0], own[1]))
            before, rounds = await find_consumers(nats.url), stream.rounds
            await until(lambda: stream.rounds >= rounds + 6)
            stream.is_ending = True
            await asyncio.gather(deciding, watching)
            delivered = await find_consumers(nats.url)
            for domains in own.values():
                # Each decision once to one, but for those that were on their way at either count.
                sent = (stream.rounds - rounds) * len(domains)
                assert abs(delivered[domains] - before[domains] - sent) <= 2 * len(domains)
            await stream.decide("60M")

            async def has_all() -> bool:
                found = sorted((one.get("annotations") or {}).get(BANDWIDTH, "") for one in await read_pods(server))
                return found == sorted(["60M"] * 2 + ["30M"] * 6)  # one Pod a node, two of each other Deployment

            await eventually(has_all)
            await scene.wait_for_limits("120M", ["60M"] * 2)
            assert actuators[0].stop() == actuators[1].stop() == 0
        finally:
            for one in actuators.values():
                one.kill()
        reported = {one.message.id for one in await read_stream(bus, Action)}
        written = {record["action"] for record in read_records(await read_pods(server)).values()}
        assert written <= reported
