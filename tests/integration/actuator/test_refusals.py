"""An API server that refuses in every way: few requests, one report, not ready, and recovery afterwards."""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from schemas.config import Kubernetes
from services.plant.kube_emulator.emulator import Emulator
from tests.support.actuators import ActuatorProcess, Decider, Scene
from tests.support.decision_services import join
from tests.support.kube import servers
from tests.support.kube.servers import BANDWIDTH, Server, eventually
from tests.support.nats_server import NatsServer

WATCHED_S = 8
"""How long requests are counted."""
PAGE = "<html><body>Sign in</body></html>"
Answer = Callable[[web.Request, bytes], web.Response | Awaitable[web.Response | None] | None]
"""What a proxy answers by itself; None: what the server behind it answers."""


class Proxy:
    """A load balancer in front of an API server, with answers of its own."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        """Pass everything on to ``url``."""
        self._url, self._session = url, session
        self.answer: Answer = lambda _request, _body: None
        self.stamp: dict[str, Any] | None = None
        """What a webhook puts on every object that is patched."""
        self.requests: list[tuple[float, str, str]] = []
        """When, by what method, at what path."""

    def count(self, *methods: str, since: float = 0.0) -> int:
        """The number of requests, in the first ``WATCHED_S`` after ``since`` if that is given."""
        until = since + WATCHED_S if since else math.inf
        return sum(method in methods and since <= at < until for at, method, _ in self.requests)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer, or forward."""
        body = await request.read()
        is_watch = "watch" in request.query
        self.requests.append((time.monotonic(), "WATCH" if is_watch else request.method, request.path))
        own = self.answer(request, body)
        if isinstance(own, Awaitable):
            own = await own
        if own is not None:
            return own
        if request.method == "PATCH" and self.stamp is not None:
            number = {"company.example/count": str(len(self.requests))}
            stamp = {"metadata": {**self.stamp, "annotations": self.stamp["annotations"] | number}}
            merge = {"Content-Type": servers.MERGE_PATCH}
            await self._session.patch(f"{self._url}{request.path}", data=json.dumps(stamp), headers=merge)
        headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}
        url = f"{self._url}{request.path_qs}"
        async with self._session.request(request.method, url, data=body or None, headers=headers) as there:
            passed = web.StreamResponse(status=there.status, headers={"Content-Type": there.content_type})
            await passed.prepare(request)
            async for chunk in there.content.iter_any():
                await passed.write(chunk)
            return passed


@asynccontextmanager
async def open_proxy(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the API server at ``url``, and its address."""
    async with aiohttp.ClientSession() as session:
        proxy = Proxy(url, session)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        async with TestServer(app) as server:
            yield proxy, str(server.make_url("/")).rstrip("/")


class Refusing:
    """A scene behind a proxy, with an actuator."""

    def __init__(self, scene: Scene, proxy: Proxy, process: ActuatorProcess, decider: Decider) -> None:
        """Hold the parts."""
        self.scene, self.proxy, self.process, self.decider = scene, proxy, process, decider

    async def decide(self, seconds: float, *limits: str) -> None:
        """Decide twice a second."""
        deadline, number = time.monotonic() + seconds, 0
        while time.monotonic() < deadline:
            await self.decider.publish_limit(limits[number % len(limits)])
            number += 1
            await asyncio.sleep(0.5)

    async def reports_failures(self) -> bool:
        """Whether the actuator is not ready, because of patches."""
        ready, page = self.process.ready()
        return not ready and any("patches fail" in reason for reason in page["wrong"].values())

    async def failure_events(self) -> list[str] | None:
        """The types of the Events that name a failure; None if there are none yet."""
        events = await self.scene.server.must("GET", f"/api/v1/namespaces/{self.scene.server.namespace}/events")
        return [event["type"] for event in events["items"] if event["reason"] == "LimitFailed"] or None


@pytest.fixture
async def refusing(nats: NatsServer, tmp_path: Path) -> AsyncIterator[Refusing]:
    """A Deployment with two Pods at 30M each, an actuator that is ready, and a proxy that may refuse."""
    async with (
        servers.emulate(Emulator(starts_after=None)) as server,
        join(nats.url, "sluice") as bus,
        open_proxy(server.url) as (proxy, url),
    ):
        await server.deploy(replicas=2, template={BANDWIDTH: "10M"})
        await server.pods_of("app", 2)
        behind = Server("emulator", Kubernetes(server=url), server._session, url, ssl=None)
        behind.namespace = server.namespace
        scene, decider = Scene(server, bus), Decider(bus, server.namespace)
        with ActuatorProcess(tmp_path, nats.url, behind) as process:
            await process.is_ready()
            await decider.publish_limit("30M")
            await scene.wait_for_limits("30M", ["15M"] * 2)
            yield Refusing(scene, proxy, process, decider)


def refusal(status: int, text: str = "no", headers: dict[str, str] | None = None) -> web.Response:
    """A Status of the API."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": text, "reason": "No", "code": status}
    return web.json_response(body, status=status, headers=headers)


def always(response: Callable[[], web.Response]) -> Answer:
    """Give every patch this answer."""
    return lambda request, _body: response() if request.method == "PATCH" else None


REFUSALS: dict[str, Callable[[], web.Response]] = {
    **{str(status): partial(refusal, status) for status in (400, 401, 403, 404, 409, 422, 500, 503)},
    "429": lambda: refusal(429, headers={"Retry-After": "5"}),
    "a page": lambda: web.Response(text=PAGE, content_type="text/html"),
    "null": lambda: web.Response(text="null", content_type="application/json"),
    "a list": lambda: web.Response(text="[]", content_type="application/json"),
    "nothing": lambda: web.Response(text="", content_type="application/json"),
    "no UTF-8": lambda: web.Response(body=b'{"metadata": {"name": "\xff"}}', content_type="application/json"),
    "deep": lambda: web.Response(text="[" * 100_000, content_type="application/json"),
}


@pytest.mark.parametrize("kind", REFUSALS)
async def test_patches_that_are_refused(refusing: Refusing, kind: str) -> None:
    """Few requests while decisions continue, one report, not ready; cuts and everything else work afterwards."""
    one = refusing
    one.proxy.answer = always(REFUSALS[kind])
    began = time.monotonic()
    await one.decide(WATCHED_S, "60M", "61M")
    requests = one.proxy.count("PATCH", "GET", since=began)
    assert requests <= 9, "ten a minute at most, Events included"
    await eventually(one.reports_failures)
    failed, events = await one.scene.wait_for_reports(outcome="failed"), await eventually(one.failure_events)
    assert len(failed) <= 1 + (time.monotonic() - began) // 10, "one in ten seconds"
    assert set(events) == {"Warning"}
    assert len(events) <= len(failed)
    one.proxy.answer = lambda _request, _body: None
    await one.decider.publish_limit("20M")
    await one.scene.wait_for_limits("20M", ["10M"] * 2)
    await one.process.is_ready()


async def test_a_policy_that_denies_high_limits_of_pods(refusing: Refusing) -> None:
    """The Deployment accepts 60M, no Pod accepts 30M; a lower limit passes."""
    one = refusing

    def deny(request: web.Request, body: bytes) -> web.Response | None:
        return refusal(422) if request.method == "PATCH" and "/pods/" in request.path and b'"30M"' in body else None

    one.proxy.answer = deny
    began = time.monotonic()
    await one.decide(WATCHED_S, "60M")
    assert one.proxy.count("PATCH", "GET", since=began) <= 10
    await eventually(one.reports_failures)
    await one.decider.publish_limit("12M")
    await one.scene.wait_for_limits("12M", ["6M"] * 2)
    await one.process.is_ready()


async def test_webhooks_that_stamp_every_update(refusing: Refusing) -> None:
    """Others' annotations and labels that come with each patch stop nothing, and stay."""
    one = refusing
    one.proxy.stamp = {"annotations": {"company.example/touched-by": "me"}, "labels": {"company.example/seen": "yes"}}
    for limit, share in (("60M", "30M"), ("20M", "10M"), ("50M", "25M")):
        await one.decider.publish_limit(limit)
        await one.scene.wait_for_limits(limit, [share] * 2)
    await one.process.is_ready()
    assert one.proxy.count("PATCH") < 25
    assert not [action for action in await one.scene.actions() if action.outcome == "failed"]
    tree = await one.scene.server.must("GET", f"{one.scene.server.deployments}/app")
    assert tree["metadata"]["annotations"]["company.example/touched-by"] == "me"


def watch_of(text: str) -> Answer:
    """Give every watch this answer."""
    return lambda request, _body: (
        web.Response(text=text, content_type="application/json") if "watch" in request.query else None
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null\n",
        PAGE,
        '{"type": "MODIFIED", "object": null}\n',
        '{"type": "MODIFIED", "object": {"kind": "Pod"}}\n',
        '{"type": "ERROR", "object": {"kind": "Status", "code": 500}}\n',
        '{"type": "ERROR", "object": {"kind": "Status", "code": 410}}\n',
    ],
)
async def test_invalid_watches(nats: NatsServer, tmp_path: Path, text: str) -> None:
    """Watches that end at once, or are no watches, are restarted with delays; the actuator does not end."""
    async with (
        servers.emulate(Emulator(starts_after=None)) as server,
        join(nats.url, "sluice") as bus,
        open_proxy(server.url) as (proxy, url),
    ):
        await server.deploy(replicas=2)
        await server.pods_of("app", 2)
        proxy.answer = watch_of(text)
        behind = Server("emulator", Kubernetes(server=url), server._session, url, ssl=None)
        behind.namespace = server.namespace
        with ActuatorProcess(tmp_path, nats.url, behind) as process:
            await Scene(server, bus).wait_for_limits("10M", ["5M"] * 2)
            await asyncio.sleep(WATCHED_S)
            assert proxy.count("WATCH", "GET", since=proxy.requests[0][0]) <= 26, proxy.requests
            assert "http" not in process.ready()[1]["wrong"], process.log
            proxy.answer = lambda _request, _body: None
            await Decider(bus, server.namespace).publish_limit("20M")
            await Scene(server, bus).wait_for_limits("20M", ["10M"] * 2)


@pytest.mark.parametrize("text", ["null", "[]", PAGE, '{"kind": "PodList"}', '{"metadata": {}, "items": [null, 3]}'])
async def test_invalid_lists(nats: NatsServer, tmp_path: Path, text: str) -> None:
    """An actuator that starts behind a sign-in page waits, and works when the page is gone."""
    async with (
        servers.emulate(Emulator(starts_after=None)) as server,
        join(nats.url, "sluice") as bus,
        open_proxy(server.url) as (proxy, url),
    ):
        await server.deploy(replicas=2)
        await server.pods_of("app", 2)
        proxy.answer = lambda request, _body: web.Response(text=text) if request.method == "GET" else None
        behind = Server("emulator", Kubernetes(server=url), server._session, url, ssl=None)
        behind.namespace = server.namespace
        with ActuatorProcess(tmp_path, nats.url, behind) as process:

            async def says_why() -> bool:
                return "not what was asked for" in str(process.ready()[1]) or "no Deployment" in str(process.ready()[1])

            await eventually(says_why)
            proxy.answer = lambda _request, _body: None
            await Scene(server, bus).wait_for_limits("10M", ["5M"] * 2)
            await process.is_ready()
