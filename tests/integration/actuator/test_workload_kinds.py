"""A new workload kind needs one class.  Everything between the watch and the patch works on it."""

import asyncio
import time
from typing import ClassVar

import pytest

from schemas.domain import Critical, Domain
from schemas.messages import Action, Decision, State, TargetDecision
from services.actuator.informer import Informer
from services.actuator.kube_events import EventRecorder
from services.actuator.outbox import ActionOutbox, PendingAck
from services.actuator.ownership import resume_command
from services.actuator.reconciler import Dependencies, Reconciler
from services.actuator.restore import restore
from services.kube.client import KubeClient
from services.kube.objects import BANDWIDTH, WORKLOADS, Workload
from tests.support.kube.objects import TARGET
from tests.support.kube.servers import Server, eventually

S = 10**9


class StatefulSet(Workload, frozen=True):
    """A kind that creates its own Pods."""

    kind: ClassVar[str] = "StatefulSet"
    api_version: ClassVar[str] = "apps/v1"
    plural: ClassVar[str] = "statefulsets"


@pytest.mark.parametrize("server", [pytest.param("apiserver", marks=pytest.mark.apiserver)], indirect=True)
async def test_a_stateful_set_is_limited_and_restored(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decision reaches it and its Pods, with an Event and a report; restore puts everything back."""
    monkeypatch.setitem(WORKLOADS, "deployment", StatefulSet)
    spec = {
        "replicas": 2,
        "serviceName": "app",
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": {"app": "app"}},
        "template": {
            "metadata": {"labels": {"app": "app"}},
            "spec": {"containers": [{"name": "app", "image": "app:1"}]},
        },
    }
    body = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "app"}, "spec": spec}
    await server.must("POST", StatefulSet.path(server.namespace), body)
    await server.pods_of("app", 2)
    target = type(TARGET)(
        deployment="app", namespace=server.namespace, min=TARGET.min, max=TARGET.max, fail_safe=TARGET.fail_safe
    )
    actions: list[Action] = []

    async def publish(action: Action, headers: object) -> None:
        actions.append(action)

    async def stand_at(limit: str | None, share: str | None) -> bool:
        trees = [await server.must("GET", StatefulSet.path(server.namespace, "app")), *await server.pods_of("app", 2)]
        values = [(tree["metadata"].get("annotations") or {}).get(BANDWIDTH) for tree in trees]
        return values == [limit, share, share]

    async with KubeClient.connect(server.config) as client:
        outbox, events = ActionOutbox(), EventRecorder(client)
        shared = Dependencies(
            client=client,
            outbox=outbox,
            events=events,
            set_note=lambda _target, _text: None,
            set_condition=lambda _what, _reason: None,
            process="me",
        )
        domain = Domain("line", (Critical("robot-control"),), (target,))
        reconciler = Reconciler(domain, target, shared)
        informer = Informer(
            client, StatefulSet, server.namespace, {"app": reconciler.observed}, lambda _key, _trouble: None
        )
        running = [asyncio.create_task(one) for one in (informer.run(), reconciler.run(), events.run())]
        running.append(asyncio.create_task(outbox.run(publish)))
        reconciler.offer(*decide(target.key, 60_000))
        reconciler.resume(None)
        await eventually(lambda: stand_at("60M", "30M"))

        async def applied() -> bool:
            return any(action.outcome == "applied" and len(action.pods) == 2 for action in actions)

        await eventually(applied)

        async def has_event() -> bool:
            found = await server.must("GET", f"/api/v1/namespaces/{server.namespace}/events")
            about = [one["involvedObject"] for one in found["items"] if one["reason"] == "LimitRaised"]
            return [(one["kind"], one["name"]) for one in about] == [("StatefulSet", "app")]

        await eventually(has_event)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        workload = await client.read(StatefulSet, server.namespace, "app")
        assert resume_command(workload).startswith(f"kubectl -n {server.namespace} annotate statefulset app ")
        results = await restore(client, target, dry_run=False)
    assert [one.outcome for one in results] == ["applied"] * 3
    assert await stand_at(None, None)


def decide(target: str, limit: int) -> tuple[Decision, TargetDecision, int, PendingAck]:
    """A decision on one target, as the actuator receives it."""
    end = time.time_ns()
    part = TargetDecision(target=target, limit=limit, proposal=limit, rule="none", was=0)
    decision = Decision(
        domain="line",
        sample=f"line:{end}",
        end=end,
        expires=end + 60 * S,
        targets=(part,),
        reason="set by the test",
        state=State(1, 1, end, {}, "test/1"),
        policy="test/1",
        stress=0.5,
    )

    async def acknowledge() -> None:
        pass

    return decision, part, end, PendingAck(acknowledge, {}, 1)
