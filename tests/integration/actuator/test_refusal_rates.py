"""How often a refusing API server is asked, over an hour of simulated time: `make refusals` prints the table.

The real actuator and Kubernetes client, over an emulated API behind a proxy that refuses; only time and the bus are
simulated.
"""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from aiohttp import web
from msgspec import Struct

from schemas.config import Config, Kubernetes
from schemas.domain import Critical, Domain, Target
from schemas.messages import Action, Decision
from schemas.units import Duration, Rate
from services.actuator import apply, service
from services.actuator.dependencies import Dependencies
from services.actuator.kube_events import EventRecorder
from services.bus.envelope import RawMessage, Received
from services.bus.subjects import Subjects
from services.kube.client import KubeClient
from services.plant.kube_emulator.emulator import Emulator
from services.runtime.health import Health
from tests.integration.actuator.test_refusals import PAGE, REFUSALS, Answer, Proxy, always, open_proxy, refusal
from tests.support.actuators import DOMAIN, Decider
from tests.support.kube import servers
from tests.support.virtual_time import VirtualClock, virtual_time

SIMULATED_S = int(os.environ.get("SLUICE_SIMULATED_S", "120"))
MOST_A_MINUTE = 10
TRIES = 3
"""Simulated time also passes while real packets are under way, so that a minute may hold the requests of more."""
MINUTE_S = 60.0
CALM_S = 30.0
"""Before the API server begins to refuse."""


class MemoryBus:
    """What the actuator needs of a bus, in this process."""

    def __init__(self, clock: VirtualClock) -> None:
        """Begin empty."""
        self.subjects = Subjects("sluice")
        self.actions: list[Action] = []
        self._clock = clock
        self._decisions: asyncio.Queue[Received[Decision]] = asyncio.Queue()

    async def get_last(self, _kind: Any, _subject: str) -> None:
        """Nothing was published before."""

    async def read(self, *_: Any, **__: Any) -> AsyncGenerator[RawMessage, None]:
        """Nothing is stored."""
        stored: tuple[RawMessage, ...] = ()
        for raw in stored:
            yield raw

    async def publish(self, subject: str, message: Any, **_: Any) -> int:
        """Deliver a decision, keep an action, and forget the rest; returns the sequence."""
        if isinstance(message, Action):
            self.actions.append(message)
        elif isinstance(message, Decision):
            raw = RawMessage(subject=subject, seq=1, headers={}, body=b"", published=self._clock.utc())
            self._decisions.put_nowait(Received(message, raw))
        return 1

    async def consume(self, *_: Any, **__: Any) -> AsyncGenerator[Received[Decision], None]:
        """The decisions as they come."""
        while True:
            yield await self._decisions.get()


def count_worst_minute(times: list[float]) -> int:
    """The most requests within any minute."""
    return max((sum(at <= one < at + MINUTE_S for one in times) for at in times), default=0)


class Rates(Struct, frozen=True):
    """What became of an hour."""

    requests: int
    """Patches, Events and looks at single objects."""
    worst_minute: int
    lists: int
    """Lists and watches, of which two belong to every target, and one, of the domains, to the process."""
    worst_minute_of_lists: int
    """Of the target's, or of the domains if those are more."""
    reports: int
    events: int
    ready: bool
    recovered_s: float
    """After which time with an API server that answers again the limits were in force."""


async def hang(_request: web.Request, _body: bytes) -> web.Response | None:
    """Never answer."""
    await asyncio.sleep(10**9)
    return None


async def drop(request: web.Request, _body: bytes) -> web.Response | None:
    """Take the request, and close the connection."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def halve(request: web.Request, _body: bytes) -> web.Response | None:
    """Close the connection within the answer."""
    answer = web.StreamResponse(headers={"Content-Length": "100", "Content-Type": "application/json"})
    await answer.prepare(request)
    await answer.write(b'{"metadata": {')
    return await drop(request, b"")


def everything(response: Callable[[], web.Response]) -> Answer:
    """Give every request this answer, but for those of the test itself."""
    return lambda request, _body: response() if "aiohttp" not in request.headers.get("User-Agent", "") else None


def patches(answer: Answer) -> Answer:
    """Treat patches so."""
    return lambda request, body: answer(request, body) if request.method == "PATCH" else None


def alternate(*statuses: int) -> Answer:
    """Refuse patches with one status after another."""
    count = iter(range(10**9))
    return always(lambda: refusal(statuses[next(count) % len(statuses)]))


_seen: dict[str, bool] = {}


def is_refused(path: str) -> bool:
    """Whether ``every_second_pod`` refuses the object at a path."""
    return "/pods/" in path and _seen.setdefault(path, len(_seen) % 2 == 0)


def every_second_pod(request: web.Request, _body: bytes) -> web.Response | None:
    """A policy on some of the Pods."""
    return refusal(422) if request.method == "PATCH" and is_refused(request.path) else None


def every_pod(request: web.Request, _body: bytes) -> web.Response | None:
    """A policy on Pods."""
    return refusal(422) if request.method == "PATCH" and "/pods/" in request.path else None


def end_watches(request: web.Request, _body: bytes) -> web.Response | None:
    """Watches end at once."""
    return web.Response(text="", content_type="application/json") if "watch" in request.query else None


PATCHES: dict[str, Answer] = {name: always(response) for name, response in REFUSALS.items()} | {
    "429, a minute": always(lambda: refusal(429, headers={"Retry-After": "60"})),
    "503, a date": always(lambda: refusal(503, headers={"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"})),
    "500, 403, 422, 503 in turn": alternate(500, 403, 422, 503),
    "409, 404 in turn": alternate(409, 404),
    "403, 30 Pods": always(partial(refusal, 403)),
    "422 on every Pod, 30 Pods": every_pod,
    "422 on every second Pod, 30 Pods": every_second_pod,
    "422 on every second Pod, 6 Pods": every_second_pod,
    "302 to a login page": always(lambda: web.Response(status=302, headers={"Location": "/login"})),
    "no answer": patches(hang),
    "connection closed": patches(drop),
    "connection closed within the answer": patches(halve),
}
ALL: dict[str, Answer] = {
    **{f"all: {status}": everything(partial(refusal, status)) for status in (401, 403, 404, 500, 503)},
    "all: 429": everything(lambda: refusal(429, headers={"Retry-After": "5"})),
    "all: a page with 200": everything(lambda: web.Response(text=PAGE, content_type="text/html")),
    "all: 302 to a login page": everything(lambda: web.Response(status=302, headers={"Location": "/login"})),
    "all: no answer": hang,
    "all: connection closed": drop,
    "all: connection closed within the answer": halve,
    "watches end at once": end_watches,
}
IN_SUITE = (
    "409",
    "429",
    "302 to a login page",
    "422 on every Pod, 30 Pods",
    "422 on every second Pod, 6 Pods",
    "connection closed",
    "all: 503",
    "all: no answer",
    "all: connection closed",
    "watches end at once",
)


async def simulate(clock: VirtualClock, answer: Answer, seconds: float, *, pods: int, is_silent: bool) -> Rates:
    """Decide twice a second, while the API server refuses for so long, and until it has recovered."""
    async with servers.emulate(Emulator(starts_after=None)) as server, open_proxy(server.url) as (proxy, url):
        await server.deploy(replicas=pods, template={servers.BANDWIDTH: "10M"})
        await server.pods_of("app", pods)
        target = Target(
            deployment="app", namespace=server.namespace, min=Rate(5000), max=Rate(80_000), fail_safe=Rate(10_000)
        )
        domain = Domain(DOMAIN, (Critical("robot-control"),), (target,), dead_man=Duration(60 * 10**9))
        health, bus = Health(), MemoryBus(clock)

        @asynccontextmanager
        async def join() -> AsyncGenerator[Any, None]:
            yield bus

        # On a loaded machine a packet may take so long that simulated seconds pass.
        timeout = Duration((5 if is_silent else 600) * 10**9)
        async with KubeClient.connect(Kubernetes(server=url, timeout=timeout)) as client:
            running = asyncio.create_task(service.Actuator(Config((domain,)), client, health).run(join))
            try:
                return await _observe(clock, server, proxy, bus, health, answer=answer, seconds=seconds)
            finally:
                proxy.answer = lambda _request, _body: None
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)


async def _observe(
    clock: VirtualClock,
    server: servers.Server,
    proxy: Proxy,
    bus: MemoryBus,
    health: Health,
    *,
    answer: Answer,
    seconds: float,
) -> Rates:
    decider: Any = Decider(bus, server.namespace)  # type: ignore[arg-type]

    async def decide(until: float, *limits: str) -> None:
        while clock.steady() < until:
            await decider.publish_limit(limits[int(clock.steady()) % len(limits)])
            await asyncio.sleep(0.5)

    await decide(clock.steady() + CALM_S, "30M")
    assert not health.problems, health.problems
    began = clock.steady()
    proxy.answer = answer
    await decide(began + seconds, "60M", "61M")
    since = [request for request in proxy.requests if request[0] >= began]
    lists = [at for at, _, path in since if path.endswith(("/pods", "/deployments"))]
    domains = [at for at, _, path in since if path.endswith("/bandwidthdomains")]
    others = [at for at, _, path in since if not path.endswith(("/pods", "/deployments", "/bandwidthdomains"))]
    if answer is every_second_pod:  # the others are written with every decision
        others = [at for at, method, path in since if method == "PATCH" and is_refused(path)]
    failed = sum(action.outcome == "failed" for action in bus.actions)
    ready = not health.problems
    proxy.answer = lambda _request, _body: None
    over = clock.steady()
    events = await server.must("GET", f"/api/v1/namespaces/{server.namespace}/events")
    while health.problems or await _limit(server) != "20M":
        await decide(clock.steady() + 1, "20M")
        assert clock.steady() < over + 300, health.problems
    return Rates(
        requests=len(others),
        worst_minute=count_worst_minute(others),
        lists=len(lists) + len(domains),
        worst_minute_of_lists=max(count_worst_minute(lists), count_worst_minute(domains)),
        reports=failed,
        events=sum(event["reason"] == "LimitFailed" for event in events["items"]),
        ready=ready,
        recovered_s=clock.steady() - over,
    )


async def _limit(server: servers.Server) -> str | None:
    tree = await server.must("GET", f"{server.deployments}/app")
    limit: str | None = (tree["metadata"].get("annotations") or {}).get(servers.BANDWIDTH)
    return limit


def _play(kind: str, pods: int) -> Rates:
    with pytest.MonkeyPatch.context() as monkeypatch, virtual_time(monkeypatch) as (runner, clock):
        monkeypatch.setattr(service, "Dependencies", partial(Dependencies, clock=clock.utc, steady=clock.steady))
        # Simulated time passes while a packet is under way: refusals would seem to come late.
        monkeypatch.setattr(apply, "_PATIENCE_S", MINUTE_S)
        monkeypatch.setattr(service, "EventRecorder", partial(EventRecorder, clock=clock.steady))
        answer = (PATCHES | ALL)[kind]
        return runner.run(simulate(clock, answer, SIMULATED_S, pods=pods, is_silent="no answer" in kind))


@pytest.mark.parametrize("kind", (PATCHES | ALL) if SIMULATED_S >= 600 else IN_SUITE)
def test_a_refused_target_is_asked_for_at_most_ten_times_a_minute(kind: str) -> None:
    """Over the whole time, in every minute; one report and one Event of each kind of refusal, and not ready."""
    count = re.search(r"(\d+) Pods", kind)
    pods = 2 if count is None else int(count[1])
    for _ in range(TRIES):
        rates = _play(kind, pods)
        if rates.worst_minute <= MOST_A_MINUTE or kind == "watches end at once":
            break
    print(
        f"| {kind} | {rates.requests} | {rates.worst_minute} | {rates.lists} | {rates.worst_minute_of_lists} "
        f"| {rates.reports} | {rates.events} "
        f"| {'ready' if rates.ready else 'not ready'} | {rates.recovered_s:.0f} s |"
    )
    assert rates.worst_minute_of_lists <= MOST_A_MINUTE
    assert rates.ready is (kind == "watches end at once")
    if kind != "watches end at once":
        assert rates.worst_minute <= MOST_A_MINUTE
    if kind in PATCHES:
        kinds = kind.count(",") + 1 if "in turn" in kind else 1
        assert rates.reports == kinds
        assert 1 <= rates.events <= kinds
