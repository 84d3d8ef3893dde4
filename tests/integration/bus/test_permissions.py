"""The bus with the manifests' permissions: each service can do its work, and all else is refused."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from nats.aio.client import Client
from nats.errors import Error

from schemas.config import BusConfig
from schemas.definition import Definition, DefinitionSource
from schemas.domain import Critical, Domain, Target
from schemas.messages import Decision, Sample, encode
from schemas.units import Rate
from services.bus.bus import Bus
from services.bus.partitions import PARTITIONS
from services.bus.sharing import Share, SharedSubjects
from services.bus.subjects import KINDS
from services.control import Controller
from tests.support.nats_server import NatsServer
from tests.support.waiting import PATIENCE_S, until

MANIFEST = Path(__file__).parents[3] / "manifests" / "nats.conf"
USERS = ("sampler", "decision", "actuator", "exporter", "reader")
STREAMS = KINDS
S = 10**9
SAMPLE = Sample(domain="line", start=S, end=3 * S, period=S, source="test", no_data="test")
TARGET = Target(deployment="upload", min=Rate(1000), max=Rate(9000), fail_safe=Rate(2000))
DOMAIN = Domain(name="line", critical=(Critical(workload="robot"),), targets=(TARGET,))
DECISION = Controller(DOMAIN).step(None, SAMPLE)
DEFINITION = Definition("line", 1, DefinitionSource(name="line"), DOMAIN)


@pytest.fixture
def guarded_nats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NatsServer]:
    """A nats-server with the manifest's users; each password equals the name."""
    text = MANIFEST.read_text()
    monkeypatch.setenv("POD_NAME", "nats-0")
    for user in USERS:
        monkeypatch.setenv(f"{user.upper()}_PASSWORD", f"p-{user}")
    with NatsServer(tmp_path / "nats", text[text.index("authorization {") :]) as server:
        yield server


@asynccontextmanager
async def join(server: NatsServer, user: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bus]:
    """A service's connection to the guarded bus."""
    monkeypatch.setenv("SLUICE_NATS_PASSWORD", f"p-{user}")
    async with (
        asyncio.timeout(PATIENCE_S),
        Bus.connect(BusConfig(servers=(server.url,), user=user), user, lambda _: None) as bus,
    ):
        yield bus


async def test_each_service_can_do_its_part(guarded_nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The actuator creates the streams; sample and decision reach their consumers; the reader sees both."""
    async with join(guarded_nats, "sampler", monkeypatch) as sampler:
        reports = await sampler.ensure_streams()
        assert len(reports) == len(STREAMS)
        assert all("this user may not publish" in report for report in reports), reports
    async with join(guarded_nats, "actuator", monkeypatch) as actuator:
        assert await actuator.ensure_streams() == []
        async with join(guarded_nats, "sampler", monkeypatch) as sampler:
            assert await sampler.ensure_streams() == []
            await sampler.publish(sampler.subjects.sample("line"), SAMPLE, msg_id=SAMPLE.id)
        async with join(guarded_nats, "decision", monkeypatch) as decision:
            async with aclosing(decision.consume(Sample, "decision", "decision")) as samples:
                next_sample = await anext(samples)
                subject = decision.subjects.decision("line")
                await decision.publish(subject, DECISION, msg_id=DECISION.id, expect_last=0)
                await next_sample.ack()
            assert await decision.get_last(Decision, subject) is not None
        async with aclosing(
            actuator.consume(Decision, "actuator-1", "actuator", start="latest", transient=True)
        ) as decisions:
            received = await anext(decisions)
            assert received.message.sample == next_sample.message.id == SAMPLE.id
            await received.ack()
        async with join(guarded_nats, "reader", monkeypatch) as reader:
            assert await reader.get_last(Sample, reader.subjects.sample("line")) is not None
            async with aclosing(reader.consume(Decision, None, "reader")) as decisions:
                assert (await anext(decisions)).message.sample == SAMPLE.id


@pytest.mark.parametrize("follower", USERS)
async def test_everybody_follows_definitions(
    guarded_nats: NatsServer, monkeypatch: pytest.MonkeyPatch, follower: str
) -> None:
    """The actuator publishes them."""
    async with join(guarded_nats, "actuator", monkeypatch) as actuator:
        await actuator.ensure_streams()
        subject = actuator.subjects.definition("line")
        await actuator.publish(subject, DEFINITION, msg_id=DEFINITION.id, expect_last=0)
        async with join(guarded_nats, follower, monkeypatch) as bus:
            found = await bus.get_last(Definition, subject)
            assert found is not None
            assert found.message == DEFINITION
            async with aclosing(bus.consume(Definition, None, follower, start="latest")) as definitions:
                assert (await anext(definitions)).message == DEFINITION


FORGED = {"decision": ("sampler", "exporter", "reader"), "definition": ("sampler", "decision", "exporter", "reader")}


@pytest.mark.parametrize(("kind", "intruder"), [(kind, one) for kind, users in FORGED.items() for one in users])
async def test_a_forged_message_is_refused(
    guarded_nats: NatsServer, monkeypatch: pytest.MonkeyPatch, kind: str, intruder: str
) -> None:
    """A well-formed decision or definition from a compromised service, or from a reader, never reaches the stream."""
    async with join(guarded_nats, "actuator", monkeypatch) as actuator:
        await actuator.ensure_streams()
        violations: list[str] = []

        async def on_error(error: Exception) -> None:
            violations.append(str(error))

        forger = Client()
        await forger.connect(guarded_nats.url, user=intruder, password=f"p-{intruder}", error_cb=on_error)
        await forger.publish(f"sluice.{kind}.v1.line", encode(DECISION if kind == "decision" else DEFINITION))
        await forger.drain()
        assert any("permissions violation for publish" in text.lower() for text in violations), violations
        assert not any((await count_stored(actuator)).values())


@asynccontextmanager
async def intrude(server: NatsServer, user: str) -> AsyncIterator[tuple[Client, list[str]]]:
    """A plain client with a service's password, and the server's refusals."""
    violations: list[str] = []

    async def on_error(error: Exception) -> None:
        violations.append(str(error))

    client = Client()
    await client.connect(server.url, user=user, password=f"p-{user}", inbox_prefix=f"_INBOX_{user}", error_cb=on_error)
    try:
        yield client, violations
    finally:
        await client.close()


async def test_a_reader_cannot_touch_a_services_consumer(
    guarded_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can neither redirect a consumer to another subject, nor take its samples, nor learn its name.

    It reads through consumers of its own.
    """
    async with (
        join(guarded_nats, "actuator", monkeypatch) as actuator,
        join(guarded_nats, "decision", monkeypatch) as decision,
    ):
        await actuator.ensure_streams()
        async with aclosing(decision.consume(Sample, "decision", "decision")) as samples:
            async with join(guarded_nats, "sampler", monkeypatch) as sampler:
                await sampler.publish(sampler.subjects.sample("line"), SAMPLE, msg_id=SAMPLE.id)
            await (await anext(samples)).ack()
            async with intrude(guarded_nats, "reader") as (reader, violations):
                answer = await reader.request("$JS.API.CONSUMER.INFO.SLUICE_SAMPLE.decision", b"")
                config = json.loads(answer.data)["config"]
                config["filter_subject"] = unused = "sluice.sample.v1.nobody"
                request = json.dumps({"stream_name": "SLUICE_SAMPLE", "config": config, "action": "update"}).encode()
                refused = [
                    "CONSUMER.CREATE.SLUICE_SAMPLE.decision",
                    f"CONSUMER.CREATE.SLUICE_SAMPLE.decision.{unused}",
                    "CONSUMER.CREATE.SLUICE_SAMPLE",
                    "CONSUMER.DURABLE.CREATE.SLUICE_SAMPLE.decision",
                    "CONSUMER.MSG.NEXT.SLUICE_SAMPLE.decision",
                    "CONSUMER.DELETE.SLUICE_SAMPLE.decision",
                    "CONSUMER.NAMES.SLUICE_DECISION",
                    "CONSUMER.LIST.SLUICE_DECISION",
                ]
                for what in refused:
                    await reader.publish(f"$JS.API.{what}", request, reply=reader.new_inbox())
                await until(lambda: len(violations) == len(refused), lambda: violations)
                assert all("permissions violation for publish" in text.lower() for text in violations), violations
                # A different name in the subject than in the request does not circumvent it.
                answer = await reader.request(f"$JS.API.CONSUMER.CREATE.SLUICE_SAMPLE.mine.{unused}", request)
                assert "error" in json.loads(answer.data)
                answer = await reader.request("$JS.API.CONSUMER.INFO.SLUICE_SAMPLE.decision", b"")
                found = json.loads(answer.data)
                assert found["config"]["filter_subject"] == "sluice.sample.v1.>"
                assert (found["delivered"]["consumer_seq"], found["ack_floor"]["consumer_seq"]) == (1, 1)


async def test_partitions_are_read_by_the_decision_service_alone(
    guarded_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbered replicas share a consumer for each partition; a reader may neither change one nor take its samples."""
    async with (
        join(guarded_nats, "actuator", monkeypatch) as actuator,
        join(guarded_nats, "decision", monkeypatch) as decision,
    ):
        await actuator.ensure_streams()
        names = [f"decision-{number}" for number in range(PARTITIONS)]
        share = Share(SharedSubjects([decision.subjects.sample("line")]), 3)
        async with aclosing(decision.consume(Sample, names[-1], "decision", share=share)) as samples:
            async with join(guarded_nats, "sampler", monkeypatch) as sampler:
                await sampler.publish(sampler.subjects.sample("line"), SAMPLE, msg_id=SAMPLE.id)
            await (await anext(samples)).ack()
        async with intrude(guarded_nats, "reader") as (reader, violations):
            refused = [
                what
                for name in names
                for what in (
                    f"CONSUMER.CREATE.SLUICE_SAMPLE.{name}",
                    f"CONSUMER.CREATE.SLUICE_SAMPLE.{name}.sluice.sample.v1.line",
                    f"CONSUMER.MSG.NEXT.SLUICE_SAMPLE.{name}",
                )
            ]
            for what in refused:
                await reader.publish(f"$JS.API.{what}", b"{}", reply=reader.new_inbox())
            await until(lambda: len(violations) == len(refused), lambda: violations)


REPLIES = (
    "sluice.sample.v1.line",
    "sluice.decision.v1.line",
    "sluice.action.v1.line.default.upload",
    "sluice.dead.v1.decision",
    "sluice.dead.v1.actuator",
    "$JS.API.STREAM.PURGE.SLUICE_ACTION",
    "$JS.API.STREAM.DELETE.SLUICE_DECISION",
    "$JS.API.CONSUMER.DELETE.SLUICE_SAMPLE.decision",
    "$JS.ACK.SLUICE_SAMPLE.decision.1.1.1.1.0",
)
"""Reply subjects that an attacker chooses."""


def permitted(user: str) -> list[str]:
    """The subjects that a user may publish to, with names in place of wildcards."""
    mine = MANIFEST.read_text().partition(f"user: {user}\n")[2].partition("imports:")[0].partition("deny:")[0]
    subjects = re.findall(r'"((?:sluice|\$JS)\.[^"]+)"', mine)
    named = [subject.replace("API.STREAM.INFO.*", "API.STREAM.INFO.SLUICE_SAMPLE") for subject in subjects]
    named = [re.sub(r"(GET|CREATE|INFO|NEXT)\.\*", r"\1.SLUICE_SAMPLE", subject) for subject in named]
    return [subject.replace("*", "mine").replace(">", "mine") for subject in named]


def requests_on(subject: str, reply: str) -> list[bytes]:
    """An attacker's requests on a subject, which send the reply or a stored message to ``reply``."""
    stream = next((part for part in subject.split(".") if part.startswith("SLUICE_")), "")
    config = {"name": "mine", "deliver_subject": reply, "ack_policy": "none", "deliver_policy": "all"}
    push = {"stream_name": stream, "config": config}
    return [b"", b"+NXT", *(json.dumps(one).encode() for one in ({"seq": 1}, {"batch": 10}, push))]


async def count_stored(bus: Bus) -> dict[str, int]:
    """The last sequence of every stream; no message is missing."""
    found = {}
    for kind in STREAMS:
        info = await bus._session.request(f"STREAM.INFO.{bus.subjects.stream(kind)}")
        found[kind] = info["state"]["last_seq"]
        assert info["state"]["messages"] == found[kind], "no message is missing"
    return found


@pytest.mark.parametrize("user", USERS)
async def test_no_answer_of_the_server_is_stored(
    guarded_nats: NatsServer, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    """A permitted request with a harmful reply subject neither stores nor deletes a message."""
    tried = 0
    async with join(guarded_nats, "actuator", monkeypatch) as actuator:
        await actuator.ensure_streams()
        async with join(guarded_nats, "sampler", monkeypatch) as sampler:
            for end in range(3, 23):
                one = replace(SAMPLE, end=end * S)
                await sampler.publish(sampler.subjects.sample("line"), one, msg_id=one.id)
        async with join(guarded_nats, "decision", monkeypatch) as decision:
            async with aclosing(decision.consume(Sample, "decision", "decision")) as samples:
                await (await anext(samples)).ack()
            await decision.publish(decision.subjects.decision("line"), DECISION, msg_id=DECISION.id, expect_last=0)
        wanted = await count_stored(actuator)
        async with intrude(guarded_nats, user) as (attacker, _):
            for subject in permitted(user):
                for reply in REPLIES:
                    for body in requests_on(subject, reply):
                        if subject.startswith("sluice.") and not reply.startswith("$JS.ACK"):
                            # What a user may publish is stored, once; with an acknowledgement's subject it is refused.
                            wanted[subject.split(".")[1]] += 1
                        await attacker.publish(subject, body, reply=reply)
                        tried += 1
            await attacker.flush()
            async with asyncio.timeout(PATIENCE_S):
                while sum((await count_stored(actuator)).values()) < sum(wanted.values()):  # noqa: ASYNC110 - the server's
                    await asyncio.sleep(0.05)
            await asyncio.sleep(1)
        assert await count_stored(actuator) == wanted
    print(f"{user}: {tried} requests on {len(permitted(user))} subjects, 0 answers stored")
    assert tried > 50


async def test_a_client_without_a_password_is_refused(guarded_nats: NatsServer) -> None:
    """Neither without a user nor with a wrong password."""
    refusals: list[str] = []

    async def on_error(error: Exception) -> None:
        refusals.append(str(error))

    for user, password in ((None, None), ("decision", "guess")):
        stranger = Client()
        with pytest.raises(Error):
            await stranger.connect(
                guarded_nats.url,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                error_cb=on_error,
                user=user,
                password=password,
            )
        await stranger.close()
        # The server sends the reason and closes the connection; the second may arrive first.
        assert re.search("authorization|reset by peer", refusals.pop().lower())
