"""A slow API server: which patches are still sent after the decision expired or a newer one arrived."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec import Struct

from schemas.config import Kubernetes
from schemas.domain import Critical, Domain, Shield
from schemas.messages import Action, Decision, State, TargetDecision
from schemas.units import Duration
from services.actuator.dependencies import Dependencies
from services.actuator.kube_events import EventRecorder
from services.actuator.outbox import ActionOutbox, PendingAck
from services.actuator.ownership import find_record
from services.actuator.reconciler import Reconciler
from services.kube.changes import Listed
from services.kube.client import KubeClient
from services.kube.objects import BANDWIDTH, Deployment, KubeObject, Pod
from tests.support.kube.objects import NOW, TARGET, after, deployment, pod
from tests.support.waiting import until

S = 10**9
PODS = 40
AT_ONCE = 12
"""The actuator's limit on patches in flight."""


class SlowApi:
    """An API server that answers patches only on request."""

    def __init__(self, *objects: KubeObject) -> None:
        """Store these objects."""
        self.objects = {obj.metadata.name: obj for obj in objects}
        self.patches: list[tuple[str, str]] = []
        """The object and the bandwidth of every patch, in order of arrival."""
        self.go = asyncio.Event()

    async def patch(self, request: web.Request) -> web.Response:
        """Receive a JSON Patch, and answer late."""
        name = request.match_info["name"]
        operations: list[dict[str, Any]] = json.loads(await request.read())
        changed = after(self.objects[name], operations)
        self.patches.append((name, changed.annotations[BANDWIDTH]))
        await self.go.wait()
        self.objects[name] = changed
        return web.Response(body=msgspec.json.encode(changed), content_type="application/json")

    def has_limits(self, limit: str, share: str) -> bool:
        """Whether Deployment and Pods have these values."""
        found = {name: obj.bandwidth for name, obj in self.objects.items()}
        return found.pop("app") == limit and set(found.values()) == {share}


class Bench(Struct):
    """One target's reconciler on a slow API server, with clocks that the test moves."""

    api: SlowApi
    reconciler: Reconciler
    outbox: ActionOutbox
    actions: list[Action]
    causes: list[tuple[str | None, str | None]]
    """For each report, the decision that it names, and the decision whose headers it has."""
    acknowledged: list[int]
    passed: list[int]
    """Seconds that have passed."""
    running: list[asyncio.Task[None]]

    async def publish(self, action: Action, headers: Any) -> None:
        """Receive a report, as the bus would."""
        self.actions.append(action)
        self.causes.append((action.decision, headers.get("of")))

    def decide(self, number: int, limit: int) -> None:
        """Offer a decision; a higher number is newer."""
        end = NOW + number
        part = TargetDecision(target=TARGET.key, limit=limit, proposal=limit, rule="none", was=0)
        state = State(1, number, end, {}, "test/1")
        decision = Decision(
            domain="line",
            sample=f"line:{end}",
            end=end,
            expires=NOW + 3 * S,
            targets=(part,),
            reason="as decided",
            state=state,
            policy="test/1",
            stress=0.5,
        )

        async def acknowledge() -> None:
            self.acknowledged.append(number)

        self.reconciler.offer(decision, part, end, PendingAck(acknowledge, {"of": decision.id}, 1))

    async def begin(self, limit: int) -> None:
        """Start with a decision, and wait until the maximum number of its patches is in flight."""
        self.decide(1, limit)
        self.running += [asyncio.create_task(self.reconciler.run()), asyncio.create_task(self.outbox.run(self.publish))]
        await until(lambda: len(self.api.patches) == AT_ONCE)

    def list_reported(self) -> set[str]:
        """The Pods that reports name as patched."""
        return {one.pod for action in self.actions for one in action.pods if one.outcome == "applied"}


@pytest.fixture
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Forty Pods at 500k each, 20M together, unless a test requests another value."""
    each = getattr(request, "param", "500k")
    main, pods = deployment("20M", replicas=PODS), [pod(number, each) for number in range(PODS)]
    api, passed = SlowApi(main, *pods), [0]
    app = web.Application()
    app.router.add_patch("/apis/apps/v1/namespaces/default/deployments/{name}", api.patch)
    app.router.add_patch("/api/v1/namespaces/default/pods/{name}", api.patch)
    async with (
        TestServer(app) as server,
        KubeClient.connect(Kubernetes(server=str(server.make_url("/")), timeout=Duration(60 * S))) as client,
    ):
        outbox = ActionOutbox()
        critical, at_once = (Critical("robot-control"),), Shield(rise_per_second=1.0)
        domain = Domain("line", critical, (TARGET,), shield=at_once, dead_man=Duration(3 * S))
        shared = Dependencies(
            client=client,
            outbox=outbox,
            events=EventRecorder(client),
            set_note=lambda _target, _text: None,
            set_condition=lambda _what, _reason: None,
            process="me",
            clock=lambda: NOW + passed[0] * S,
            steady=lambda: float(passed[0]),
        )
        it = Bench(api, Reconciler(domain, TARGET, shared), outbox, [], [], [], passed, [])
        it.reconciler.observed.observe(Deployment, Listed((main,)))
        it.reconciler.observed.observe(Pod, Listed(tuple(pods)))
        it.reconciler.resume(None)
        yield it
        api.go.set()
        for task in it.running:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_nothing_of_a_decision_is_sent_after_it_expired(bench: Bench) -> None:
    """It expires during its raises: the rest stays, raised Pods fall to the fail-safe limit, and all is reported."""
    await bench.begin(60_000)
    bench.passed[0] = 3
    bench.api.go.set()
    await until(lambda: bench.api.has_limits("10M", "250k"))
    first, rest = bench.api.patches[:AT_ONCE], bench.api.patches[AT_ONCE:]
    assert {value for _, value in first} == {"60M", "1500k"}
    assert {value for _, value in rest} == {"10M", "250k"}
    await until(lambda: bench.acknowledged == [1] and len(bench.list_reported()) == PODS)
    raised = next(action for action in bench.actions if action.decision is not None)
    assert {one.pod for one in raised.pods} == {name for name, _ in first} - {"app"}
    assert [action.cause for action in bench.actions if action.outcome == "skipped"] == ["decision"]


@pytest.mark.parametrize("before", [60_000, 12_000])
async def test_a_cut_waits_for_no_more_than_what_is_under_way(bench: Bench, before: int) -> None:
    """This holds whether raises or shallower cuts are in flight."""
    await bench.begin(before)
    bench.decide(2, 10_000)
    bench.api.go.set()
    await until(lambda: bench.acknowledged == [1, 2])
    assert bench.api.has_limits("10M", "250k")
    assert {value for _, value in bench.api.patches[AT_ONCE:]} == {"10M", "250k"}
    assert len(bench.causes) == 2
    assert all(named == carried is not None for named, carried in bench.causes)
    assert bench.list_reported() == {f"app-1-{number}" for number in range(PODS)}


async def test_cut_after_cut_reaches_every_pod(bench: Bench) -> None:
    """Pods that no cut has reached yet come first."""
    await bench.begin(12_000)
    bench.decide(2, 10_000)
    bench.api.go.set()
    await until(lambda: bench.acknowledged == [1, 2])
    first, second = bench.api.patches[:AT_ONCE], bench.api.patches[AT_ONCE : 2 * AT_ONCE]
    assert {name for name, _ in first} & {name for name, _ in second} <= {"app"}


async def test_a_cut_is_not_restarted_by_a_decision_that_goes_no_deeper(bench: Bench) -> None:
    """Otherwise, with a decision a second, a slow API server would never reach the last Pod."""
    await bench.begin(10_000)
    bench.decide(2, 10_000)
    bench.api.go.set()
    await until(lambda: bench.acknowledged == [1, 2])
    # Each object once; requests in flight at the same time arrive in any order.
    assert sorted(bench.api.patches) == [("app", "10M"), *sorted((f"app-1-{number}", "250k") for number in range(PODS))]
    records = [find_record(obj) for obj in bench.api.objects.values() if isinstance(obj, Pod | Deployment)]
    assert {one.end for one in records if one is not None} == {NOW + 1}


@pytest.mark.parametrize("bench", ["2M"], indirect=True)
async def test_a_report_shows_that_the_deployment_still_waits(bench: Bench) -> None:
    """If a newer order arrives after the Pods were cut and before the Deployment is raised, the report shows it."""
    await bench.begin(30_000)
    bench.decide(2, 24_000)
    bench.api.go.set()
    await until(lambda: bench.acknowledged == [1, 2])
    (first, *_, last) = [action for action in bench.actions if action.outcome == "applied"]
    assert (first.limit, first.was, first.reason) == (30_000, 20_000, "as decided; Pods only so far")
    assert (last.limit, last.reason) == (24_000, "as decided")


async def test_a_decision_waits_for_no_correction(bench: Bench) -> None:
    """Even after a long fight over drift, its raises are sent at once, without any wait."""
    for _ in range(10):
        bench.reconciler._drift.count(0.0)
    await bench.begin(60_000)
