"""A grammar of hostile input for every reader: messages, recordings, pages of metrics, answers of the API server.

``make attack`` draws ten times as many.
"""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner
from msgspec.structs import replace

from schemas.config import Kubernetes
from schemas.messages import KINDS, Decision, InvalidMessage, Sample, State, TargetDecision, decode, encode
from services.cli import main
from services.control import Controller, RejectedSample
from services.kube.client import KubeClient
from services.kube.objects import Deployment, NotFound, Pod, Rejected, StaleObject, Unavailable, decode_as
from services.sampler.scrape.window import PageWindow
from services.tools.common.recording import InvalidRecording, RecordingReader
from tests.property.test_parser import PAGE, read
from tests.support.attack_tally import Attacks, resize
from tests.support.bus_stream import BEGIN, config, record, samples, stream
from tests.support.hostile_messages import draw

S = 10**9
FACTOR = resize(1, 10)


def test_messages(attacks: Attacks) -> None:
    """Each is refused with a reason, or is a message; no sample moves a limit out of its bounds."""
    domain = config().domains[0]
    controller = Controller(domain)
    sound = list(samples(domain, 3))
    state = controller.answer(None, sound[0], sound[0].end).state
    bounds = {target.key: (int(target.min), int(target.max)) for target in domain.targets}
    bodies = {"sample": encode(sound[1]), "decision": encode(controller.answer(state, sound[1], sound[1].end))}
    tried = outside = 0
    for kind, body in bodies.items():
        for hostile in draw(body, 250 * FACTOR):
            tried += 1
            try:
                message = decode(KINDS[kind], hostile)  # type: ignore[type-var]
            except InvalidMessage:
                continue
            if isinstance(message, Sample) and message.domain == domain.name:
                try:
                    answer = controller.answer(state, message, BEGIN + S)
                except RejectedSample:
                    continue
                found = {part.target: part.limit for part in answer.targets}
                outside += any(not low <= found[key] <= high for key, (low, high) in bounds.items())
            elif isinstance(message, Decision) and message.state.policy == state.policy:
                # As a state to go on from: whatever it holds, the shield's bounds hold, or it is refused.
                later = replace(sound[2], end=message.end + S, start=message.end)
                try:
                    answer = controller.answer(message.state, later, later.end)
                except (RejectedSample, ValueError, TypeError, OverflowError, ArithmeticError, KeyError):
                    continue
                outside += any(not _may_follow(one, bounds[one.target], message.state) for one in answer.targets)
    attacks.add("hostile messages", f"{tried} messages", outside)


def _may_follow(answer: TargetDecision, bounds: tuple[int, int], state: State) -> bool:
    """Whether a limit lies within the bounds, or rises to the minimum from a lower one, as after a raised minimum."""
    low, high = bounds
    known = state.shield.get(answer.target)
    least = low if known is None or known.limit < 1 else min(low, known.limit)
    return least <= answer.limit <= high


def mutate(chance: Random, data: bytes) -> bytes:
    """Cut, repeat, flip or insert somewhere."""
    at, size = chance.randrange(len(data)), chance.choice((1, 1, 2, 8, 100, 3000))
    match chance.randrange(5):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + data[at : at + size] * 3 + data[at + size :]
        case 2:
            return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
        case 3:
            return data[:at] + chance.randbytes(size) + data[at:]
        case _:
            return data[:at] + data[at + size :]


def test_recordings(tmp_path: Path, attacks: Attacks) -> None:
    """Each is read up to what is damaged, and every command ends in a documented way."""
    sound = record(tmp_path / "sound", config(), stream(config(), 60, actions=True)).read_bytes()
    chance, tried, broken = Random(12), 0, 0
    file = tmp_path / "hurt.jsonl.zst"
    for number in range(120 * FACTOR):
        data = sound
        for _ in range(chance.randrange(1, 4)):
            data = mutate(chance, data) or b"x"
        file.write_bytes(data)
        tried += 1
        try:
            reader = RecordingReader(file)
            for line in reader.read_messages():
                decode(KINDS[line.kind], line.payload)  # type: ignore[type-var]
        except (InvalidRecording, InvalidMessage):
            pass
        if number % 20 == 0:
            for command in (["audit", file], ["replay", file]):
                done = CliRunner().invoke(main, list(map(str, command)))
                sound_end = done.exception is None or isinstance(done.exception, SystemExit)
                broken += not sound_end or done.exit_code not in (0, 1, 3)
    attacks.add("hostile recordings", f"{tried} recordings", broken)


def test_pages(attacks: Attacks) -> None:
    """A page is read to plausible figures, or refused."""
    chance, tried = Random(12), 0
    for _ in range(150 * FACTOR):
        history = PageWindow(10)
        read(PAGE, history, 1)
        for end in range(2, 5):
            page = PAGE
            for _ in range(chance.randrange(3)):
                page = mutate(chance, page) or b"x"
            read(page, history, end)
            tried += 1
    attacks.add("hostile metric pages", f"{tried} pages")


def listed(kind: type[Deployment | Pod]) -> dict[str, Any]:
    """What an API server lists."""
    meta: dict[str, Any] = {
        "name": "app",
        "namespace": "n",
        "uid": "u",
        "resourceVersion": "7",
        "annotations": {"a": "b"},
    }
    owner = {"kind": "ReplicaSet", "name": "app-1", "uid": "r", "controller": True}
    meta |= {"labels": {"app": "app", "pod-template-hash": "1"}, "ownerReferences": [owner]}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "app"}}}
    obj = {
        "kind": kind.kind,
        "apiVersion": kind.api_version,
        "metadata": meta,
        "spec": spec,
        "status": {"phase": "Running"},
    }
    return {"kind": f"{kind.kind}List", "metadata": {"resourceVersion": "8"}, "items": [obj]}


@asynccontextmanager
async def answering(bodies: list[bytes]) -> AsyncIterator[KubeClient]:
    """A client of a server that gives these answers, one after the other, and then refuses."""

    async def answer(request: web.Request) -> web.Response:
        body = bodies.pop(0) if bodies else None
        status = 503 if body is None else 422 if len(body) % 7 == 0 else 200
        return web.Response(body=body, status=status, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server, KubeClient.connect(Kubernetes(server=str(server.make_url("/")))) as client:
        yield client


@pytest.mark.parametrize("kind", [Deployment, Pod])
async def test_answers_of_the_api_server(
    kind: type[Deployment | Pod], attacks: Attacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list, a watch, an object and the answer to a patch: each is what was asked for, or one of four errors."""
    monkeypatch.setattr("services.kube.client._ENDED_S", (0.001, 0.001))
    sound = listed(kind)
    event = {"type": "MODIFIED", "object": sound["items"][0]}
    lists = draw(json.dumps(sound).encode(), 60 * FACTOR)
    events = draw(json.dumps(event).encode(), 60 * FACTOR)
    objects = draw(json.dumps(sound["items"][0]).encode(), 120 * FACTOR)
    errors = (Unavailable, Rejected, NotFound, StaleObject)
    queue: list[bytes] = []
    refused = 0
    async with answering(queue) as client:
        for one in lists:
            queue[:] = [one]
            try:
                for found in await client.list_by_labels(kind, "n", ""):
                    assert isinstance(found, kind)
            except errors:
                refused += 1
        for one in events:
            queue[:] = [json.dumps(sound).encode(), one + b"\n"]
            try:
                async with aclosing(client.list_and_watch(kind, "n")) as changes:
                    async for _ in changes:
                        pass
            except errors:
                refused += 1
        obj = decode_as(kind, json.dumps(sound["items"][0]).encode())
        for number, one in enumerate(objects):
            queue[:] = [one]
            try:
                await (client.read(kind, "n", "app") if number % 2 else client.patch(obj, []))
            except errors:
                refused += 1
    tried = len(lists) + len(events) + len(objects)
    assert refused > tried // 3
    attacks.add("hostile answers of the API server", f"{tried} answers")
