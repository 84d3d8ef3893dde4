"""Every subject of JetStream's API, by every user, with every kind of reply subject: nothing is stored or changed."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from nats.aio.client import Client

from schemas.messages import Action, DeadLetter, Sample, encode
from schemas.units import Rate
from services.bus.bus import Bus
from tests.integration.bus.test_permissions import (
    DECISION,
    MANIFEST,
    REPLIES,
    SAMPLE,
    STREAMS,
    USERS,
    S,
    guarded_nats,
    intrude,
    join,
)
from tests.support.attack_tally import Attacks, resize
from tests.support.nats_server import NatsServer
from tests.support.waiting import PATIENCE_S

__all__ = ("guarded_nats",)

API = (
    "INFO", "ACCOUNT.PURGE.SLUICE", "ACCOUNT.STREAM.MOVE.SLUICE.{stream}", "ACCOUNT.STREAM.CANCEL_MOVE.SLUICE.{stream}",
    "SERVER.REMOVE", "META.LEADER.STEPDOWN", "STREAM.TEMPLATE.CREATE.x", "STREAM.TEMPLATE.DELETE.x",
    "STREAM.CREATE.{stream}", "STREAM.UPDATE.{stream}", "STREAM.NAMES", "STREAM.LIST", "STREAM.INFO.{stream}",
    "STREAM.DELETE.{stream}", "STREAM.PURGE.{stream}", "STREAM.SNAPSHOT.{stream}", "STREAM.RESTORE.{stream}",
    "STREAM.MSG.DELETE.{stream}", "STREAM.MSG.GET.{stream}", "STREAM.PEER.REMOVE.{stream}",
    "STREAM.LEADER.STEPDOWN.{stream}", "DIRECT.GET.{stream}", "DIRECT.GET.{stream}.{kept}",
    "CONSUMER.CREATE.{stream}", "CONSUMER.CREATE.{stream}.{consumer}", "CONSUMER.CREATE.{stream}.{consumer}.{kept}",
    "CONSUMER.DURABLE.CREATE.{stream}.{consumer}", "CONSUMER.NAMES.{stream}", "CONSUMER.LIST.{stream}",
    "CONSUMER.INFO.{stream}.{consumer}", "CONSUMER.DELETE.{stream}.{consumer}", "CONSUMER.PAUSE.{stream}.{consumer}",
    "CONSUMER.UNPIN.{stream}.{consumer}", "CONSUMER.RESET.{stream}.{consumer}",
    "CONSUMER.LEADER.STEPDOWN.{stream}.{consumer}", "CONSUMER.MSG.NEXT.{stream}.{consumer}",
)  # fmt: skip
"""Every subject of the API in NATS 2.15, below ``$JS.API``."""
OTHERS = (
    "$JS.ACK.{stream}.{consumer}.1.1.1.1.0", "$JS.FC.{stream}.{consumer}.x", "$JS.SNAPSHOT.ACK.{stream}.x",
    "$JSC.R.x", "$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.SLUICE.CLAIMS.UPDATE", "$SYS.ACCOUNT.SLUICE.CONNECT",
    "$KV.sluice.x", "$O.sluice.x", "$SRV.PING", "_INBOX_decision.x", "_INBOX_actuator.x", "_R_.x", "{kept}",
)  # fmt: skip
MORE_REPLIES = ("", "$JSC.R.x", "_INBOX_actuator.x", "_R_.x", "$SYS.REQ.SERVER.PING")
KEPT = {
    "SLUICE_SAMPLE": "sluice.sample.v1.line",
    "SLUICE_DECISION": "sluice.decision.v1.line",
    "SLUICE_ACTION": "sluice.action.v1.line.default%2Fupload",
    "SLUICE_DEAD": "sluice.dead.v1.actuator",
}
OWN = {"sampler": "sluice.sample.", "decision": "sluice.decision.", "actuator": "sluice.action."}
"""What a user may publish without any trick; the others may publish nothing."""


def subjects(user: str) -> Iterator[tuple[str, str, str]]:
    """Subject, stream and consumer of every request that is not the user's own trade."""
    for stream, kept in KEPT.items():
        for pattern in [f"$JS.API.{one}" for one in API] + list(OTHERS):
            for consumer in ("decision", "mine") if "{consumer}" in pattern else ("",):
                subject = pattern.format(stream=stream, kept=kept, consumer=consumer)
                if not subject.startswith((OWN.get(user, "-"), f"sluice.dead.v1.{user}")):
                    yield subject, stream, consumer


def bodies(stream: str, consumer: str, reply: str) -> list[bytes]:
    """What the API takes, with ``reply`` wherever it takes a subject."""
    config = {"name": consumer or "mine", "ack_policy": "none", "deliver_policy": "all"}
    push = {"stream_name": stream, "config": config | {"deliver_subject": reply or "x"}}
    pause = {"stream_name": stream, "config": config, "pause_until": "2099-01-01T00:00:00Z"}
    changed = {
        "name": stream,
        "subjects": [KEPT[stream]],
        "max_msgs": 1,
        "republish": {"src": ">", "dest": reply or "x"},
    }
    asked: list[Any] = [push, {"seq": 1}, {"batch": 10, "expires": 10**9}, {"last_by_subj": KEPT[stream]}]
    asked += [pause, changed, {"deliver_subject": reply or "x", "no_consumers": False}, {"purge": True, "keep": 0}]
    return [b"", b"+NXT", b"+TERM", *(json.dumps(one).encode() for one in asked), encode(DECISION)]


async def fill(server: NatsServer, monkeypatch: pytest.MonkeyPatch, keeper: Bus) -> None:
    """Put messages of every kind into their streams; the decision service's consumer has taken one."""
    await keeper.ensure_streams()
    action = Action("a1", "line", "default/upload", "dead-man", "applied", Rate(2000), "test")
    await keeper.publish(keeper.subjects.action("line", action.target), action, msg_id=action.id)
    letter = DeadLetter("sluice.decision.v1.line", "actuator", "test", "")
    await keeper.publish(keeper.subjects.dead("actuator"), letter, msg_id="dead")
    async with join(server, "sampler", monkeypatch) as sampler:
        for end in range(3, 13):
            one = replace(SAMPLE, end=end * S)
            await sampler.publish(sampler.subjects.sample("line"), one, msg_id=one.id)
    async with join(server, "decision", monkeypatch) as decision:
        async with aclosing(decision.consume(Sample, "decision", "decision")) as samples:
            await (await anext(samples)).ack()
        await decision.publish(decision.subjects.decision("line"), DECISION, msg_id=DECISION.id, expect_last=0)


async def take_stock(keeper: Bus) -> dict[str, Any]:
    """What must not change: every stream's configuration and messages, and the decision service's consumer."""
    found: dict[str, Any] = {}
    for kind in STREAMS:
        name = keeper.subjects.stream(kind)
        info = await keeper._session.request(f"STREAM.INFO.{name}")
        found[name] = (
            info["config"],
            {key: info["state"][key] for key in ("messages", "first_seq", "last_seq", "bytes")},
        )
    return found


async def look_at_consumer(reader: Client) -> dict[str, Any]:
    """The decision service's consumer."""
    answer = await reader.request("$JS.API.CONSUMER.INFO.SLUICE_SAMPLE.decision", b"", timeout=PATIENCE_S)
    info = json.loads(answer.data)
    return {key: info[key] for key in ("config", "delivered", "ack_floor", "num_pending", "num_ack_pending")}


async def test_no_request_of_any_user_changes_a_stream(
    guarded_nats: NatsServer, monkeypatch: pytest.MonkeyPatch, attacks: Attacks
) -> None:
    """The suite sends each request with each reply subject once; the full attack sends every body with each."""
    every = resize(1, 0) == 0
    began = time.monotonic()
    async with join(guarded_nats, "actuator", monkeypatch) as keeper:
        await fill(guarded_nats, monkeypatch, keeper)
        before = await take_stock(keeper)
        async with intrude(guarded_nats, "reader") as (reader, _):
            consumer = await look_at_consumer(reader)
        for user in USERS:
            tried, answers = 0, Counter[str]()
            async with intrude(guarded_nats, user) as (attacker, violations):
                for number, (subject, stream, name) in enumerate(subjects(user)):
                    for place, reply in enumerate(REPLIES + MORE_REPLIES):
                        known = bodies(stream, name, reply)
                        for body in known if every else known[(number + place) % len(known) :][:1]:
                            await attacker.publish(subject, body, reply=reply)
                            tried += 1
                    if number % 20 == 0:
                        await attacker.flush(int(PATIENCE_S))
                await attacker.flush(int(PATIENCE_S))
                answers["refused"] = len(violations)
            # Whatever the server does later, it has done before it answers these.
            after = await take_stock(keeper)
            changed = [name for name in before if after[name] != before[name]]
            async with intrude(guarded_nats, "reader") as (reader, _):
                # The decision service may take and acknowledge its own samples, and nobody else may.
                stolen = user != "decision" and await look_at_consumer(reader) != consumer
                consumer = await look_at_consumer(reader)
            print(user, changed, stolen, [(before[one], after[one]) for one in changed])
            attacks.add("requests with chosen reply subjects", f"{tried} requests, 1 users", len(changed) + stolen)
            assert answers["refused"] > tried // 3, "most requests are refused outright"
        assert await take_stock(keeper) == before
    print(f"{time.monotonic() - began:.1f} s")


async def test_the_attack_finds_a_bus_without_accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same permissions and one account for all, answers to the reader's own requests are stored."""
    users = re.findall(r"users: \[\{(.*?)\n    \}\]", MANIFEST.read_text(encoding="utf-8"), re.DOTALL)
    assert len(users) == len(USERS)
    listed = ", ".join(f"{{{one}}}" for one in users)
    for user in USERS:
        monkeypatch.setenv(f"{user.upper()}_PASSWORD", f"p-{user}")
    with NatsServer(tmp_path / "nats", f"authorization {{users: [{listed}]}}") as server:
        async with join(server, "actuator", monkeypatch) as keeper:
            await fill(server, monkeypatch, keeper)
            before = await take_stock(keeper)
            async with intrude(server, "reader") as (attacker, _):
                await attacker.publish("$JS.API.STREAM.INFO.SLUICE_SAMPLE", b"", reply=KEPT["SLUICE_DECISION"])
                await attacker.flush(int(PATIENCE_S))
            await until_changed(keeper, before)


async def until_changed(keeper: Bus, before: dict[str, Any]) -> None:
    """Wait until a stream has changed."""
    async with asyncio.timeout(PATIENCE_S):
        while await take_stock(keeper) == before:  # noqa: ASYNC110 - the server's doing
            await asyncio.sleep(0.05)
