"""KEDA's scaler of JetStream on the bus's real monitoring page: each trigger of the manifests finds its consumer's lag.

KEDA itself does not run here.  What it asks for and reads is that of ``pkg/scalers/nats_jetstream_scaler.go``.
"""

import time
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from services.bus.partitions import find_partition
from tests.support.decision_services import (
    S,
    ServiceProcess,
    config_text,
    join,
    sample,
    send,
    wait_for_decisions,
)
from tests.support.kube.servers import eventually
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port

MANIFEST = Path(__file__).parents[3] / "manifests" / "components" / "keda" / "scaling.yaml"
DOMAIN = "line"
WAITING = 60
"""Samples: more than a trigger's threshold."""


def read_triggers() -> list[dict[str, str]]:
    """What the triggers of the ScaledObject say."""
    scaled = next(one for one in yaml.safe_load_all(MANIFEST.read_text()) if one["kind"] == "ScaledObject")
    assert {one["type"] for one in scaled["spec"]["triggers"]} == {"nats-jetstream"}
    return [one["metadata"] for one in scaled["spec"]["triggers"]]


async def read_lag(trigger: dict[str, str], endpoint: str) -> int | None:
    """What KEDA takes for the lag; None where it would take the length of the stream, for want of the consumer."""
    parameters = {"acc": trigger["account"], "consumers": "true", "config": "true"}
    async with aiohttp.request("GET", f"http://{endpoint}/jsz", params=parameters) as answer:
        found: dict[str, Any] = await answer.json(content_type=None)
    accounts = [one for one in found.get("account_details") or () if one["name"] == trigger["account"]]
    streams = [one for account in accounts for one in account["stream_detail"] if one["name"] == trigger["stream"]]
    for stream in streams:
        for consumer in stream.get("consumer_detail") or ():
            if consumer["name"] == trigger["consumer"]:
                return int(consumer["num_pending"]) + int(consumer["num_ack_pending"])
    return None


async def test_each_trigger_finds_the_lag_of_its_consumer(tmp_path: Path) -> None:
    """One domain: eleven partitions have no lag; while no replica answers, its samples wait at the twelfth."""
    endpoint = f"127.0.0.1:{free_port()}"
    account = "accounts {SLUICE {jetstream: enabled, users: [{user: all, password: p}]}}\nno_auth_user: all"
    triggers = read_triggers()
    assert len({one["consumer"] for one in triggers}) == len(triggers)

    with NatsServer(tmp_path / "nats", f'http: "{endpoint}"\n{account}') as nats:
        text = config_text(nats.url, "sluice", (DOMAIN,))
        replica = ServiceProcess("decision", tmp_path, text, None, {"SLUICE_REPLICA": "sluice-decision-0"})
        lags: list[int | None] = []

        async def has_lags(waiting: int) -> bool:
            lags[:] = [await read_lag(one, endpoint) for one in triggers]
            own = f"decision-{find_partition(DOMAIN)}"
            return lags == [waiting if one["consumer"] == own else 0 for one in triggers]

        with replica:
            async with join(nats.url, "sluice") as bus:
                begin = time.time_ns() - 600 * S
                await send(bus, [sample(DOMAIN, 1, begin)])
                await wait_for_decisions(bus, 1)
                await eventually(lambda: has_lags(0))
                replica.freeze()
                await send(bus, [sample(DOMAIN, number, begin) for number in range(2, 2 + WAITING)])
                await eventually(lambda: has_lags(WAITING))
                assert int(triggers[0]["lagThreshold"]) < WAITING
                replica.thaw()
                await eventually(lambda: has_lags(0))
