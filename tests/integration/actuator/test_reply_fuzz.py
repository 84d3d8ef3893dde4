"""Replies of an API server, whole and damaged: the client reads what they say, or fails as it promises."""

import asyncio
import gzip
import json
import os
import resource
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from random import Random
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from schemas.config import Kubernetes
from schemas.units import Duration
from services.kube.changes import Listed
from services.kube.client import KubeClient
from services.kube.objects import ApiFailure, Deployment, KubeObject, Pod, Unavailable
from tests.support.kube.servers import BANDWIDTH
from tests.support.waiting import PATIENCE_S

EXAMPLES = int(os.environ.get("SLUICE_FUZZ_EXAMPLES", "400"))
GROWTH_KIB = 64 * 1024
STRANGE: tuple[Any, ...] = (
    None,
    0,
    -1,
    1.5,
    "",
    "x",
    [],
    {},
    [None],
    {"a": 1},
    True,
    "9" * 50,
    [[]],
    {"annotations": []},
)
KINDS = ("read", "patch", "list", "watch")


def write_object(chance: Random, kind: type[KubeObject]) -> dict[str, Any]:
    """A Deployment or a Pod with limits in every notation."""
    annotations = {BANDWIDTH: chance.choice(("5M", "5000k", "1G", "banana", "", "6e6")), "team": "x"}
    meta: dict[str, Any] = {
        "name": f"app-{chance.randrange(9)}",
        "namespace": "n",
        "uid": str(chance.random()),
        "resourceVersion": "7",
    }
    tree: dict[str, Any] = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta}
    if chance.random() < 0.8:
        meta["annotations"] = annotations
    if chance.random() < 0.3:
        meta |= {"managedFields": [{"manager": "x", "fieldsV1": {"f:metadata": {}}}], "labels": {"app": "a\u00fc"}}
    if kind is Deployment:
        tree["spec"] = {"replicas": chance.randrange(5), "selector": {"matchLabels": {"app": "app"}}, "template": {}}
    else:
        tree |= {"spec": {"containers": [{"name": "a"}]}, "status": {"phase": chance.choice(("Running", "Pending"))}}
    return tree


def write_reply(chance: Random, kind: str) -> list[Any]:
    """The documents of a reply: one, or the events of a watch."""
    if kind in ("read", "patch"):
        return [write_object(chance, Deployment)]
    pods = [write_object(chance, Pod) for _ in range(chance.randrange(4))]
    if kind == "list":
        return [{"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": pods}]
    types = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK")
    return [{"type": chance.choice(types), "object": pod} for pod in pods]


def damage(chance: Random, documents: list[Any]) -> bytes:
    """The bytes of a reply, perhaps damaged: in its JSON, or in its bytes."""
    if documents and chance.random() < 0.4:
        place = chance.choice(documents)
        for _ in range(chance.randrange(5)):
            inner = [
                one for one in (place.values() if isinstance(place, dict) else place) if isinstance(one, dict | list)
            ]
            place = chance.choice(inner) if inner else place
        if isinstance(place, dict) and place:
            place[chance.choice(list(place))] = chance.choice(STRANGE)
        elif isinstance(place, list) and place:
            place[chance.randrange(len(place))] = chance.choice(STRANGE)
    text = "\n".join(json.dumps(document) for document in documents).encode() + b"\n"
    if chance.random() < 0.3:
        at = chance.randrange(len(text))
        junk = bytes(chance.randrange(256) for _ in range(chance.randrange(4)))
        text = text[:at] + junk + (b"" if chance.random() < 0.3 else text[at + chance.randrange(4) :])
    if chance.random() < 0.05:
        text = chance.choice(
            (b"", b"null", b"[]", b"<html>", b"\xff", b"[" * 9000, b'{"metadata":' * 9000, b"{}\n" * 9)
        )
    return text


class Replier:
    """An API server that gives one reply to everything."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.answer: Callable[[web.Request], web.StreamResponse] = lambda _: web.Response()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer."""
        await request.read()
        return self.answer(request)


@asynccontextmanager
async def open_client() -> AsyncIterator[tuple[Replier, KubeClient]]:
    """A client of such a server."""
    replier = Replier()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", replier.handle)
    async with TestServer(app) as server:
        url = str(server.make_url("/")).rstrip("/")
        async with KubeClient.connect(Kubernetes(server=url, timeout=Duration(10**10))) as client:
            yield replier, client


async def ask(client: KubeClient, kind: str, seen: Deployment) -> list[KubeObject]:
    """The objects that the client reads in a reply."""
    if kind == "read":
        return [await client.read(Deployment, "n", "app")]
    if kind == "patch":
        return [await client.patch(seen, [])]
    if kind == "list":
        return list(await client.list_by_labels(Pod, "n", "app=app"))
    found: list[KubeObject] = []
    async with aclosing(client.list_and_watch(Pod, "n")) as changes:
        async for change in changes:
            found += () if isinstance(change, Listed) else [change.object]
            if len(found) == 3:
                break
    return found


def read_slowly(text: bytes, kind: str) -> list[tuple[Any, Any]] | None:
    """The uid and the bandwidth of each object in a reply; None where some part of it is no JSON."""
    lines = text.decode(errors="replace").split("\n") if kind == "watch" else [text.decode(errors="replace")]
    try:
        documents = [json.loads(line) for line in lines if line.strip()]
    except ValueError:
        return None
    if kind == "list":
        documents = documents[0]["items"] or []
    if kind == "watch":
        documents = [one["object"] for one in documents if one["type"] != "BOOKMARK"]
    metas = [one["metadata"] for one in documents]
    return [(meta["uid"], (meta.get("annotations") or {}).get(BANDWIDTH)) for meta in metas]


def answer_with(kind: str, text: bytes, status: int) -> Callable[[web.Request], web.StreamResponse]:
    """Give this reply; before a watch an empty list, and after it an error."""
    asked = 0

    def answer(request: web.Request) -> web.Response:
        nonlocal asked
        if kind == "watch" and "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
        asked += 1
        if asked > 1 and kind == "watch":
            return web.Response(status=500)
        return web.Response(body=text, status=status, content_type="application/json")

    return answer


async def test_no_reply_gives_a_wrong_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads, patches, lists and watches; statuses and bytes of every kind."""
    monkeypatch.setattr("services.kube.client._ENDED_S", (0.0, 0.0))
    chance, tally = Random(29), Counter[str]()
    known = msgspec.convert(write_object(chance, Deployment), type=Deployment)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with open_client() as (replier, client):
        for number in range(EXAMPLES):
            kind = KINDS[number % len(KINDS)]
            text, status = damage(chance, write_reply(chance, kind)), 200
            if chance.random() < 0.1:
                status = chance.choice((201, 301, 400, 401, 403, 404, 409, 410, 422, 429, 500, 503, 504))
            replier.answer = answer_with(kind, text, status)
            tally[await judge(client, kind, known, text, status=status)] += 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{EXAMPLES} replies: {dict(tally)}, wrong 0, crashes 0, memory grew by {grown} KiB")
    assert tally["right"] > EXAMPLES / 4
    assert tally["refused"] > EXAMPLES / 10
    assert grown < GROWTH_KIB


async def judge(client: KubeClient, kind: str, known: Deployment, text: bytes, *, status: int) -> str:
    """Ask, and compare with the slow reader."""
    found: list[KubeObject] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            found = await ask(client, kind, known)
    except ApiFailure:
        return "refused"
    if kind == "watch" and not found:
        return "nothing"
    assert status in (200, 201), (kind, text)
    expected = read_slowly(text, kind)
    if expected is None:
        # What is not looked at may be broken.
        assert all(one.uid.encode() in text for one in found), text
        return "right, and broken elsewhere"
    assert [(one.uid, one.bandwidth) for one in found] == expected[: len(found)], text
    return "right"


@pytest.mark.parametrize("packed", [False, True])
async def test_an_endless_reply_is_given_up(packed: bool) -> None:
    """A proxy that sends without end, or a megabyte that unpacks to a gigabyte: unavailable, with bounded memory."""
    body = gzip.compress(b" " * 80_000_000, 1) if packed else b" " * 40_000_000
    headers = {"Content-Encoding": "gzip"} if packed else {}
    async with open_client() as (replier, client):
        replier.answer = lambda _: web.Response(body=body, headers=headers, content_type="application/json")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(Unavailable, match="larger than"):
            await client.read(Deployment, "n", "app")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * GROWTH_KIB
