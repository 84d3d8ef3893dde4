"""A cluster of three nats-servers that loses one: no acknowledged message is lost, and decisions continue."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.errors import Error

from schemas.messages import Sample
from services.bus.bus import Bus
from tests.support.decision_services import (
    DecisionProcess,
    S,
    check,
    config_text,
    join,
    parse_config,
    read_stream,
    sample,
    send,
    wait_for_decisions,
)
from tests.support.fault_tally import Broken, Tally
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S

DOMAINS = ("press", "paint")
NODES = 3


class Cluster:
    """Three nats-servers that replicate JetStream among each other."""

    def __init__(self, home: Path) -> None:
        """Prepare them below ``home``."""
        ports = [free_port() for _ in range(NODES)]
        routes = ", ".join(f"nats-route://127.0.0.1:{port}" for port in ports)
        self.nodes = {
            f"n{number}": NatsServer(
                home / f"n{number}",
                f"server_name: n{number}\n"
                f'cluster {{ name: bus, listen: "127.0.0.1:{port}", routes: [{routes}], no_advertise: true }}',
            )
            for number, port in enumerate(ports)
        }

    @property
    def urls(self) -> str:
        """Every node's address."""
        return ",".join(node.url for node in self.nodes.values())

    async def leader(self, stream: str) -> str:
        """The node that leads a stream.

        Raises:
            TimeoutError: none does.
        """
        client = Client()
        await client.connect(self.urls.split(","))
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    # A cluster that elects a leader leaves requests unanswered.
                    with suppress(Error):
                        answer = await client.request(f"$JS.API.STREAM.INFO.{stream}", timeout=1)
                        leader = json.loads(answer.data).get("cluster", {}).get("leader")
                        if leader:
                            return str(leader)
                    await asyncio.sleep(0.1)
        finally:
            await client.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A running cluster."""
    made = Cluster(tmp_path / "cluster")
    with ExitStack() as running:
        for node in made.nodes.values():
            running.enter_context(node)
        yield made


async def publishing(bus: Bus, numbers: range, begin: int) -> int:
    """Publish samples of all domains one after another; return how many were acknowledged."""
    for number in numbers:
        await send(bus, [sample(domain, number, begin) for domain in DOMAINS])
        await asyncio.sleep(0.02)
    return len(numbers) * len(DOMAINS)


@pytest.mark.long
async def test_a_cluster_loses_the_node_that_leads(cluster: Cluster, tmp_path: Path, tally: Tally) -> None:
    """The leader of the samples' stream fails, then that of the decisions': every acknowledged sample is answered."""
    text = config_text(cluster.urls, "cluster", DOMAINS, replicas=NODES)
    begin = time.time_ns() - 3600 * S
    lost = 0
    async with join(cluster.urls, "cluster", NODES) as bus:
        with DecisionProcess(tmp_path, text) as process:
            sending = asyncio.create_task(publishing(bus, range(1, 201), begin))
            for stream in ("CLUSTER_SAMPLE", "CLUSTER_DECISION"):
                await asyncio.sleep(0.8)
                node = cluster.nodes[await cluster.leader(stream)]
                node.stop(kill=True)
                lost += 1
                await asyncio.sleep(1.5)
                node.start()
                await cluster.leader(stream)
            acknowledged = await sending
            await wait_for_decisions(bus, acknowledged)
            assert process.stop() == 0
        decisions = await check(bus, parse_config(text))
        assert len(await read_stream(bus, Sample)) == acknowledged
    tried = f"{lost} leaders killed, {decisions} decisions"
    tally.add("JetStream cluster loses a node", tried, Broken(lost=acknowledged - decisions))
