"""The audit and the explanation of a live bus find the same faults as in a recording."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw, structs

from schemas.config import BusConfig
from schemas.messages import Action, Decision
from services.bus.bus import Bus
from services.bus.envelope import MSG_ID
from services.plant.kube_emulator.emulator import Emulator
from services.runtime.config_loader import load
from services.tools.audit.auditor import Auditor
from services.tools.common.formatting import decode_message
from services.tools.common.recording import RecordedMessage, RecordingReader, build_message
from services.tools.replay.decision_process import build_configuration
from tests.support.actuators import ActuatorProcess, Decider, Scene
from tests.support.bus_stream import PERIOD, config, record, stream
from tests.support.commands import sluice
from tests.support.decision_services import join
from tests.support.kube.servers import BANDWIDTH, emulate
from tests.support.nats_server import NatsServer

COUNT = 60
Lines = list[RecordedMessage]


async def put(bus: Bus, lines: Iterable[RecordedMessage]) -> None:
    """Publish messages in the given order, with the headers of their services."""
    for number, line in enumerate(lines):
        headers = {name: value for name, value in line.headers.items() if name != MSG_ID}
        await bus.publish(line.subject, decode_message(line), msg_id=str(number), headers=headers)


@asynccontextmanager
async def open_bus(nats: NatsServer, home: Path, lines: Lines) -> AsyncIterator[tuple[Bus, Path]]:
    """A bus with these messages, and the configuration file of its readers."""
    settings = BusConfig(servers=(nats.url,))
    header = RecordingReader(record(home / "empty", config(), iter([]))).header
    path = home / "config.yaml"
    path.write_text(json.dumps(build_configuration(header, settings)))
    async with join(nats.url, settings.prefix) as bus:
        await put(bus, lines)
        yield bus, path


async def run_audit(path: Path, *arguments: str) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
    """Exit code, breaks and all findings of ``sluice audit --json`` on the bus."""
    done = await asyncio.to_thread(sluice, "audit", "--config", path, "--json", *arguments)
    findings = json.loads(done.stdout)["findings"]
    return done.returncode, findings["breaks"], findings


@pytest.fixture
def sound() -> Lines:
    """The last minute of a domain without faults."""
    begin = (time.time_ns() // PERIOD - 2 * COUNT) * PERIOD
    return list(stream(config(), COUNT, actions=True, begin=begin))


def nth(lines: Lines, kind: str, n: int) -> int:
    """The position of the ``n``-th message of a kind."""
    return [i for i, line in enumerate(lines) if line.kind == kind][n]


def edit(line: RecordedMessage, **changes: Any) -> RecordedMessage:
    """A line whose message has changed fields."""
    body = json.loads(line.payload) | changes
    return structs.replace(line, body=Raw(json.dumps(body).encode()))


async def test_a_sound_bus_passes(nats: NatsServer, tmp_path: Path, sound: Lines) -> None:
    """No fault is reported, from the first message or from the middle."""
    async with open_bus(nats, tmp_path, sound) as (_, path):
        code, breaks, findings = await run_audit(path)
        assert (code, breaks) == (0, [])
        assert findings["samples"] == findings["decisions"] == findings["remade"] == COUNT
        assert findings["actions"] > COUNT
        assert (await run_audit(path, "--since", "30s"))[:2] == (0, [])


async def test_a_dropped_action(nats: NatsServer, tmp_path: Path, sound: Lines) -> None:
    """An action that was deleted from its stream leaves a gap, and a limit without an action."""
    async with open_bus(nats, tmp_path, sound) as (bus, path):
        await bus._session.request(f"STREAM.MSG.DELETE.{bus.subjects.stream('action')}", {"seq": 30})
        code, breaks, _ = await run_audit(path)
    assert code == 1
    assert {one["rule"] for one in breaks} >= {"whole", "chain"}
    assert "action 30 missing" in [one["what"] for one in breaks]


def remove_cause(lines: Lines) -> Lines:
    """A patch that names no decision."""
    at = nth(lines, "action", 30)
    return [*lines[:at], edit(lines[at], decision=None), *lines[at + 1 :]]


def reorder(lines: Lines) -> Lines:
    """Two decisions in reversed order."""
    one, other = nth(lines, "decision", 30), nth(lines, "decision", 31)
    swapped = list(lines)
    swapped[one], swapped[other] = lines[other], lines[one]
    return swapped


def tamper(lines: Lines) -> Lines:
    """A decision with a changed limit within its bounds."""
    at = nth(lines, "decision", 30)
    targets = json.loads(lines[at].payload)["targets"]
    targets[0]["limit"] = 6_000
    return [*lines[:at], edit(lines[at], targets=targets), *lines[at + 1 :]]


def change_action(lines: Lines) -> Lines:
    """An action that set another limit than its decision."""
    at = nth(lines, "action", 30)
    return [*lines[:at], edit(lines[at], limit=6_000), *lines[at + 1 :]]


@pytest.mark.parametrize(
    ("mutation", "rule", "words"),
    [
        (remove_cause, "cause", "names none"),
        (reorder, "sequence", "follows number"),
        (tamper, "decision", "does not follow"),
        (change_action, "cause", "set 6000 kbit/s, and decision"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_what_is_wrong_is_found(
    nats: NatsServer, tmp_path: Path, sound: Lines, mutation: Callable[[Lines], Lines], rule: str, words: str
) -> None:
    """Each fault on the bus is found by its rule, and makes the audit fail."""
    async with open_bus(nats, tmp_path, mutation(sound)) as (_, path):
        code, breaks, _ = await run_audit(path)
    assert code == 1
    assert any(one["rule"] == rule and words in one["what"] for one in breaks), breaks


async def test_a_limit_of_the_live_bus_is_explained(nats: NatsServer, tmp_path: Path, sound: Lines) -> None:
    """By the domain's name, the last change of a limit: measured, proposed, shielded, applied, and its duration."""
    moved = [one for line in sound if isinstance(one := decode_message(line), Decision)]
    last = [one for one in moved if any(target.limit != target.was for target in one.targets)][-1]
    async with open_bus(nats, tmp_path, sound) as (_, path):
        done = await asyncio.to_thread(sluice, "explain", last.domain, "--config", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Decision {last.id}")
    for part in (
        "Measured from",
        "robot-control jitter",
        "Proposed by proportional/1",
        "Shielded",
        "applied on 3 pods",
    ):
        assert part in done.stdout
    assert "Made again from its sample: the same, byte for byte" in done.stdout
    acted = [one for line in sound if isinstance(one := decode_message(line), Action) and one.decision == last.id]
    assert acted


async def test_a_target_that_is_left_alone_for_a_while(nats: NatsServer, tmp_path: Path) -> None:
    """While a foreign value pauses it nothing is due, and the removed value breaks no chain."""
    async with emulate(Emulator(starts_after=None)) as server, join(nats.url, "sluice") as bus:
        await server.deploy(replicas=1, template={BANDWIDTH: "10M"})
        await server.pods_of("app", 1)
        path, scene, decider = f"{server.deployments}/app", Scene(server, bus), Decider(bus, server.namespace)
        with ActuatorProcess(tmp_path, nats.url, server):
            await decider.publish_limit("60M")
            await scene.wait_for_limits("60M", ["60M"])
            await scene.annotate(path, {BANDWIDTH: "33M"})
            await scene.wait_for_reports(outcome="skipped")
            await decider.publish_limit("20M")
            paused = await everything(bus)
            await scene.annotate(path, {BANDWIDTH: None})
            await scene.wait_for_limits("20M", ["20M"])
            await scene.wait_for_reports(2, cause="decision", outcome="applied")
            handed_back = await everything(bus)
    domains = load(tmp_path / "config.yaml").domains
    for lines in (paused, handed_back):
        audit = Auditor(domains, 0, whole=True)
        # A last message from long after, so that everything due was due before it.
        late = structs.replace(lines[-1], kind="dead", seq=1, time=lines[-1].time + 3600 * 10**9)
        for line in [*lines, late]:
            audit.check(line)
        assert [one for one in audit.finish().breaches if one.where == f"{server.namespace}/app"] == []
    assert any(
        isinstance(one := decode_message(line), Action) and one.was is None and one.applied for line in handed_back
    )


async def everything(bus: Bus) -> Lines:
    """The bus's decisions and actions, by time."""
    lines = [
        build_message(kind, raw.subject, raw.seq, raw.published, dict(raw.headers), raw.body)
        for kind in ("decision", "action")
        async for raw in bus.read(kind)
    ]
    return sorted(lines, key=lambda line: line.time)
